"""Where the bytes of a download go: a `.part` file that is put in place once it is whole, or a pipe.

A `.part` has one writer at a time (flock), and a note beside it with the ETag of the archive that it is a part of. The
final name comes into being last, and replaces nothing. A crash leaves the `.part` and its note.
"""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from ebbtide.errors import Refused, StorageError, StorageFull

OVERLAP_BYTES = 1024 * 1024
READ_BYTES = 1024 * 1024


class Sink(Protocol):
    """Where the bytes go, in order. `position` is how many there are."""

    position: int

    def write(self, data: bytes) -> None:
        """Append. Raises StorageError."""

    def tail(self, length: int) -> bytes:
        """The last `length` bytes, fewer if fewer are kept."""

    def restart(self) -> None:
        """Forget everything. Raises Refused where that cannot be done."""


class FileSink:
    """Bytes in a `.part` file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self.position = file.seek(0, os.SEEK_END)

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise storage_error(error, self._path) from error
        self.position += len(data)

    def tail(self, length: int) -> bytes:
        start = max(0, self.position - length)
        self._file.seek(start)
        found = self._file.read(self.position - start)
        self._file.seek(self.position)
        return found

    def hash_into(self, update: Callable[[bytes], None], report: Callable[[int], None]) -> None:
        """Feed all that is here to `update`, in order."""
        self._file.seek(0)
        done = 0
        while data := self._file.read(READ_BYTES):
            update(data)
            done += len(data)
            report(done)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.position = 0


class StreamSink:
    """Bytes to a pipe: what was written is gone, but for the last OVERLAP_BYTES kept to compare."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._tail = b""
        self.position = 0

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self._tail = (self._tail + data)[-OVERLAP_BYTES:]
        self.position += len(data)

    def tail(self, length: int) -> bytes:
        return self._tail[-length:] if length else b""

    def restart(self) -> None:
        if self.position:
            raise Refused(
                "the archive on the server is another one now, and what was written cannot be taken back",
                hint="download to a file: that can start over",
            )


def storage_error(error: OSError, path: Path) -> StorageError:
    """`error` as ours, by its number."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull("write", str(path))
    return StorageError("write", str(path), error.strerror or str(error))


def lock(file: BinaryIO, part: Path) -> None:
    """Make this the one writer of a `.part`, until it is closed. Raises Refused where there is another."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Refused(f"{part} is being written by another download") from error


def read_note(note: Path) -> str:
    """The ETag noted beside a `.part`; empty where there is none."""
    try:
        return note.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def write_note(note: Path, etag: str) -> None:
    """Note an ETag, or none. Raises StorageError."""
    try:
        if etag and etag.isascii():
            note.write_text(etag, encoding="ascii")
        else:
            note.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, note) from error


def sync(file: BinaryIO, part: Path) -> None:
    """Have the disk hold all that was written. Raises StorageError."""
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(error, part) from error


def put_in_place(part: Path, path: Path) -> None:
    """Give a whole `.part` its final name, durably. Raises Refused where that is taken, StorageError."""
    try:
        # link and unlink, not rename: a file that came to be there meanwhile is not overwritten.
        try:
            os.link(part, path)
        except FileExistsError:
            raise Refused(f"{path} is already there now; the download is complete in {part}") from None
        except OSError:
            # A file system without hard links.
            os.rename(part, path)
        else:
            part.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise storage_error(error, path) from error
