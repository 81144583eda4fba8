"""Reading the files of a snapshot: which need no reading, and what is in the blocks of those that do.

Everything here but the rule `is_unchanged` and `stat_file` runs in worker threads. A unit of work is some
pieces of files, a few MiB together; reading it hashes every block and compresses those that the parent
snapshot, or the file itself so far, does not have. Where new blocks go is decided in one thread (`writer`).

Bound: a file's by-hash index holds at most INDEXED_BLOCKS_MAX blocks.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ebbtide.domain.ids import SnapshotId
from ebbtide.errors import IntegrityError, ObjectNotFound, SnapshotUnusable
from ebbtide.repository.block import BLOCK_BYTES, block_count
from ebbtide.repository.compressor import CompressorLost, Compressors
from ebbtide.repository.compressor_program import PieceBlock, read_blocks, read_into
from ebbtide.repository.gzip_member import Buffer
from ebbtide.repository.manifest import FileEntry, FileStat, Stretch
from ebbtide.repository.recipe import STRETCH_BYTES, BlockPlace
from ebbtide.repository.repository import ReplicaSetStore

MTIME_AGE_MIN_NS = 2_000_000_000
"""How much older than its stat a file's mtime must be to prove anything: timestamps are as coarse as 2 s
somewhere."""

UNIT_BYTES = 4 * 1024 * 1024
"""Plain bytes of one unit of work; it divides a stretch."""

UNIT_PIECES_MAX = 64
"""Small files of one unit: enough to make the hand-over to a thread cheap."""

COMPRESSOR_PIECE_BYTES_MIN = 512 * 1024
"""A smaller piece is done before another process has been asked."""

INDEXED_BLOCKS_MAX = 32 * 1024
"""32,768 blocks are the first 2 GiB of the parent's file, and about 10 MB of memory."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file to store as `path` (relative POSIX). Only the first `stat.size_bytes` bytes are read: it may
    grow.

    `always_read`: never trust its stat. `may_vanish`: if it vanishes or shrinks, the snapshot goes without
    it.
    """

    path: str
    absolute: Path
    stat: FileStat
    always_read: bool = False
    may_vanish: bool = False


def stat_file(path: Path) -> FileStat:
    """What the filesystem says about `path` now."""
    stated_at_ns = time.time_ns()
    found = path.stat()
    return FileStat(
        size_bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
        inode=found.st_ino,
        stated_at_ns=stated_at_ns,
    )


def iter_regular_files(directory: Path) -> list[Path]:
    """Every regular file below `directory`, in path order; WiredTiger's own metadata is part of it."""
    found: list[Path] = []
    for parent, _, names in os.walk(directory):
        found += [Path(parent) / name for name in names]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def is_unchanged(*, now: FileStat, parent: FileStat) -> bool:
    """Whether a file with stat `now` has the bytes that were stored when it had stat `parent`.

    Only if size, mtime, ctime and inode are equal, and that mtime was at least 2 s old at the parent's stat:
    a file written to again within the timestamp's grain would look the same.
    """
    same = (now.size_bytes, now.mtime_ns, now.ctime_ns, now.inode) == (
        parent.size_bytes,
        parent.mtime_ns,
        parent.ctime_ns,
        parent.inode,
    )
    return same and parent.stated_at_ns - parent.mtime_ns >= MTIME_AGE_MIN_NS


class ReadBlock(NamedTuple):
    """A block that was read: already stored at `place`, or new with its `stored` bytes."""

    id: bytes
    place: BlockPlace | None
    stored: Buffer
    crc: int


