"""Reading and writing the oplog archive of one replica set; the repository alone says what there is.

Nothing is kept in memory between calls: each asks the storage for the names of the slices, which say all but the
entries themselves. A slice that is gone when it is read was merged meanwhile: the names are asked for again.

Invariant: what is read was compared with the slice's checksum first, and with the name that promised it.
Threads: any. Crash: a slice is there or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ebbtide.domain.oplog import (
    OplogRange,
    OplogSlice,
    choose_slices,
    covered_ranges,
    find_slice,
    newest_slice,
)
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.errors import ObjectNotFound
from ebbtide.oplog.entries import entry_starts, first_beyond, optime_at
from ebbtide.oplog.slice import (
    FOLDER,
    Member,
    check_ends,
    decode_slice,
    find_slice_in_name,
    inflate_entries,
    slice_bytes_max,
    slice_chunks,
    slice_object_name,
)
from ebbtide.repository.repository import ReplicaSetStore

BATCH_BYTES = 8 * 1024 * 1024
"""A batch ends with the member that reaches this: at most about 9 MiB, or one entry of 16 MiB more."""

_LISTINGS_MAX = 5
"""So often a slice may vanish under a reader before that counts as damage."""


@dataclass(frozen=True, kw_only=True)
class EntryBatch:
    """`count` entries in a row, whole BSON documents end to end in `raw`."""

    raw: bytes
    count: int
    first: OpTime
    last: OpTime


class OplogArchive:
    """The archive of one replica set."""

    def __init__(self, store: ReplicaSetStore) -> None:
        self.store = store

    def object_name(self, piece: OplogSlice) -> str:
        """The whole name of a slice's object."""
        return self.store.object_name(slice_object_name(piece))

    # --- what there is --------------------------------------------------------------------------------------------

    def slices(self) -> tuple[OplogSlice, ...]:
        """Every slice, by its first entry. Raises StorageError."""
        sizes = self.store.sizes(FOLDER).items()
        found = [find_slice_in_name(name, stored_bytes=size) for name, size in sizes]
        return tuple(sorted((s for s in found if s is not None), key=lambda s: (s.first, s.last)))

    def ranges(self) -> tuple[OplogRange, ...]:
        """What is covered without a gap, oldest first."""
        return covered_ranges(self.slices())

    def newest(self) -> OplogSlice | None:
        """The slice that holds the newest entry."""
        return newest_slice(self.slices())

    def find_optime(self, timestamp: OplogTimestamp) -> OpTime | None:
        """The optime of the entry with exactly this timestamp. Raises IntegrityError, StorageError."""
        found = self.newest_at_or_before(timestamp)
        return found if found is not None and found.timestamp == timestamp else None

    def newest_at_or_before(self, timestamp: OplogTimestamp) -> OpTime | None:
        """The newest archived entry that is not beyond `timestamp`. Raises IntegrityError, StorageError."""
        for _ in range(_LISTINGS_MAX):
            slices = self.slices()
            around = find_slice(slices, timestamp)
            if around is None:
                return max((s.last for s in slices if s.last.timestamp <= timestamp), default=None)
            try:
                return self._newest_within(around, timestamp)
            except ObjectNotFound as error:
                gone = error
        raise gone

    def count(self, *, after: OplogTimestamp, through: OplogTimestamp) -> int:
        """How many entries lie beyond `after`, up to `through`. Raises as `iter_batches` does."""
        return sum(batch.count for batch in self.iter_batches(after=after, through=through))

    # --- reading --------------------------------------------------------------------------------------------------

    def iter_batches(self, *, after: OplogTimestamp, through: OplogTimestamp) -> Iterator[EntryBatch]:
        """Every entry with `after` < ts ≤ `through`, once, in order.

        Raises OplogGapError before the first batch where not all of them are archived (`after` must lie in the archive,
        or be the predecessor of its first entry; `through` must not lie beyond its newest); IntegrityError,
        ObjectNotFound and StorageError where the storage fails.
        """
        position = after
        listings = 0
        while position < through:
            listings += 1
            try:
                for piece in choose_slices(self.slices(), after=position, through=through):
                    for batch in self._iter_slice(piece, after=position, through=through):
                        yield batch
                        position, listings = batch.last.timestamp, 0
                    # Its last entries may be those that an earlier slice had.
                    position = max(position, min(piece.last.timestamp, through))
            except ObjectNotFound:
                if listings >= _LISTINGS_MAX:
                    raise

    def iter_raw(self, piece: OplogSlice) -> Iterator[bytes]:
        """All entries of a slice, some at a time. Raises IntegrityError, ObjectNotFound."""
        name = self.object_name(piece)
        for member in self.iter_members(piece):
            yield inflate_entries(member, object_name=name)

    def iter_members(self, piece: OplogSlice) -> Iterator[Member]:
        """The compressed runs of a slice, whose ends were checked. Raises IntegrityError, ObjectNotFound."""
        name = self.object_name(piece)
        data = self.store.storage.get(name, limit=slice_bytes_max(piece))
        members = list(decode_slice(data, piece=piece, object_name=name))
        first = inflate_entries(members[0], object_name=name)
        last = inflate_entries(members[-1], object_name=name)
        check_ends(piece, first=first, last=last, object_name=name)
        yield from members

    def _iter_slice(
        self, piece: OplogSlice, *, after: OplogTimestamp, through: OplogTimestamp
    ) -> Iterator[EntryBatch]:
        gathered: list[bytes] = []
        size = 0
        for raw in self.iter_raw(piece):
            gathered.append(raw)
            size += len(raw)
            if size >= BATCH_BYTES:
                yield from _cut(b"".join(gathered), after=after, through=through)
                gathered, size = [], 0
        if gathered:
            yield from _cut(b"".join(gathered), after=after, through=through)

    def _newest_within(self, piece: OplogSlice, timestamp: OplogTimestamp) -> OpTime:
        if timestamp == piece.last.timestamp:
            return piece.last
        newest = piece.first
        for batch in self._iter_slice(piece, after=OplogTimestamp(0, 0), through=timestamp):
            newest = batch.last
        return newest

    # --- writing --------------------------------------------------------------------------------------------------

    def put(self, piece: OplogSlice, members: list[Member]) -> None:
        """Store a slice. Idempotent. Raises StorageError, and what the storage's limiter raises."""
        name = self.object_name(piece)
        self.store.storage.put(name, slice_chunks(piece, members))

    def delete(self, piece: OplogSlice) -> None:
        """Remove a slice. Idempotent. Only who trims or merges knows when that is safe."""
        self.store.delete_object(slice_object_name(piece))


def _cut(raw: bytes, *, after: OplogTimestamp, through: OplogTimestamp) -> Iterator[EntryBatch]:
    """The entries of `raw` that are wanted, as one batch; nothing where there are none."""
    starts = entry_starts(raw)
    low = first_beyond(raw, starts, after)
    high = first_beyond(raw, starts, through)
    if low >= high:
        return
    end = starts[high] if high < len(starts) else len(raw)
    yield EntryBatch(
        raw=raw[starts[low] : end],
        count=high - low,
        first=optime_at(raw, starts[low]),
        last=optime_at(raw, starts[high - 1]),
    )
