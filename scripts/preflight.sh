#!/bin/sh
# Checks what the system must have before anything is installed, and says how to get it.
needs="sudo apt-get install -y git make curl python3-venv libcurl4"
python="${PYTHON:-python3}"
lacks=""

command -v git >/dev/null 2>&1 || lacks="$lacks git"
command -v curl >/dev/null 2>&1 || lacks="$lacks curl"
if ! command -v "$python" >/dev/null 2>&1; then
    lacks="$lacks python3"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Ebbtide needs Python 3.11 or newer; $python is $("$python" -V 2>&1)."
    echo "Name another one with: make PYTHON=/path/to/python3.11 ..."
    exit 1
elif ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    lacks="$lacks python3-venv"
fi

if [ -n "$EBBTIDE_MONGOD" ]; then
    if [ ! -x "$EBBTIDE_MONGOD" ]; then
        echo "EBBTIDE_MONGOD names $EBBTIDE_MONGOD, which is not an executable file."
        exit 1
    fi
elif [ "$(uname -s)-$(uname -m)" != "Linux-x86_64" ]; then
    echo "The packaged mongod runs on Linux x86-64 only: set EBBTIDE_MONGOD to the path of a mongod of this system."
    exit 1
elif ! ldconfig -p 2>/dev/null | grep -q 'libcurl\.so\.4' && ! /sbin/ldconfig -p 2>/dev/null | grep -q 'libcurl\.so\.4'; then
    lacks="$lacks libcurl4"
fi

if [ -n "$lacks" ]; then
    echo "This system lacks:$lacks. Install what Ebbtide needs with:"
    echo "    $needs"
    exit 1
fi
