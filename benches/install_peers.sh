#!/usr/bin/env bash
# Installs the programs that benches/compare and benches/postgres measure icecore against, as far as they can be had; says what it had to leave out.
#
#   benches/install_peers.sh DIR
#
# restic, borg, pgBackRest, zpaq and zstd come from the system's packages (Debian, Ubuntu); rustic and bupstash are built with cargo into DIR/bin,
# which then has to be in PATH (or name it with `--peers DIR/bin`). The bench itself skips what is missing.
set -euo pipefail

[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)

left_out() { # NAME WHY
    echo "left out: $1 ($2)" >&2
}

packages() { # PACKAGE...
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    command -v apt-get >/dev/null || { left_out "$*" "no apt-get here"; return; }
    $sudo apt-get update -q >/dev/null || left_out "fresh package lists" "apt-get update failed"
    local package
    for package in "$@"; do
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$package" >/dev/null ||
            left_out "$package" "apt-get install failed"
    done
}

crate() { # CRATE PROGRAM
    if [ -x "$dir/bin/$2" ]; then
        return
    fi
    command -v cargo >/dev/null || { left_out "$1" "no cargo here"; return; }
    # Two jobs: whoever installs this may be measuring something else at the same time.
    CARGO_TARGET_DIR="$dir/target" cargo install --locked --quiet --jobs 2 --root "$dir" "$1" || left_out "$1" "it does not build here"
}

# The last two are what bupstash is built with.
packages restic borgbackup pgbackrest zpaq zstd libsodium-dev pkg-config
crate rustic-rs rustic
crate bupstash bupstash
rm -rf "$dir/target"
for program in restic borg pgbackrest zpaq zstd; do
    command -v "$program" >/dev/null && echo "$program: $(command -v "$program")"
done
for program in rustic bupstash; do
    [ -x "$dir/bin/$program" ] && echo "$program: $dir/bin/$program"
done
exit 0
