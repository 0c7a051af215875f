# A repository, and the file that a command writes out.
export ICECORE_REPOSITORY="$PWD/store" ICECORE_PASSWORD=correct-horse-battery
icecore init > /dev/null
echo 'dn: uid=ada' > users.ldif
