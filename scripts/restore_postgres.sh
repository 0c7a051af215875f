#!/usr/bin/env bash
# Restores a PostgreSQL database from a file that backup_postgres.sh has made. If there is a checksums.txt beside it, the checksum is verified first.
# A new database is made beside the old one, loaded and verified. Then it takes the name, and the old one is kept as
# NAME_pre_restore_TIMESTAMP. No repository is needed. Other options, such as --as NAME, --jobs N or --disconnect, go to `icecore restore`.
set -euo pipefail
usage="usage: restore_postgres.sh --dsn DSN --backup-file FILE [OPTION...]"
scripts=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

dsn="" file="" others=()
. "$scripts/find_icecore.sh"
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,4s/^# \{0,1\}//p' "$0"; echo "$usage"; exit 0 ;;
        --dsn | --backup-file) [ $# -ge 2 ] && [ -n "$2" ] || usage_error "$1 needs a value" ;;
        *) others+=("$1"); shift; continue ;;
    esac
    case $1 in
        --dsn) dsn=$2 ;;
        --backup-file) file=$2 ;;
    esac
    shift 2
done
[ -n "$dsn" ] || usage_error "--dsn is missing"
[ -n "$file" ] || usage_error "--backup-file is missing"
[ -f "$file" ] || { echo "error: $file: no such file; check the path; nothing was changed" >&2; exit 1; }

find_icecore
exec "$icecore" restore --from-file "$file" --dsn "$dsn" "${others[@]}"
