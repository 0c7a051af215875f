# What the other scripts share. They source this file; `scripts` is its directory.

# Finds the program, and sets `icecore`. It takes the first of these: ICECORE_BIN, an installed program, one that was built here, one that it
# builds now.
find_icecore() {
    if [ -n "${ICECORE_BIN:-}" ]; then
        icecore=$ICECORE_BIN
    elif command -v icecore >/dev/null; then
        icecore=$(command -v icecore)
    else
        icecore=$scripts/../target/release/icecore
        if [ ! -x "$icecore" ]; then
            command -v cargo >/dev/null || { echo "error: icecore is not installed, and there is no cargo to build it" >&2; exit 1; }
            echo "icecore is not installed: building it (some minutes, once)" >&2
            cargo build --release --locked --quiet --manifest-path "$scripts/../Cargo.toml" --target-dir "$scripts/../target" --bin icecore >&2
        fi
    fi
}

# Usage errors have the same form and exit code in all scripts.
usage_error() {
    echo "error: $1" >&2
    echo "$usage" >&2
    exit 2
}

# `prepare_repository DIR` sets the repository and its passphrase. Both are beside the export's directory DIR and are made on first use, unless the
# environment names others.
prepare_repository() {
    local above
    mkdir -p -- "$(dirname -- "$1")"
    above=$(cd -- "$(dirname -- "$1")" && pwd)
    export ICECORE_REPOSITORY=${ICECORE_REPOSITORY:-$above/icecore-repository}
    if [ -n "${ICECORE_PASSWORD:-}${ICECORE_PASSWORD_FILE:-}${ICECORE_PASSWORD_COMMAND:-}" ]; then
        return
    fi
    export ICECORE_PASSWORD_FILE=$ICECORE_REPOSITORY.key
    if [ -e "$ICECORE_PASSWORD_FILE" ]; then
        return
    fi
    if [ -e "$ICECORE_REPOSITORY/config" ]; then
        # A repository that is not encrypted has no keys.
        if [ -z "$(ls -A -- "$ICECORE_REPOSITORY/keys" 2>/dev/null)" ]; then
            unset ICECORE_PASSWORD_FILE
            return
        fi
        echo "error: $ICECORE_REPOSITORY has no key file $ICECORE_PASSWORD_FILE; set ICECORE_PASSWORD_FILE or another ICECORE_PASSWORD variable" >&2
        exit 12
    fi
    mkdir -p -- "$(dirname -- "$ICECORE_PASSWORD_FILE")"
    # The key is complete before it gets its name, and never replaces another key.
    local fresh
    fresh=$(umask 077 && mktemp -- "$ICECORE_PASSWORD_FILE.XXXXXX")
    od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >"$fresh"
    [ "$(wc -c <"$fresh")" = 64 ] || { rm -f -- "$fresh"; echo "error: no random key from /dev/urandom" >&2; exit 1; }
    sync -- "$fresh" 2>/dev/null || sync
    ln -- "$fresh" "$ICECORE_PASSWORD_FILE" 2>/dev/null || true
    rm -f -- "$fresh"
    echo "made a key for the repository: $ICECORE_PASSWORD_FILE" >&2
    echo "Keep a copy of it in a safe place elsewhere: without it the snapshots cannot be read. Anyone who has the key and the repository can read them." >&2
}

# Makes the repository if it is not there.
init_if_missing() {
    local code=0
    # If another process makes the repository meanwhile, `init` fails, and that is fine.
    [ -e "$ICECORE_REPOSITORY/config" ] || "$icecore" -q init || code=$?
    [ "$code" = 0 ] || [ -e "$ICECORE_REPOSITORY/config" ] || exit "$code"
}

# Backs up and exports: `backup_to DIR COMMAND...`, where COMMAND is a backup command. The export replaces DIR only when all is well.
backup_to() {
    local out=$1 code=0 report snapshot
    shift
    report=$("$icecore" "$@") || code=$?
    [ -z "$report" ] || printf '%s\n' "$report"
    snapshot=$(printf '%s\n' "$report" | sed -n '1s/^snapshot \([0-9a-f]\{12\}\) of .*/\1/p')
    if [ "$code" != 0 ]; then
        if [ -n "$snapshot" ]; then
            echo "error: snapshot $snapshot is incomplete or flagged (see icecore show); $out stays as it was" >&2
        fi
        exit "$code"
    fi
    [ -n "$snapshot" ] || { echo "error: the backup named no snapshot" >&2; exit 1; }
    "$icecore" export "$snapshot" "$out"
}
