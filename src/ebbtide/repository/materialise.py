"""Laying a snapshot's files down in a directory, every block verified.

Stretches are written in parallel, each at its place in its file; a large file is synced when its last stretch
is there, small ones all at once (a sync each would cost more than writing them), before the last file.
Scratch that a power cut may take is not synced at all.
The file `WiredTiger`, without which the server takes the directory for an empty one or refuses it, gets its
name last of all: an interrupted materialisation cannot pass for a finished one.

Crash: a directory without `WiredTiger`; remove it and begin again.
"""

import ctypes
import errno
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ebbtide.domain.progress import ProgressReporter
from ebbtide.errors import IntegrityError, Refused, StorageError
from ebbtide.repository.manifest import FileEntry, Manifest, Stretch, is_safe_path
from ebbtide.repository.reader import map_ordered, open_span, plan_spans, read_span, span_buffer
from ebbtide.repository.recipe import STRETCH_BYTES
from ebbtide.repository.repository import ReplicaSetStore

LAST_FILE = "WiredTiger"
"""Put in place last."""

PART_SUFFIX = ".ebbtide-part"

PAGE_BYTES = 4096
"""What a file's length is rounded up to on disk."""

SYNCED_ALONE_BYTES = 1024 * 1024
"""A file at least this long is synced by itself, while others are still written."""

