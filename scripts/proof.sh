#!/usr/bin/env bash
# Runs the fault tests and prints what they tried, counted: crash points, faults, flips, kills, steps of random lives. Nothing may be lost, so a table is
# printed only if every test passed. A plain test run tries a part of each exhaustive list, this all of it; ICECORE_PROOF=long makes the random ones
# run for about an hour; SEED=n repeats a run.
set -euo pipefail
cd "$(dirname "$0")/.."
export SEED="${SEED:-20261130}" ICECORE_PROOF="${ICECORE_PROOF:-short}"
output=$(mktemp)
trap 'rm -f "$output"' EXIT

try() { # PROGRAM [MODULE]
    cargo test --locked --test "$1" -- --nocapture "${2:-}" >>"$output" 2>&1 || { tail -n 60 "$output" >&2; exit 1; }
}
try fault
try library fuzz::
try library parity::
try library delta::versions::
try command hostile_bytes::

echo "seed $SEED, $ICECORE_PROOF"
echo
echo "| tried | count |"
echo "|---|--:|"
# Lines are `proof: WHAT: 12 crash points, 48 outcomes`; `--nocapture` may put them behind the name of a test.
sed -n 's/^.*proof: [^:]*: //p' "$output" | tr ',' '\n' | sed 's/^ *//' | awk '
    { count = $1; sub(/^[0-9]+ /, ""); if (!($0 in sum)) order[++names] = $0; sum[$0] += count }
    END { for (n = 1; n <= names; n++) printf "| %s | %d |\n", order[n], sum[order[n]] }' | sort
