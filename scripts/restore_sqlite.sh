#!/usr/bin/env bash
# Restores the memory and the model registry from a directory that backup_sqlite.sh has made. If it has checksums, they are verified before
# anything is changed. The old files are kept as FILE.pre_restore.TIMESTAMP. No repository is needed.
set -euo pipefail
usage="usage: restore_sqlite.sh --backup-dir DIR [--memory-db FILE] [--registry-db FILE]"
scripts=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

memory="" registry="" from=""
. "$scripts/find_icecore.sh"
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,3s/^# \{0,1\}//p' "$0"; echo "$usage"; exit 0 ;;
        --memory-db | --registry-db | --backup-dir) [ $# -ge 2 ] && [ -n "$2" ] || usage_error "$1 needs a value" ;;
        *) usage_error "what is $1?" ;;
    esac
    case $1 in
        --memory-db) memory=$2 ;;
        --registry-db) registry=$2 ;;
        --backup-dir) from=$2 ;;
    esac
    shift 2
done
[ -n "$from" ] || usage_error "--backup-dir is missing"
targets=()
[ -z "$memory" ] || targets+=("memory.db=$memory")
[ -z "$registry" ] || targets+=("model_registry.db=$registry")
[ ${#targets[@]} -gt 0 ] || usage_error "--memory-db or --registry-db is missing"
[ -d "$from" ] || { echo "error: $from: no such directory; check the path" >&2; exit 1; }
for target in "${targets[@]}"; do
    mkdir -p -- "$(dirname -- "${target#*=}")"
done

find_icecore
exec "$icecore" restore --from-dir "$from" "${targets[@]}"
