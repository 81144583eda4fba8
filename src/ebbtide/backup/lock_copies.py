"""Copies of what a snapshot has to read: where files cannot be cloned, the lock need not last until all is stored.

To copy within the machine's memory is several times as fast as to hash, compress and store. So where that is little
enough, the files that a snapshot has to read are copied under the lock into the directory that clones would be in
(`reflink`), the head is unlocked, and the copies are read at leisure. Files that did not change are not read at all.
The stat that goes into the manifest is that of the original, taken before its copy was made.

Crash: a directory of copies, which is removed as one of clones is.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import structlog

from ebbtide.backup.reflink import remove_clones
from ebbtide.errors import SnapshotUnusable
from ebbtide.repository.manifest import Manifest
from ebbtide.repository.reader import map_ordered
from ebbtide.repository.writer import SourceFile, files_to_read

PIECE_BYTES = 16 * 1024 * 1024
"""What one thread copies at a time; several work on one large file."""

FREE_BYTES_MIN = 1024**3
"""What must stay free on the head's disk, beyond the copies."""

_log = structlog.get_logger()


def copy_to_read(
    sources: Sequence[SourceFile],
    directory: Path,
    *,
    parent: Manifest | None,
    full_read: bool,
    bytes_max: int,
    threads: int,
    check_cancelled: Callable[[], None],
) -> list[SourceFile] | None:
    """Copy every file that `store_files` will read below `directory`, which is made anew; the sources to be read instead.

    None where that is more than `bytes_max`, or the disk has no room, or a copy failed: nothing is left then, and the
    originals have to be read under the lock. Raises SnapshotUnusable for a file that vanished or shrank since it was
    seen, and whatever `check_cancelled` raises.
    """
    to_read = files_to_read(sources, parent=parent, full_read=full_read)
    needed = sum(source.stat.size_bytes for source in to_read)
    if needed > bytes_max or shutil.disk_usage(directory.parent).free < needed + FREE_BYTES_MIN:
        return None
    remove_clones(directory)
    try:
        pieces = map_ordered(
            _copy,
            _iter_pieces(to_read, directory),
            threads=threads,
            window=4 * threads,
            check_cancelled=check_cancelled,
        )
        with closing(pieces):
            for _ in pieces:
                pass
    except FileNotFoundError as error:
        remove_clones(directory)
        raise SnapshotUnusable(f"{error.filename} vanished while the head was locked") from error
    except OSError as error:
        _log.warning("snapshot.copy_failed", directory=str(directory), message=str(error))
        remove_clones(directory)
        return None
    copied = {source.path for source in to_read}
    return [
        replace(source, absolute=directory / source.path) if source.path in copied else source
        for source in sources
    ]


class _Piece(NamedTuple):
    source: Path
    target: Path
    offset: int
    length: int


def _iter_pieces(sources: Sequence[SourceFile], directory: Path) -> Iterator[_Piece]:
    """What to copy; each target is there, empty, before its first piece is."""
    for source in sources:
        target = directory / source.path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        size = source.stat.size_bytes
        for offset in range(0, size, PIECE_BYTES):
            yield _Piece(source.absolute, target, offset, min(PIECE_BYTES, size - offset))


def _copy(piece: _Piece) -> None:
    reading = os.open(piece.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        writing = os.open(piece.target, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _copy_range(reading, writing, piece)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_range(reading: int, writing: int, piece: _Piece) -> None:
    at, end = piece.offset, piece.offset + piece.length
    while at < end:
        count = os.copy_file_range(reading, writing, end - at, at, at)
        if count == 0:
            raise SnapshotUnusable(f"{piece.source} shrank while the head was locked")
        at += count
