"""Storing the files of one snapshot: what the parent snapshot does not have goes into packs, in file order.

Worker threads (`source`), with processes beside them where there is much to read (`compressor`), read, hash and
compress units of a few MiB; the calling thread takes their results in file order, decides where each block is and
fills one pack after another; other threads hand them to the storage while they fill. Only the calling thread places blocks, so
the same files and the same parent always give the same recipes.

Bounds: in memory are what waits for an open pack (`pack_stream`), and the units that are being read with
UNITS_READ_PER_THREAD more a thread; RECIPES_PENDING_BYTES_MAX of recipes wait for their pack, and a file's by-hash
index holds at most INDEXED_BLOCKS_MAX blocks (the first 2 GiB of the parent's file, then its own): beyond that only
"same place" finds a block again. No other file's hashes are in memory, but for the few small files of the units under
way.

Order: a recipe is stored once all packs that it names are durable; the manifest is the caller's, afterwards.
Crash: packs and recipes that nothing names; `ReplicaSetStore.discard_attempts` removes the packs.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from ebbtide import crash_points
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.progress import ProgressReporter
from ebbtide.errors import InvalidInput, Refused, SnapshotUnusable, StorageError
from ebbtide.repository.compressor import Compressors
from ebbtide.repository.gzip_member import Buffer
from ebbtide.repository.manifest import FileEntry, Manifest, ManifestKind, Stretch, check_paths
from ebbtide.repository.pack import PACK_BYTES_TARGET, make_pack_id, pack_chunks, pack_header
from ebbtide.repository.pack_stream import PackStream
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
from ebbtide.repository.source import UNIT_BYTES, Piece, ReadBlock, ReadFile, iter_units, read_unit

# What callers of `store_files` need is importable from here too.
from ebbtide.repository.source import SourceFile as SourceFile
from ebbtide.repository.source import is_unchanged as is_unchanged
from ebbtide.repository.source import stat_file as stat_file

UNITS_READ_PER_THREAD = 1
"""Units beyond those that are being read: they bridge the time in which a finished pack is made durable."""

ASKERS_PER_COMPRESSOR = 2
"""Threads that ask a child: while one takes its answer apart, the child works for the other one."""

PACKS_UNDER_WAY_MAX = 2
"""Finished packs being made durable while the next one fills: one alone keeps the compressors waiting, a third
one gained nothing. They are in memory no more."""

COMPRESSORS_FROM_BYTES = 256 * 1024 * 1024
"""So much to read is worth the start of other processes (some hundredths of a second) and their 30 MB each."""

RECIPES_PENDING_BYTES_MAX = 8 * 1024 * 1024


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
    before_read: Callable[[int], None] | None = None,
    pack_bytes: int = PACK_BYTES_TARGET,
) -> StoredFiles:
    """Store what `parent` (a committed manifest of the same replica set) does not have; all is durable on
    return.

    `before_read` is called in worker threads with the number of bytes that one is about to read, and may wait or raise.
    Reports one phase, `store`, in plain bytes. Raises SnapshotUnusable naming a file that vanished, shrank or
    cannot be read; StorageFull and StorageError of the storage; whatever `check_cancelled` raises. After an
    error no thread or process of it runs any more.
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
    to_be_read = bytes_to_read(sources, parent=parent, full_read=full_read)
    helpers = threads if to_be_read >= COMPRESSORS_FROM_BYTES else 0
    askers = ASKERS_PER_COMPRESSOR * helpers or threads
    with Compressors(helpers, piece_bytes=UNIT_BYTES) as compressors:
        units = map_ordered(
            partial(_read_when_allowed, before_read, compressors),
            iter_units(to_read),
            threads=askers,
            window=askers + threads * UNITS_READ_PER_THREAD,
            check_cancelled=check_cancelled,
        )
        with closing(units):
            writing.store(units)
    return writing.result(sources)


def bytes_to_read(sources: Sequence[SourceFile], *, parent: Manifest | None, full_read: bool) -> int:
    """How many plain bytes a snapshot of these files has to read."""
    to_read = files_to_read(sources, parent=parent, full_read=full_read)
    return sum(source.stat.size_bytes for source in to_read)


def files_to_read(
    sources: Sequence[SourceFile], *, parent: Manifest | None, full_read: bool
) -> list[SourceFile]:
    """The files that a snapshot has to read, in order."""
    known = {entry.path: entry for entry in parent.files} if parent is not None else {}
    return [source for source in sources if full_read or not _seems_unchanged(source, known.get(source.path))]


def _seems_unchanged(source: SourceFile, entry: FileEntry | None) -> bool:
    return entry is not None and not source.always_read and is_unchanged(now=source.stat, parent=entry.stat)


