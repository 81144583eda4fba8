#!/bin/sh
# Puts Node's digest client for the tests into DIR, once: versions are those of the manifest, and nothing of it is run.
# Usage: node-clients.sh MANIFEST DIR
set -eu
manifest="$1" dir="$2"

if cmp -s "$manifest" "$dir/installed.json"; then exit 0; fi
mkdir -p "$dir"
cp "$manifest" "$dir/package.json"
cd "$dir"
npm install --no-package-lock --no-audit --no-fund --ignore-scripts --prefer-offline --fetch-retries=5 --loglevel=error
cp package.json installed.json
