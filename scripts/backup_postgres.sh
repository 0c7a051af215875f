#!/usr/bin/env bash
# Backs up a PostgreSQL database into a repository, and exports the snapshot to a directory: DATABASE.pgdump (for pg_restore), schema.sql,
# globals.sql (roles and tablespaces), checksums.txt, manifest.json. The directory changes in one step, and only if everything succeeds.
#
# The exported files are not encrypted. So globals.sql has no password verifiers, unless --role-passwords is given. This option needs a superuser
# and an encrypted repository. All other options go to `icecore backup postgres`.
#
# The repository is ICECORE_REPOSITORY, else `icecore-repository` beside the directory, made on first use. Its passphrase comes from
# ICECORE_PASSWORD, ICECORE_PASSWORD_FILE or ICECORE_PASSWORD_COMMAND, else from `icecore-repository.key` beside it, made on first use too.
set -euo pipefail
usage="usage: backup_postgres.sh --dsn DSN --out-dir DIR [--role-passwords] [OPTION...]"
scripts=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

dsn="" out="" passwords=(--no-role-passwords) others=()
. "$scripts/find_icecore.sh"
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; echo "$usage"; exit 0 ;;
        --dsn | --out-dir) [ $# -ge 2 ] && [ -n "$2" ] || usage_error "$1 needs a value" ;;
        --role-passwords) passwords=(); shift; continue ;;
        *) others+=("$1"); shift; continue ;;
    esac
    case $1 in
        --dsn) dsn=$2 ;;
        --out-dir) out=$2 ;;
    esac
    shift 2
done
# Asks the server first, if there is a psql: a first backup of a server that does not answer must not leave an empty repository. `icecore` reports
# everything else that is wrong.
connect_first() {
    local repository=${ICECORE_REPOSITORY:-$(dirname -- "$out")/icecore-repository}
    if [ -e "$repository/config" ] || ! command -v psql >/dev/null; then
        return
    fi
    psql -X -q -w -c '' -d "$dsn" </dev/null >/dev/null || { echo "error: cannot connect to the server; nothing was made" >&2; exit 1; }
}

[ -n "$dsn" ] || usage_error "--dsn is missing"
[ -n "$out" ] || usage_error "--out-dir is missing"

connect_first
find_icecore
prepare_repository "$out"
init_if_missing
backup_to "$out" backup postgres --dsn "$dsn" "${passwords[@]}" "${others[@]}"
