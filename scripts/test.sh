#!/usr/bin/env bash
# Checks the form of the sources and runs every test, after installing what is missing. Needs Rust (rustup.rs).
#   bash scripts/test.sh [--quick]
# --quick is for the time between two changes: it leaves out the tests that need servers or take long. CONTRIBUTING.md lists them.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=""
case "${1:-}" in
"") ;;
--quick) quick=yes ;;
*) echo "usage: bash scripts/test.sh [--quick]" >&2; exit 2 ;;
esac

say() { echo "test.sh: $*" >&2; }

install() { # PACKAGE...
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    command -v apt-get >/dev/null || { say "please install: $*"; exit 1; }
    say "installing Debian packages on this system, with apt-get: $*"
    $sudo apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -q -y --no-install-recommends "$@" >/dev/null
}

command -v cargo >/dev/null || { say "Rust is needed: see https://rustup.rs"; exit 1; }
missing=()
command -v cc >/dev/null || missing+=(build-essential)
command -v python3 >/dev/null || missing+=(python3)
command -v openssl >/dev/null || missing+=(openssl)
# The commands of the documents use it.
command -v sqlite3 >/dev/null || missing+=(sqlite3)
[ ${#missing[@]} = 0 ] || install "${missing[@]}"

# The script at the end of store-format.md reads repositories with Python modules; the tests start `python3`. What comes from PyPI stays below
# target/, in an environment of its own.
modules="zstandard blake3 cryptography argon2-cffi"
venv=$PWD/target/test-venv
[ ! -x "$venv/bin/pip" ] || export PATH="$venv/bin:$PATH"
if ! python3 -c 'import zstandard, blake3, cryptography, argon2' 2>/dev/null || ! python3 -m pip --version >/dev/null 2>&1; then
    python3 -c 'import ensurepip' 2>/dev/null || install python3-venv
    say "installing Python modules from PyPI, in a virtual environment: $modules: $venv"
    python3 -m venv --system-site-packages "$venv"
    export PATH="$venv/bin:$PATH"
    # Debian has no blake3 for Python. Its zstandard is enough for the other tests: they look at /usr/bin/python3, too.
    # shellcheck disable=SC2086
    if ! python3 -m pip install -q $modules 2>/dev/null; then
        python3 -c 'import zstandard' 2>/dev/null || install python3-zstandard
        say "PyPI cannot be reached: the tests of the script with encrypted and with damaged repositories are LEFT OUT"
    fi
fi

[ -n "$quick" ] || bash scripts/test-servers.sh

# Incremental builds make the first build slower. An automatic run has only one build.
[ -z "${CI:-}" ] || export CARGO_INCREMENTAL=0
cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings
# The fuzz targets. Checking whether they compile does not need libfuzzer itself, which is C++.
CUSTOM_LIBFUZZER_PATH=$PWD/target/libnone.a cargo clippy --locked -p icecore-fuzz --lib --bins -- -D warnings
# Many tests wait for a server, a disk or a process. Others run meanwhile.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) * 2))}"
if [ -n "$quick" ]; then
    exec env --default-signal=INT,QUIT,HUP cargo test --locked --lib --bins --test library --test command --test tidy -- \
        --skip delta:: --skip hostile:: --skip parity:: --skip source:: --skip structure::
fi
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
cargo test --locked --no-run
# Some tests are about signals. A shell starts programs in the background with these signals ignored.
tests() { env --default-signal=INT,QUIT,HUP cargo test --locked --no-fail-fast "$@"; }
# The tests with PostgreSQL wait more than they compute. So they run beside the others, and their output comes at the end.
tests --test postgres >target/postgres-tests.log 2>&1 &
servers=$!
outcome=0
programs=$(ls tests/*/main.rs tests/*.rs | sed -n 's|^tests/\([a-z_]*\)\(/main\)\?\.rs$|--test \1|p' | grep -v postgres)
# shellcheck disable=SC2086
tests --lib --bins $programs || outcome=1
tests --doc || outcome=1
wait "$servers" || outcome=1
cat target/postgres-tests.log
exit "$outcome"
