"""An archiver, a merger and a trimmer that die, or whose storage fails, at any operation.

Each run writes slices of one known history, merges and trims, is stopped at one operation, and goes on as the next
worker would: behind the newest slice that the storage holds. At every moment what is archived must be a part of the
history without a gap.
"""

import itertools
from collections.abc import Callable

import pytest

from ebbtide.backup.archive_pipeline import store_draft
from ebbtide.domain.oplog_upkeep import plan_merges, plan_trim, redundant_slices
from ebbtide.errors import StorageError
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.draft import SliceDraft
from ebbtide.oplog.merge import merge_slices, remove_parts
from ebbtide.testing.oplog import archived_between, fingerprints, make_entry, make_optime
from ebbtide.testing.snapshots import new_store
from ebbtide.testing.storage import Faults, FaultyStorage, MemoryStorage, SimulatedCrash

HISTORY = [make_entry(second, payload=bytes([second]) * 20) for second in range(1, 61)]
FINGERPRINTS = fingerprints(b"".join(HISTORY))
SLICE_ENTRIES = 3
NEEDED_FROM = 20


def nothing() -> None:
    pass


def archive_on(storage: MemoryStorage | FaultyStorage, base: OplogArchive) -> OplogArchive:
    store = base.store
    return OplogArchive(
        type(store)(storage, cluster_id=store.cluster_id, replica_set_name=store.replica_set_name)
    )


def write_on(archive: OplogArchive, *, upto: int) -> None:
    """What an archiver does: go on behind the newest slice."""
    newest = archive.newest()
    done = 0 if newest is None else newest.last.timestamp.seconds
    while done < upto:
        draft = SliceDraft(predecessor=make_optime(done) if done else None, opened=0.0)
        draft.add(b"".join(HISTORY[done : min(done + SLICE_ENTRIES, upto)]))
        store_draft(archive, draft)
        done = min(done + SLICE_ENTRIES, upto)


def keep_small(archive: OplogArchive) -> None:
    """What the upkeep does."""
    for piece in plan_trim(archive.slices(), needed_from=make_optime(NEEDED_FROM).timestamp):
        archive.delete(piece)
    for group in plan_merges(archive.slices(), count_min=4):
        merge_slices(archive, group, check=nothing)
    remove_parts(archive, list(redundant_slices(archive.slices()).items()), check=nothing)


def live(archive: OplogArchive) -> None:
    """The life of an archive: written, kept small, written again, kept small again."""
    for upto in (30, 45, 60):
        write_on(archive, upto=upto)
        keep_small(archive)


def require_sound(archive: OplogArchive) -> None:
    """One range, which reaches back far enough, and in it exactly the history."""
    ranges = archive.ranges()
    if not ranges:
        return
    (covered,) = ranges
    first, last = covered.first.timestamp.seconds, covered.last.timestamp.seconds
    assert first <= NEEDED_FROM
    assert archived_between(archive, covered) == FINGERPRINTS[first:last]


def _operations() -> int:
    storage = FaultyStorage(MemoryStorage(), Faults())
    live(archive_on(storage, OplogArchive(new_store(MemoryStorage()))))
    return storage.operations


OPERATIONS = _operations()
FAULTS: list[Callable[[int], Faults]] = [
    lambda n: Faults(crash_at_operation=n),
    lambda n: Faults(fail_operation=n),
    lambda n: Faults(crash_after_put=n),
    lambda n: Faults(crash_before_put=n),
]


@pytest.mark.parametrize("make_faults", FAULTS, ids=["crash", "failure", "after put", "before put"])
def test_whatever_happens_the_archive_is_a_part_of_the_history(make_faults: Callable[[int], Faults]) -> None:
    for operation in range(1, OPERATIONS + 1):
        memory = MemoryStorage()
        base = OplogArchive(new_store(memory))
        try:
            live(archive_on(FaultyStorage(memory, make_faults(operation)), base))
        except (SimulatedCrash, StorageError):
            pass
        require_sound(base)
        live(base)
        require_sound(base)
        assert base.ranges()[0].last == make_optime(60)


def test_two_archivers_at_once_write_the_same_history() -> None:
    """A worker that lost its lease goes on for a while; slices then begin and end elsewhere."""
    memory = MemoryStorage()
    one = OplogArchive(new_store(memory))
    write_on(one, upto=20)
    for first, last in itertools.pairwise((20, 22, 29, 31)):
        draft = SliceDraft(predecessor=make_optime(first), opened=0.0)
        draft.add(b"".join(HISTORY[first:last]))
        store_draft(one, draft)
    draft = SliceDraft(predecessor=make_optime(20), opened=0.0)
    draft.add(b"".join(HISTORY[20:40]))
    store_draft(one, draft)
    require_sound(one)
    live(one)
    require_sound(one)
