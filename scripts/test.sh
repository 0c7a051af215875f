#!/usr/bin/env bash
# Runs every test, after installing what is missing. Needs Rust (rustup.rs); on Debian and Ubuntu the rest is installed by this script.
set -euo pipefail
cd "$(dirname "$0")/.."

install() { # PACKAGE...
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    command -v apt-get >/dev/null || { echo "please install: $*" >&2; exit 1; }
    $sudo apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -q -y --no-install-recommends "$@" >/dev/null
}

command -v cargo >/dev/null || { echo "Rust is needed: see https://rustup.rs" >&2; exit 1; }
missing=()
command -v cc >/dev/null || missing+=(build-essential)
command -v python3 >/dev/null || missing+=(python3)
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
command -v openssl >/dev/null || missing+=(openssl)
[ ${#missing[@]} = 0 ] || install "${missing[@]}"
# The script at the end of store-format.md reads zstd frames with this module.
if ! python3 -c 'import zstandard' 2>/dev/null; then
    python3 -m pip install -q zstandard 2>/dev/null || install python3-zstandard
fi

bash scripts/test-servers.sh

# What makes a second build quick makes the first one slower, and an automatic run has only one.
[ -z "${CI:-}" ] || export CARGO_INCREMENTAL=0
cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
cargo test --locked
