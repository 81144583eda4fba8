"""Moving the living blocks of mostly dead packs into new packs.

Order: the old pack is read whole and compared with its checksum → new pack → one `moved` object per old pack. Only then
may a later run find that nothing needs the old pack. Crash: a new pack that no move names, or moves of some of the old
packs: prune sweeps the one, and goes on from the others.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ebbtide.domain.ids import SnapshotId, new_id
from ebbtide.errors import IntegrityError, ObjectNotFound, StorageFull
from ebbtide.repository.moved_pack import Extent, encode_moved
from ebbtide.repository.pack import PACK_BYTES_TARGET, check_pack, make_pack_id, pack_chunks, pack_header
from ebbtide.repository.repository import ReplicaSetStore

_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class MostlyDead:
    """A pack of which little lives. `ranges` (start, end) are sorted and do not touch."""

    pack_id: str
    size_bytes: int
    ranges: tuple[tuple[int, int], ...]

    @property
    def live_bytes(self) -> int:
        return sum(end - start for start, end in self.ranges)


def rewrite_packs(store: ReplicaSetStore, packs: Sequence[MostlyDead], *, check: Callable[[], None]) -> int:
    """Move what lives of these packs; how many were moved is returned.

    A damaged pack is left as it is: `verify` tells of it. A full storage ends it early, for moving needs room first.
    `check` as in `execute_prune`. Raises StorageError.
    """
    moved = 0
    for batch in _iter_batches(packs):
        sound = [pack for pack in batch if _is_sound(store, pack, check)]
        if not sound:
            continue
        check()
        try:
            _move(store, sound)
        except StorageFull:
            return moved
        moved += len(sound)
    return moved


def _iter_batches(packs: Sequence[MostlyDead]) -> Iterator[list[MostlyDead]]:
    """Packs whose living blocks make one new pack together."""
    batch: list[MostlyDead] = []
    for pack in packs:
        batch.append(pack)
        if sum(member.live_bytes for member in batch) >= PACK_BYTES_TARGET:
            yield batch
            batch = []
    if batch:
        yield batch


def _is_sound(store: ReplicaSetStore, pack: MostlyDead, check: Callable[[], None]) -> bool:
    name = store.pack_name(pack.pack_id)

    def read_range(*, start: int, length: int) -> bytes:
        return store.storage.get_range(name, start=start, length=length)

    try:
        check_pack(
            read_range,
            pack_id=pack.pack_id,
            object_name=name,
            size_bytes=pack.size_bytes,
            check_cancelled=check,
        )
    except (IntegrityError, ObjectNotFound):
        return False
    return True


def _move(store: ReplicaSetStore, packs: Sequence[MostlyDead]) -> None:
    # The id begins like a snapshot's, but no snapshot has it: no retry of one takes the pack for its own.
    new_pack_id = make_pack_id(SnapshotId(new_id()), attempt=0, sequence=0)
    store.storage.put(store.pack_name(new_pack_id), pack_chunks(new_pack_id, _iter_living(store, packs)))
    moves = []
    at = len(pack_header(new_pack_id))
    for pack in packs:
        extents = []
        for start, end in pack.ranges:
            extents.append(Extent(start, end - start, new_pack_id, at))
            at += end - start
        moves.append((store.moved_name(pack.pack_id), encode_moved(pack.pack_id, extents)))
    # Read back before anything relies on it: what was lost or cut short on the way must not replace what is there.
    if not _is_written(store, new_pack_id):
        raise IntegrityError(store.pack_name(new_pack_id), "was not stored as it was written")
    store.storage.put_many(moves)


def _iter_living(store: ReplicaSetStore, packs: Sequence[MostlyDead]) -> Iterator[bytes]:
    for pack in packs:
        name = store.pack_name(pack.pack_id)
        for start, end in pack.ranges:
            for at in range(start, end, _PIECE_BYTES):
                yield store.storage.get_range(name, start=at, length=min(_PIECE_BYTES, end - at))


def _is_written(store: ReplicaSetStore, pack_id: str) -> bool:
    try:
        size = store.storage.size(store.pack_name(pack_id))
    except ObjectNotFound:
        return False
    return _is_sound(store, MostlyDead(pack_id=pack_id, size_bytes=size, ranges=()), lambda: None)
