"""Files with secrets that the command line reads, to send what is in them."""

import sys
from pathlib import Path

import typer

from ebbtide.errors import InvalidInput

SECRET_FILE_BYTES_MAX = 64 * 1024
"""Far more than any password, keyfile (mongod takes 1 kB) or certificate: a wrong path shall not send a whole disk."""


def read_secret_file(path: str, option: str) -> str:
    """The text of a small file, or of standard input for `-`. Its contents are never in an error."""
    try:
        if path == "-":
            raw = sys.stdin.buffer.read(SECRET_FILE_BYTES_MAX + 1)
        else:
            with Path(path).open("rb") as file:
                raw = file.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(option, expected=f"a readable file ({error.strerror})", got=path) from error
    if len(raw) > SECRET_FILE_BYTES_MAX:
        raise InvalidInput(option, expected=f"a file of {SECRET_FILE_BYTES_MAX} bytes at most", got=path)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # Not chained: the cause would quote the bytes.
        raise InvalidInput(option, expected="a text file", got=path) from None


def read_password(*, username: str | None, password_file: str | None, prefix: str = "--") -> str | None:
    """The password from its file, from standard input (`-`), or asked for on a terminal; None without a user.

    Options are named in errors with `prefix` before `username` and `password-file`.
    """
    option = f"{prefix}password-file"
    if username is None:
        if password_file is not None:
            raise InvalidInput(option, expected=f"{prefix}username with it")
        return None
    if password_file is not None:
        # Editors and `echo` end a file with a line feed; no password does.
        password = read_secret_file(password_file, option).rstrip("\r\n")
    elif sys.stdin.isatty():
        password = str(typer.prompt(f"password of {username}", hide_input=True, err=True))
    else:
        raise InvalidInput(option, expected="a file, because there is no terminal to ask on")
    if not password:
        raise InvalidInput(option, expected="a password in it; it is empty")
    return password
