"""Files with secrets that the command line reads, to send what is in them."""

import sys
from pathlib import Path

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
