"""The download archive: a `.tar.gz` that exists only as a plan over stored blocks.

A gzip stream may be made of many members, and every stored block is one. So the archive is a list of
segments: a member of ours with tar headers and padding, then the blocks of a stretch as they are stored, and
so on. Its length, and the segment of any byte, follow from the manifest alone; the place inside a stretch
from its one recipe.

    [top directory, extra files, directories, header of file 1] <stretch> <stretch> [padding, header 2] …
    [padding, end of archive]

Invariants
  * the same manifest and arguments give the same bytes, on any machine and with any version of a compressor
    (our own members hold their bytes uncompressed): a download can be resumed anywhere, its SHA-1 stays true
  * no byte of a block is sent before the block's CRC was checked; `hash_archive` also proves the plain bytes
"""

import hashlib
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import NamedTuple

from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.progress import ProgressReporter
from ebbtide.errors import InvalidInput
from ebbtide.repository.gzip_member import stored_member
from ebbtide.repository.manifest import FileEntry, Manifest, Stretch, is_safe_path
from ebbtide.repository.reader import Span, map_ordered, open_blocks, plan_spans, read_span
from ebbtide.repository.recipe import STRETCH_BYTES, Recipe
from ebbtide.repository.repository import ReplicaSetStore

_TAR_BLOCK = 512
_TAR_END = bytes(2 * _TAR_BLOCK)
_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700


class OwnBytes(NamedTuple):
    """A segment made by us: one gzip member."""

    data: bytes


class StoredStretch(NamedTuple):
    """A segment of stored blocks: stretch `number` of the file `path`."""

    path: str
    number: int
    stretch: Stretch