WORK_PIECES_MAX = 32
WORK_BYTES = 4 * 1024 * 1024
"""Small files are handed to a thread together, up to these."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def materialise(
    store: ReplicaSetStore,
    manifest: Manifest,
    target: Path,
    *,
    threads: int,
    progress: ProgressReporter,
    check_cancelled: Callable[[], None],
    durable: bool = True,
) -> None:
    """Write every file of the snapshot below `target`, which must be absent or empty.

    All is durable on return; with `durable` False only what a power cut leaves is unknown, which is enough for
    scratch that a restart wipes: no disk is waited for.
    Reports one phase, `materialise`, in plain bytes. Raises Refused if `target` holds something, StorageError
    if its filesystem lacks the space or fails, IntegrityError naming a damaged
    object, ObjectNotFound for an absent recipe.
    """
    _require_empty(target)
    _require_space(manifest, target)
    progress.phase("materialise", total=manifest.plain_bytes, unit="bytes")
    try:
        directories = _make_directories(manifest, target)
        laying = _Laying(store, manifest, target, progress, durable=durable)
        work = _iter_work(manifest)
        laid = map_ordered(
            laying.lay, work, threads=threads, window=threads * 4, check_cancelled=check_cancelled
        )
        with closing(laid):
            for _ in laid:
                pass
        if durable:
            _sync_filesystem(target)
            for directory in reversed(directories):
                _sync(directory)
        _put_last_file_in_place(manifest, target)
        if durable:
            _sync(target)
            _sync(target.parent)
    except OSError as error:
        problem = "no space is left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise StorageError("materialise into", str(target), problem) from error


class _Piece(NamedTuple):
    """One stretch of one file, or an empty file (`stretch` is None)."""

    entry: FileEntry
    number: int
    stretch: Stretch | None


def required_bytes(manifest: Manifest) -> int:
    """The space that the files of a snapshot take on disk."""
    return sum(-(-entry.plain_bytes // PAGE_BYTES) * PAGE_BYTES + PAGE_BYTES for entry in manifest.files)


def _require_empty(target: Path) -> None:
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise Refused(f"{target} is not an empty directory", hint="choose a new one: nothing is overwritten")


def _require_space(manifest: Manifest, target: Path) -> None:
    existing = target.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    needed = required_bytes(manifest)
    if free < needed:
        raise StorageError(
            "materialise into",
            str(target),
            f"{needed} bytes are needed and {free} are free",
            hint="free space there, or choose another place",
        )


def _make_directories(manifest: Manifest, target: Path) -> list[Path]:
    """Make `target` and all directories below it, mode 0700; parents come before their children."""
    relative = {parent for entry in manifest.files for parent in Path(entry.path).parents}
    directories = sorted({target, *(target / parent for parent in relative)})
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    for directory in directories[1:]:
        directory.mkdir(mode=0o700)
    return directories


def _put_last_file_in_place(manifest: Manifest, target: Path) -> None:
    if any(entry.path == LAST_FILE for entry in manifest.files):
        os.rename(target / (LAST_FILE + PART_SUFFIX), target / LAST_FILE)


def _iter_work(manifest: Manifest) -> Iterator[list[_Piece]]:
    """Pieces for one thread at a time: one whole stretch, or some small files."""
    work: list[_Piece] = []
    work_bytes = 0
    for entry in manifest.files:
        pieces = [_Piece(entry, index, stretch) for index, stretch in enumerate(entry.stretches)]
        for piece in pieces or [_Piece(entry, 0, None)]:
            length = piece.stretch.plain_bytes if piece.stretch else 0
            if work and (work_bytes + length > WORK_BYTES or len(work) == WORK_PIECES_MAX):
                yield work
                work, work_bytes = [], 0
            work.append(piece)
            work_bytes += length
    if work:
        yield work


class _Laying:
    """Writes pieces. Any thread may call `lay`; only the count of missing pieces is shared."""

    def __init__(
        self,
        store: ReplicaSetStore,
        manifest: Manifest,
        target: Path,
        progress: ProgressReporter,
        *,
        durable: bool,
    ) -> None:
        self._store = store
        self._snapshot_id = manifest.snapshot_id
        self._target = target
        self._progress = progress
        self._synced_alone_bytes = SYNCED_ALONE_BYTES if durable else math.inf
        self._missing: dict[str, int] = {}
        self._lock = threading.Lock()

    def lay(self, pieces: list[_Piece]) -> None:
        buffer = span_buffer()
        for piece in pieces:
            self._lay_piece(piece, buffer)

    def _lay_piece(self, piece: _Piece, buffer: memoryview) -> None:
        descriptor = os.open(
            self._path(piece.entry), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            if piece.stretch is not None:
                self._write_stretch(descriptor, piece, piece.stretch, buffer)
                self._progress.advance(piece.stretch.plain_bytes)
            if piece.entry.plain_bytes >= self._synced_alone_bytes and self._is_last(piece.entry):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, entry: FileEntry) -> Path:
        # The manifest was checked when it was decoded; one that was made in memory was not.
        if not is_safe_path(entry.path):
            raise IntegrityError(
                self._store.manifest_name(self._snapshot_id), f"has an unsafe path {entry.path!r}"
            )
        return self._target / (entry.path + PART_SUFFIX if entry.path == LAST_FILE else entry.path)

    def _write_stretch(self, descriptor: int, piece: _Piece, stretch: Stretch, buffer: memoryview) -> None:
        recipe = self._store.load_recipe(stretch, snapshot_id=self._snapshot_id)
        offset = piece.number * STRETCH_BYTES
        what = f"{piece.entry.path} from byte {offset}"
        for span in plan_spans(recipe):
            data = read_span(self._store, recipe, span, what=what)
            plain = open_span(self._store, recipe, span, data, into=buffer, what=what)
            _write_all(descriptor, plain, offset)
            offset += len(plain)

    def _is_last(self, entry: FileEntry) -> bool:
        """Whether no piece of this file is missing after the one just written."""
        if len(entry.stretches) <= 1:
            return True
        with self._lock:
            missing = self._missing.get(entry.path, len(entry.stretches)) - 1
            self._missing[entry.path] = missing
            return missing == 0


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """All of it; a signal or a nearly full disk cuts a write short, and the next one says what is wrong."""
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


def _sync_filesystem(target: Path) -> None:
    """Make everything on the filesystem of `target` durable; from Linux 5.8 on it reports failed writes
    too."""
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
