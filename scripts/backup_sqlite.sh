#!/usr/bin/env bash
# Backs up the memory and the model registry, both at one instant, into a repository, and exports the snapshot to a directory:
# memory.db, model_registry.db, checksums.txt, manifest.json. The directory changes in one step, and only if everything succeeds.
#
# The repository is ICECORE_REPOSITORY, else `icecore-repository` beside the directory, made on first use. Its passphrase comes from
# ICECORE_PASSWORD, ICECORE_PASSWORD_FILE or ICECORE_PASSWORD_COMMAND, else from `icecore-repository.key` beside it, made on first use too.
set -euo pipefail
usage="usage: backup_sqlite.sh [--memory-db FILE] [--registry-db FILE] --out-dir DIR"
scripts=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

memory="" registry="" out=""
. "$scripts/find_icecore.sh"
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; echo "$usage"; exit 0 ;;
        --memory-db | --registry-db | --out-dir) [ $# -ge 2 ] && [ -n "$2" ] || usage_error "$1 needs a value" ;;
        *) usage_error "what is $1?" ;;
    esac
    case $1 in
        --memory-db) memory=$2 ;;
        --registry-db) registry=$2 ;;
        --out-dir) out=$2 ;;
    esac
    shift 2
done
[ -n "$out" ] || usage_error "--out-dir is missing"
databases=()
[ -z "$memory" ] || databases+=("memory.db=$memory")
[ -z "$registry" ] || databases+=("model_registry.db=$registry")
[ ${#databases[@]} -gt 0 ] || usage_error "--memory-db or --registry-db is missing"
for database in "${databases[@]}"; do
    [ -e "${database#*=}" ] || { echo "error: ${database#*=}: no such file; check the path; $out stays as it was" >&2; exit 1; }
done

find_icecore
prepare_repository "$out"
init_if_missing
backup_to "$out" backup sqlite "${databases[@]}"