Segment = OwnBytes | StoredStretch


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The plan: segments, and where each begins. `length_bytes` is the length of the whole archive."""

    snapshot_id: SnapshotId
    length_bytes: int
    plain_bytes: int
    segments: tuple[Segment, ...] = field(repr=False)
    starts: tuple[int, ...] = field(repr=False)


def plan_archive(
    manifest: Manifest, *, directory: str, extra_files: Sequence[tuple[str, bytes]], mtime: datetime
) -> Archive:
    """The archive of a snapshot, with everything inside one top directory named `directory`.

    `extra_files` (name, content) come first. Entries are stamped with `mtime`, cut to whole seconds. Reads
    nothing. Raises InvalidInput for an unsafe or double name.
    """
    names = [entry.path for entry in manifest.files] + [name for name, _ in extra_files]
    if not is_safe_path(directory) or "/" in directory or not all(map(is_safe_path, names)):
        raise InvalidInput("archive", expected="safe relative names")
    if len(set(names)) != len(names):
        raise InvalidInput("extra_files", expected="names that no file of the snapshot has")
    return _assemble(manifest, _iter_parts(manifest, directory, extra_files, int(mtime.timestamp())))


def iter_range(store: ReplicaSetStore, archive: Archive, *, start: int, end: int) -> Iterator[bytes]:
    """The bytes `start` up to before `end` of the archive, in pieces of at most about 1 MiB.

    Every block is read whole and checked before a byte of it is given out. Raises InvalidInput for a range
    outside of the archive, IntegrityError naming the damaged object (and, for a pack, the file's block),
    StorageError.
    """
    if not 0 <= start <= end <= archive.length_bytes:
        raise InvalidInput("range", expected=f"0 … {archive.length_bytes}", got=f"{start} … {end}")
    at = start
    for index in range(bisect_right(archive.starts, start) - 1, len(archive.segments)):
        if at >= end:
            return
        first = archive.starts[index]
        match archive.segments[index]:
            case OwnBytes(data=data):
                pieces: Iterator[bytes] = iter([data[at - first : end - first]])
            case StoredStretch() as segment:
                pieces = _iter_stretch_range(store, archive, segment, start=at - first, end=end - first)
        for piece in pieces:
            at += len(piece)
            yield piece


def hash_archive(
    store: ReplicaSetStore,
    archive: Archive,
    *,
    threads: int,
    progress: ProgressReporter,
    check_cancelled: Callable[[], None],
) -> str:
    """The SHA-1 of the whole archive in hex; every block is inflated and proved by its identity on the way.

    Reports one phase, `hash`, in bytes of the archive. A few MiB a thread are in memory. Raises as
    `iter_range`.
    """
    progress.phase("hash", total=archive.length_bytes, unit="bytes")
    digest = hashlib.sha1(usedforsecurity=False)

    def load(work: bytes | _VerifyWork) -> bytes:
        return work if isinstance(work, bytes) else _read_verified(store, work)

    work = _iter_verify_work(store, archive)
    loaded = map_ordered(load, work, threads=threads, window=threads * 4, check_cancelled=check_cancelled)
    with closing(loaded):
        for data in loaded:
            digest.update(data)
            progress.advance(len(data))
    return digest.hexdigest()


class _VerifyWork(NamedTuple):
    recipe: Recipe
    span: Span
    what: str


def _iter_verify_work(store: ReplicaSetStore, archive: Archive) -> "Iterator[bytes | _VerifyWork]":
    for segment in archive.segments:
        match segment:
            case OwnBytes(data=data):
                yield data
            case StoredStretch(stretch=stretch):
                recipe = store.load_recipe(stretch, snapshot_id=archive.snapshot_id)
                for span in plan_spans(recipe):
                    yield _VerifyWork(recipe, span, _describe(segment))


def _read_verified(store: ReplicaSetStore, work: _VerifyWork) -> bytes:
    data = read_span(store, work.recipe, work.span, what=work.what)
    for _ in open_blocks(store, work.recipe, work.span, data, what=work.what):
        pass
    return data


def _iter_stretch_range(
    store: ReplicaSetStore, archive: Archive, segment: StoredStretch, *, start: int, end: int
) -> Iterator[bytes]:
    """Bytes `start` up to before `end` of a stretch's stored bytes; `end` may lie behind its end."""
    recipe = store.load_recipe(segment.stretch, snapshot_id=archive.snapshot_id)
    end = min(end, recipe.stored_bytes)
    first_block = bisect_right(recipe.ends, start)
    end_block = bisect_right(recipe.ends, end - 1) + 1
    at = recipe.ends[first_block - 1] if first_block else 0
    for span in plan_spans(recipe, first_block=first_block, end_block=end_block):
        data = read_span(store, recipe, span, what=_describe(segment))
        piece = data[max(0, start - at) : end - at]  # no copy where it is the whole
        at += len(data)
        yield piece


def _describe(segment: StoredStretch) -> str:
    return f"{segment.path} from byte {segment.number * STRETCH_BYTES}"


def _assemble(manifest: Manifest, parts: Iterator[bytes | StoredStretch]) -> Archive:
    """Join neighbouring bytes of ours into one member, and count."""
    segments: list[Segment] = []
    own = bytearray()
    plain_bytes = 0
    for part in parts:
        if isinstance(part, bytes):
            own += part
            plain_bytes += len(part)
            continue
        if own:
            segments.append(OwnBytes(stored_member(bytes(own))))
            own.clear()
        segments.append(part)
        plain_bytes += part.stretch.plain_bytes
    segments.append(OwnBytes(stored_member(bytes(own))))
    starts = [0]
    for segment in segments:
        starts.append(starts[-1] + _segment_length(segment))
    return Archive(
        snapshot_id=manifest.snapshot_id,
        length_bytes=starts[-1],
        plain_bytes=plain_bytes,
        segments=tuple(segments),
        starts=tuple(starts[:-1]),
    )


def _segment_length(segment: Segment) -> int:
    return len(segment.data) if isinstance(segment, OwnBytes) else segment.stretch.stored_bytes


def _iter_parts(
    manifest: Manifest, directory: str, extra_files: Sequence[tuple[str, bytes]], mtime_seconds: int
) -> Iterator[bytes | StoredStretch]:
    """The tar stream: bytes of ours, and stretches."""
    yield _tar_header(directory, size_bytes=None, mtime_seconds=mtime_seconds)
    for name, content in extra_files:
        yield _tar_header(f"{directory}/{name}", size_bytes=len(content), mtime_seconds=mtime_seconds)
        yield content + _padding(len(content))
    for path in _directories([entry.path for entry in manifest.files] + [name for name, _ in extra_files]):
        yield _tar_header(f"{directory}/{path}", size_bytes=None, mtime_seconds=mtime_seconds)
    for entry in manifest.files:
        yield from _iter_file_parts(entry, directory, mtime_seconds)
    yield _TAR_END


def _iter_file_parts(entry: FileEntry, directory: str, mtime_seconds: int) -> Iterator[bytes | StoredStretch]:
    yield _tar_header(f"{directory}/{entry.path}", size_bytes=entry.plain_bytes, mtime_seconds=mtime_seconds)
    for index, stretch in enumerate(entry.stretches):
        yield StoredStretch(entry.path, index, stretch)
    yield _padding(entry.plain_bytes)


def _directories(paths: Sequence[str]) -> list[str]:
    """All directories that the paths need, parents first."""
    return sorted({parent.as_posix() for path in paths for parent in PurePosixPath(path).parents} - {"."})


def _padding(content_bytes: int) -> bytes:
    return bytes(-content_bytes % _TAR_BLOCK)


def _tar_header(name: str, *, size_bytes: int | None, mtime_seconds: int) -> bytes:
    """The header of a file, or of a directory if `size_bytes` is None; PAX records where the plain form is
    too small."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if size_bytes is None else tarfile.REGTYPE
    info.mode = _DIRECTORY_MODE if size_bytes is None else _FILE_MODE
    info.size = size_bytes or 0
    info.mtime = mtime_seconds
    return info.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8", errors="strict")
