#!/usr/bin/env bash
# The main job on a database of yours, or on a made-up one: a repository, a backup, a change, a second backup, both restored and compared.
#   bash scripts/quickstart.sh [FILE.db]
# Everything happens in a temporary directory; FILE.db is only read.
set -euo pipefail
cd "$(dirname "$0")/.."
given=${1:-}
[ -z "$given" ] || given=$(realpath "$given")

echo "Building icecore in target/release. The first time takes some minutes; cargo names each crate as it begins with it."
cargo build --release --locked --target-dir target --bin icecore --example demo_store
icecore=$PWD/target/release/icecore
demo=$PWD/target/release/examples/demo_store
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export ICECORE_REPOSITORY=$dir/repository ICECORE_CACHE_DIR=$dir/cache ICECORE_PASSWORD="only for this demonstration"
run() { echo; echo "\$ icecore $*"; "$icecore" "$@"; }

run init
if [ -n "$given" ]; then
    run backup sqlite "store.db=$given"
    run backup sqlite "store.db=$given"
else
    "$demo" store.db create
    run backup sqlite store.db
    cp store.db before.db
    "$demo" store.db change
    run backup sqlite store.db
fi
run snapshots
run restore latest~1 --to first
run restore latest --to second
run check --read-data
run stats
if [ -z "$given" ]; then
    cmp before.db first/store.db
    cmp store.db second/store.db
    echo; echo "Both snapshots came back byte for byte."
fi