class ReadFile:
    """One file being read. The workers look blocks up; only the calling thread adds to `known` and to the
    lists."""

    def __init__(
        self,
        source: SourceFile,
        parent_entry: FileEntry | None,
        store: ReplicaSetStore,
        parent_id: SnapshotId | None,
    ) -> None:
        self.source = source
        self.parent_entry = parent_entry
        self.seems_unchanged = False
        self.gone = False
        self.known: dict[bytes, BlockPlace] = {}
        self.stretches: list[Stretch] = []
        self.block_ids: list[bytes] = []
        self.places: list[BlockPlace] = []
        self.damaged: set[str] = set()
        self._store = store
        self._parent_id = parent_id
        self._lock = threading.Lock()
        self._indexed = False
        self._parent_stretches: dict[int, dict[int, tuple[bytes, BlockPlace]]] = {}

    def parent_blocks(self, stretch_index: int) -> dict[int, tuple[bytes, BlockPlace]]:
        """Id and place of the parent's blocks in that stretch, by index in it; empty if the parent has
        none."""
        with self._lock:
            if not self._indexed:
                self._index_parent()
                self._indexed = True
            if stretch_index not in self._parent_stretches:
                self._parent_stretches[stretch_index] = self._load(stretch_index)
            return self._parent_stretches[stretch_index]

    def forget_parent_blocks(self, stretch_index: int) -> None:
        with self._lock:
            self._parent_stretches.pop(stretch_index, None)

    def index(self, known_id: bytes, place: BlockPlace) -> None:
        if len(self.known) < INDEXED_BLOCKS_MAX:
            self.known.setdefault(known_id, place)

    def _index_parent(self) -> None:
        for stretch_index in range(len(self.parent_entry.stretches) if self.parent_entry else 0):
            if len(self.known) >= INDEXED_BLOCKS_MAX:
                return
            for known_id, place in self._load(stretch_index).values():
                self.index(known_id, place)

    def _load(self, stretch_index: int) -> dict[int, tuple[bytes, BlockPlace]]:
        if self.parent_entry is None or self._parent_id is None:
            return {}
        if stretch_index >= len(self.parent_entry.stretches):
            return {}
        try:
            stretch = self.parent_entry.stretches[stretch_index]
            recipe = self._store.load_recipe(stretch, snapshot_id=self._parent_id)
        except (IntegrityError, ObjectNotFound) as error:
            # The parent is damaged here; this snapshot need not be: it stores the blocks itself.
            self.damaged.add(error.object_name)
            return {}
        return {index: (recipe.block_id(index), place) for index, place in enumerate(recipe.places())}


class Piece(NamedTuple):
    """`length` bytes of a file from `offset` on, within one stretch."""

    file: ReadFile
    offset: int
    length: int

    @property
    def ends_stretch(self) -> bool:
        end = self.offset + self.length
        return end == self.file.source.stat.size_bytes or end % STRETCH_BYTES == 0


def iter_units(files: Iterable[ReadFile]) -> Iterator[list[Piece]]:
    """Units of work: pieces of at most UNIT_BYTES together, in file order."""
    unit: list[Piece] = []
    unit_bytes = 0
    for file in files:
        size = file.source.stat.size_bytes
        for offset in range(0, size, UNIT_BYTES):
            piece = Piece(file, offset, min(UNIT_BYTES, size - offset))
            if unit and (unit_bytes + piece.length > UNIT_BYTES or len(unit) == UNIT_PIECES_MAX):
                yield unit
                unit, unit_bytes = [], 0
            unit.append(piece)
            unit_bytes += piece.length
    if unit:
        yield unit


def read_unit(unit: list[Piece], compressors: Compressors) -> list[tuple[Piece, list[ReadBlock] | None]]:
    """The blocks of each piece; None where the file is gone or too short. Runs in a worker thread."""
    return [(piece, _read_piece(piece, compressors)) for piece in unit]


def _read_piece(piece: Piece, compressors: Compressors) -> list[ReadBlock] | None:
    stretch_index, stretch_offset = divmod(piece.offset, STRETCH_BYTES)
    first_block = stretch_offset // BLOCK_BYTES
    in_stretch = piece.file.parent_blocks(stretch_index)
    same_place = [
        in_stretch[index]
        for index in range(first_block, first_block + block_count(piece.length))
        if index in in_stretch
    ]
    blocks = _read_blocks(piece, [identity for identity, _ in same_place], compressors)
    return None if blocks is None else _find_places(piece.file, blocks, same_place)


def _read_blocks(
    piece: Piece, same_place: Sequence[bytes], compressors: Compressors
) -> Iterable[PieceBlock] | None:
    path = piece.file.source.absolute
    if piece.length >= COMPRESSOR_PIECE_BYTES_MIN:
        try:
            with compressors.borrow() as compressor:
                if compressor is not None:
                    return compressor.read(
                        path, offset=piece.offset, length=piece.length, same_place=same_place
                    )
        except CompressorLost:
            pass  # once more, in this thread, which also tells best what is wrong with the file
    buffer = memoryview(bytearray(piece.length))
    try:
        if not read_into(path, buffer, offset=piece.offset):
            return None
    except OSError as error:
        raise SnapshotUnusable(f"{path} cannot be read: {error.strerror}") from error
    return read_blocks(buffer, same_place, is_known=piece.file.known.__contains__)


def _find_places(
    file: ReadFile, blocks: Iterable[PieceBlock], same_place: Sequence[tuple[bytes, BlockPlace]]
) -> list[ReadBlock]:
    """Where the blocks of a piece are stored, or, where they are not, what to store."""
    first_of_its_kind: dict[bytes, PieceBlock] = {}
    found = []
    for index, block in enumerate(blocks):
        parent_id, place = same_place[index] if index < len(same_place) else (b"", None)
        if parent_id != block.id:
            place = file.known.get(block.id)
        if place is not None:
            found.append(ReadBlock(block.id, place, b"", 0))
        else:
            new = first_of_its_kind.setdefault(block.id, block)
            found.append(ReadBlock(block.id, None, new.stored, new.crc))
    return found
