"""Storing the files of one snapshot: what the parent snapshot does not have goes into packs, in file order.

Worker threads read, hash and compress units of a few MiB; the calling thread takes their results in file
order, decides where each block is and fills one pack after another; another thread hands full ones to the
storage. Only the calling thread places blocks, so the same files and the same parent always give the same
recipes.

Bounds: two packs and WINDOW_UNITS_PER_THREAD units a thread are in memory, RECIPES_PENDING_BYTES_MAX of
recipes wait for their pack, and a file's by-hash index holds at most INDEXED_BLOCKS_MAX blocks (the first 2
GiB of the parent's file, then its own): beyond that only "same place" finds a block again. No other file's
hashes are in memory, but for the few small files of the units under way.

Order: a recipe is stored once all packs that it names are durable; the manifest is the caller's, afterwards.
Crash: packs and recipes that nothing names; `ReplicaSetStore.discard_attempts` removes the packs.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ebbtide import crash_points
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.progress import ProgressReporter
from ebbtide.errors import IntegrityError, InvalidInput, ObjectNotFound, Refused, SnapshotUnusable
from ebbtide.repository.block import BLOCK_BYTES, block_count, block_id, encode_block, stored_crc
from ebbtide.repository.manifest import FileEntry, FileStat, Manifest, ManifestKind, Stretch, check_paths
from ebbtide.repository.pack import PACK_BYTES_TARGET, make_pack_id, pack_chunks, pack_header
from ebbtide.repository.reader import map_ordered
from ebbtide.repository.recipe import (
    INLINE_BLOCKS_MAX,
    STRETCH_BYTES,
    BlockPlace,
    build_recipe,
    encode_recipe,
    recipe_hash,
)
from ebbtide.repository.repository import ReplicaSetStore

MTIME_AGE_MIN_NS = 2_000_000_000
"""How much older than its stat a file's mtime must be to prove anything: timestamps are as coarse as 2 s
somewhere."""

UNIT_BYTES = 4 * 1024 * 1024
"""Plain bytes of one unit of work; it divides a stretch."""

UNIT_PIECES_MAX = 64
"""Small files of one unit: enough to make the hand-over to a thread cheap."""

WINDOW_UNITS_PER_THREAD = 4
"""Units under way per thread: they bridge the time in which a finished pack is made durable."""

PACKS_UNDER_WAY_MAX = 1
"""Finished packs being made durable while the next one fills, so two are in memory; a second one gained
nothing."""

INDEXED_BLOCKS_MAX = 32 * 1024
RECIPES_PENDING_BYTES_MAX = 8 * 1024 * 1024


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


@dataclass(frozen=True, kw_only=True)
class StoredFiles:
    """What `store_files` did. `entries` are in the order of the sources, without those that vanished.

    `new_stored_bytes` counts packs and recipes. `unexpected_changes` are files whose stat said "unchanged"
    but whose bytes differ (only a full read finds them). `damaged_parent_objects` could not be used to save
    space.
    """

    entries: tuple[FileEntry, ...]
    new_stored_bytes: int
    read_bytes: int
    files_read: int
    files_unchanged: int
    blocks_new: int
    blocks_reused: int
    unexpected_changes: tuple[str, ...]
    damaged_parent_objects: tuple[str, ...]


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


def store_files(
    store: ReplicaSetStore,
    sources: Sequence[SourceFile],
    *,
    snapshot_id: SnapshotId,
    attempt: int,
    parent: Manifest | None,
    full_read: bool,
    threads: int,
    progress: ProgressReporter,
    check_cancelled: Callable[[], None],
    pack_bytes: int = PACK_BYTES_TARGET,
) -> StoredFiles:
    """Store what `parent` (a committed manifest of the same replica set) does not have; all is durable on
    return.

    Reports one phase, `store`, in plain bytes. Raises SnapshotUnusable naming a file that vanished, shrank or
    cannot be read; StorageFull and StorageError of the storage; whatever `check_cancelled` raises. After an
    error no thread of it runs any more.
    """
    try:
        check_paths(source.path for source in sources)
    except ValueError as problem:
        raise InvalidInput("sources", expected="distinct relative paths", got=str(problem)) from None
    if parent is not None and (not store.owns(parent) or parent.kind is not ManifestKind.SNAPSHOT):
        raise Refused(f"snapshot {parent.snapshot_id} cannot be the parent of another one here")
    progress.phase("store", total=sum(source.stat.size_bytes for source in sources), unit="bytes")
    writing = _Writing(store, snapshot_id, attempt, progress, pack_bytes)
    to_read = writing.iter_files_to_read(sources, parent=parent, full_read=full_read)
    units = map_ordered(
        _read_unit,
        _iter_units(to_read),
        threads=threads,
        window=threads * WINDOW_UNITS_PER_THREAD,
        check_cancelled=check_cancelled,
    )
    with closing(units):
        writing.store(units)
    return writing.result(sources)


class _Block(NamedTuple):
    """A block that was read: already stored at `place`, or new with its `stored` bytes."""

    id: bytes
    place: BlockPlace | None
    stored: bytes
    crc: int


class _File:
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


class _Piece(NamedTuple):
    """`length` bytes of a file from `offset` on, within one stretch."""

    file: _File
    offset: int
    length: int

    @property
    def ends_stretch(self) -> bool:
        end = self.offset + self.length
        return end == self.file.source.stat.size_bytes or end % STRETCH_BYTES == 0


def _iter_units(files: Iterable[_File]) -> Iterator[list[_Piece]]:
    """Units of work: pieces of at most UNIT_BYTES together, in file order."""
    unit: list[_Piece] = []
    unit_bytes = 0
    for file in files:
        size = file.source.stat.size_bytes
        for offset in range(0, size, UNIT_BYTES):
            piece = _Piece(file, offset, min(UNIT_BYTES, size - offset))
            if unit and (unit_bytes + piece.length > UNIT_BYTES or len(unit) == UNIT_PIECES_MAX):
                yield unit
                unit, unit_bytes = [], 0
            unit.append(piece)
            unit_bytes += piece.length
    if unit:
        yield unit


def _read_unit(unit: list[_Piece]) -> list[tuple[_Piece, list[_Block] | None]]:
    """The blocks of each piece; None where the file is gone or too short. Runs in a worker thread."""
    return [(piece, _read_piece(piece)) for piece in unit]


def _read_piece(piece: _Piece) -> list[_Block] | None:
    data = _read_file_range(piece)
    if data is None:
        return None
    stretch_index, stretch_offset = divmod(piece.offset, STRETCH_BYTES)
    same_place = piece.file.parent_blocks(stretch_index)
    known = piece.file.known
    first_block = stretch_offset // BLOCK_BYTES
    view = memoryview(data)
    blocks = []
    for index in range(block_count(piece.length)):
        plain = view[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
        identity = block_id(plain)
        parent_id, place = same_place.get(first_block + index, (b"", None))
        if parent_id != identity:
            place = known.get(identity)
        stored = encode_block(plain) if place is None else b""
        blocks.append(_Block(identity, place, stored, stored_crc(stored)))
    return blocks


def _read_file_range(piece: _Piece) -> bytes | None:
    """The bytes of a piece, or None if the file is not there or ends before."""
    path = piece.file.source.absolute
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(piece.offset)
            parts = []
            missing = piece.length
            while missing and (part := file.read(missing)):
                parts.append(part)
                missing -= len(part)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotUnusable(f"{path} cannot be read: {error.strerror}") from error
    if missing:
        return None
    return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass
class _Counts:
    new_stored_bytes: int = 0
    read_bytes: int = 0
    files_read: int = 0
    files_unchanged: int = 0
    blocks_new: int = 0
    blocks_reused: int = 0
    unexpected_changes: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)


class _Writing:
    """One run of `store_files`. Everything here belongs to the calling thread."""

    def __init__(
        self,
        store: ReplicaSetStore,
        snapshot_id: SnapshotId,
        attempt: int,
        progress: ProgressReporter,
        pack_bytes: int,
    ) -> None:
        self._store = store
        self._snapshot_id = snapshot_id
        self._attempt = attempt
        self._progress = progress
        self._entries: dict[str, FileEntry] = {}
        self._counts = _Counts()
        self._pack_sequence = 0
        self._pack_bytes = pack_bytes
        self._pending: list[tuple[str, bytes]] = []
        self._pending_bytes = 0
        self._under_way: deque[tuple[Future[int] | None, list[tuple[str, bytes]]]] = deque()
        self._begin_pack()

    def iter_files_to_read(
        self, sources: Sequence[SourceFile], *, parent: Manifest | None, full_read: bool
    ) -> Iterator[_File]:
        """The files to read, in order; the entries of the others are noted on the way."""
        parent_entries = {entry.path: entry for entry in parent.files} if parent else {}
        parent_id = parent.snapshot_id if parent else None
        for source in sources:
            entry = parent_entries.get(source.path)
            seems_unchanged = (
                entry is not None
                and not source.always_read
                and is_unchanged(now=source.stat, parent=entry.stat)
            )
            if entry is not None and seems_unchanged and not full_read:
                self._entries[source.path] = replace(entry, stat=source.stat)
                self._counts.files_unchanged += 1
                self._progress.advance(source.stat.size_bytes)
            elif source.stat.size_bytes == 0:
                self._entries[source.path] = FileEntry(path=source.path, stat=source.stat, stretches=())
                self._counts.files_read += 1
            else:
                file = _File(source, entry, self._store, parent_id)
                file.seems_unchanged = seems_unchanged
                yield file

    def store(self, units: Iterable[list[tuple[_Piece, list[_Block] | None]]]) -> None:
        """Write packs of the new blocks in `units`, and all recipes."""
        with ThreadPoolExecutor(PACKS_UNDER_WAY_MAX, thread_name_prefix="pack") as self._putters:
            for unit in units:
                for piece, blocks in unit:
                    self._take_piece(piece, blocks)
            self._close_pack()
            while self._under_way:
                self._settle_oldest_pack()
        crash_points.reach("snapshot.recipes_written")

    def result(self, sources: Sequence[SourceFile]) -> StoredFiles:
        counts = self._counts
        return StoredFiles(
            entries=tuple(self._entries[source.path] for source in sources if source.path in self._entries),
            new_stored_bytes=counts.new_stored_bytes,
            read_bytes=counts.read_bytes,
            files_read=counts.files_read,
            files_unchanged=counts.files_unchanged,
            blocks_new=counts.blocks_new,
            blocks_reused=counts.blocks_reused,
            unexpected_changes=tuple(counts.unexpected_changes),
            damaged_parent_objects=tuple(sorted(counts.damaged)),
        )

    def _take_piece(self, piece: _Piece, blocks: list[_Block] | None) -> None:
        if blocks is None:
            self._drop(piece.file)
        elif not piece.file.gone:
            for block in blocks:
                self._place_block(piece.file, block)
            self._finish_piece(piece)
        self._progress.advance(piece.length)
        # Recipes that wait for the open pack must not pile up: it then closes early.
        if self._pending_bytes >= RECIPES_PENDING_BYTES_MAX:
            self._close_pack()

    def _place_block(self, file: _File, block: _Block) -> None:
        place = block.place if block.place is not None else file.known.get(block.id)
        if place is None:
            if self._pack_offset >= self._pack_bytes:
                self._close_pack()
            place = BlockPlace(self._pack_id, self._pack_offset, len(block.stored), block.crc)
            self._pack_blocks.append(block.stored)
            self._pack_offset += len(block.stored)
            file.index(block.id, place)
            self._counts.blocks_new += 1
        else:
            self._counts.blocks_reused += 1
        file.block_ids.append(block.id)
        file.places.append(place)

    def _begin_pack(self) -> None:
        self._pack_id = make_pack_id(self._snapshot_id, attempt=self._attempt, sequence=self._pack_sequence)
        self._pack_offset = len(pack_header(self._pack_id))
        self._pack_blocks: list[bytes] = []

    def _close_pack(self) -> None:
        """Hand the open pack to the storage, with the recipes finished so far: they name it, or earlier
        ones."""
        put: Future[int] | None = None
        if self._pack_blocks:
            chunks = pack_chunks(self._pack_id, self._pack_blocks)
            put = self._putters.submit(self._store.storage.put, self._store.pack_name(self._pack_id), chunks)
            self._pack_sequence += 1
        self._under_way.append((put, self._pending))
        self._pending, self._pending_bytes = [], 0
        self._begin_pack()
        while len(self._under_way) > PACKS_UNDER_WAY_MAX:
            self._settle_oldest_pack()

    def _settle_oldest_pack(self) -> None:
        """Wait until the oldest pack is durable, then store the recipes that waited for it."""
        put, recipes = self._under_way.popleft()
        if put is not None:
            self._counts.new_stored_bytes += put.result()
            crash_points.reach("snapshot.pack_written")
        if recipes:
            self._counts.new_stored_bytes += self._store.storage.put_many(recipes)

    def _drop(self, file: _File) -> None:
        if not file.source.may_vanish:
            raise SnapshotUnusable(f"{file.source.path} vanished or shrank while it was read")
        file.gone = True
        file.known.clear()

    def _finish_piece(self, piece: _Piece) -> None:
        file = piece.file
        self._counts.read_bytes += piece.length
        if not piece.ends_stretch:
            return
        stretch_index = piece.offset // STRETCH_BYTES
        end = piece.offset + piece.length
        self._finish_stretch(file, plain_bytes=end - stretch_index * STRETCH_BYTES)
        file.forget_parent_blocks(stretch_index)
        if end == file.source.stat.size_bytes:
            self._finish_file(file)

    def _finish_stretch(self, file: _File, *, plain_bytes: int) -> None:
        recipe = build_recipe(plain_bytes=plain_bytes, block_ids=b"".join(file.block_ids), places=file.places)
        file.block_ids, file.places = [], []
        encoded = encode_recipe(recipe)
        inline = encoded if recipe.block_count <= INLINE_BLOCKS_MAX else None
        stretch = Stretch(
            recipe_hash=recipe_hash(encoded) if inline is None else None,
            inline=inline,
            plain_bytes=plain_bytes,
            stored_bytes=recipe.stored_bytes,
        )
        file.stretches.append(stretch)
        parent_stretches = file.parent_entry.stretches if file.parent_entry is not None else ()
        already_stored = stretch in parent_stretches[len(file.stretches) - 1 : len(file.stretches)]
        if stretch.recipe_hash is not None and not already_stored:
            self._pending.append((self._store.recipe_name(stretch.recipe_hash), encoded))
            self._pending_bytes += len(encoded)

    def _finish_file(self, file: _File) -> None:
        entry = FileEntry(path=file.source.path, stat=file.source.stat, stretches=tuple(file.stretches))
        self._entries[entry.path] = entry
        self._counts.files_read += 1
        self._counts.damaged |= file.damaged
        unequal = file.parent_entry is not None and file.parent_entry.stretches != entry.stretches
        if file.seems_unchanged and unequal and not file.damaged:
            self._counts.unexpected_changes.append(entry.path)
        file.known.clear()