def _read_when_allowed(
    before_read: Callable[[int], None] | None, compressors: Compressors, unit: list[Piece]
) -> list[tuple[Piece, list[ReadBlock] | None]]:
    if before_read is not None:
        before_read(sum(piece.length for piece in unit))
    return read_unit(unit, compressors)


def _put_pack(store: ReplicaSetStore, pack_id: str, blocks: PackStream) -> int:
    """Write a pack while it fills; the length of what is durable now. Runs in a thread of its own."""
    try:
        return store.storage.put(store.pack_name(pack_id), pack_chunks(pack_id, blocks))
    finally:
        blocks.stop()


class _OpenPack(NamedTuple):
    blocks: PackStream
    put: Future[int]


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
    ) -> Iterator[ReadFile]:
        """The files to read, in order; the entries of the others are noted on the way."""
        parent_entries = {entry.path: entry for entry in parent.files} if parent else {}
        parent_id = parent.snapshot_id if parent else None
        for source in sources:
            entry = parent_entries.get(source.path)
            seems_unchanged = _seems_unchanged(source, entry)
            if entry is not None and seems_unchanged and not full_read:
                self._entries[source.path] = replace(entry, stat=source.stat)
                self._counts.files_unchanged += 1
                self._progress.advance(source.stat.size_bytes)
            elif source.stat.size_bytes == 0:
                self._entries[source.path] = FileEntry(path=source.path, stat=source.stat, stretches=())
                self._counts.files_read += 1
            else:
                file = ReadFile(source, entry, self._store, parent_id)
                file.seems_unchanged = seems_unchanged
                yield file

    def store(self, units: Iterable[list[tuple[Piece, list[ReadBlock] | None]]]) -> None:
        """Write packs of the new blocks in `units`, and all recipes."""
        with ThreadPoolExecutor(1 + PACKS_UNDER_WAY_MAX, thread_name_prefix="pack") as self._putters:
            try:
                for unit in units:
                    for piece, blocks in unit:
                        self._take_piece(piece, blocks)
                self._close_pack()
                while self._under_way:
                    self._settle_oldest_pack()
            finally:
                if self._open_pack is not None:
                    self._open_pack.blocks.abandon()
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

    def _take_piece(self, piece: Piece, blocks: list[ReadBlock] | None) -> None:
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

    def _place_block(self, file: ReadFile, block: ReadBlock) -> None:
        place = block.place if block.place is not None else file.known.get(block.id)
        if place is None:
            if self._pack_offset >= self._pack_bytes:
                self._close_pack()
            place = BlockPlace(self._pack_id, self._pack_offset, len(block.stored), block.crc)
            self._write_block(block.stored)
            file.index(block.id, place)
            self._counts.blocks_new += 1
        else:
            self._counts.blocks_reused += 1
        file.block_ids.append(block.id)
        file.places.append(place)

    def _begin_pack(self) -> None:
        self._pack_id = make_pack_id(self._snapshot_id, attempt=self._attempt, sequence=self._pack_sequence)
        self._pack_offset = len(pack_header(self._pack_id))
        self._open_pack: _OpenPack | None = None

    def _write_block(self, stored: Buffer) -> None:
        """Hand a block to the thread that writes the open pack. Raises what the storage raised."""
        if self._open_pack is None:
            blocks = PackStream()
            put = self._putters.submit(_put_pack, self._store, self._pack_id, blocks)
            self._open_pack = _OpenPack(blocks, put)
            self._pack_sequence += 1
        if not self._open_pack.blocks.add(stored):
            self._open_pack.put.result()
            raise StorageError("put", self._store.pack_name(self._pack_id), "ended before its last block")
        self._pack_offset += len(stored)

    def _close_pack(self) -> None:
        """End the open pack; the recipes finished so far, which name it or earlier ones, wait until it is durable."""
        put: Future[int] | None = None
        if self._open_pack is not None:
            self._open_pack.blocks.finish()
            put = self._open_pack.put
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

    def _drop(self, file: ReadFile) -> None:
        if not file.source.may_vanish:
            raise SnapshotUnusable(f"{file.source.path} vanished or shrank while it was read")
        file.gone = True
        file.known.clear()

    def _finish_piece(self, piece: Piece) -> None:
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

    def _finish_stretch(self, file: ReadFile, *, plain_bytes: int) -> None:
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

    def _finish_file(self, file: ReadFile) -> None:
        entry = FileEntry(path=file.source.path, stat=file.source.stat, stretches=tuple(file.stretches))
        self._entries[entry.path] = entry
        self._counts.files_read += 1
        self._counts.damaged |= file.damaged
        unequal = file.parent_entry is not None and file.parent_entry.stretches != entry.stretches
        if file.seems_unchanged and unequal and not file.damaged:
            self._counts.unexpected_changes.append(entry.path)
        file.known.clear()
