#!/bin/sh
# Writes `.env` (git-ignored), which forge reads by itself, so that a bare `forge build` finds the compiler and stays offline.
# A machine with a native solc 0.8.30 of its own needs no `.env`: foundry.toml names the version.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
printf 'FOUNDRY_SOLC=%s/script/solc\nFOUNDRY_OFFLINE=true\n' "$root" >"$root/.env.new"
mv "$root/.env.new" "$root/.env"
