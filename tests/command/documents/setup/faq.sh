# A repository with a snapshot, and a disk for its copy. Where rsync is not installed, `cp` stands in for it.
export ICECORE_REPOSITORY=/backups/store ICECORE_PASSWORD=correct-horse-battery
icecore init > /dev/null
echo 'dn: uid=ada' > users.ldif
icecore backup files users.ldif > /dev/null
mkdir -p /mnt/usb
command -v rsync > /dev/null || rsync() { cp -a "${@: -2:1}" "${@: -1}"; }
