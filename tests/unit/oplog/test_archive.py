"""Reading an archive: every entry once and in order, whatever slices hold it, and however they change meanwhile."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.oplog import OplogGapError
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import IntegrityError, ObjectNotFound
from ebbtide.oplog import archive as archive_module
from ebbtide.oplog.archive import EntryBatch, OplogArchive
from ebbtide.oplog.draft import SliceDraft
from ebbtide.oplog.merge import merge_slices, remove_parts
from ebbtide.testing.oplog import fingerprints, make_entry, make_optime
from ebbtide.testing.snapshots import new_store
from ebbtide.testing.storage import MemoryStorage

ENTRIES = [make_entry(second, payload=bytes([second % 251]) * 50) for second in range(100)]


def ts(second: int) -> OplogTimestamp:
    return make_optime(second).timestamp


def put(archive: OplogArchive, first: int, last: int, *, begins: bool = False) -> None:
    """A slice of the entries of these seconds."""
    draft = SliceDraft(predecessor=None if begins else make_optime(first - 1), opened=0.0)
    draft.add(b"".join(ENTRIES[first : last + 1]))
    archive.put(*draft.compress())


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def archive(storage: MemoryStorage) -> OplogArchive:
    return OplogArchive(new_store(storage))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "BATCH_BYTES", 1)


def read(archive: OplogArchive, after: int, through: int) -> list[bytes]:
    return [batch.raw for batch in archive.iter_batches(after=ts(after), through=ts(through))]


def expected(after: int, through: int) -> bytes:
    return b"".join(ENTRIES[after + 1 : through + 1])


@given(st.integers(10, 60), st.integers(10, 60))
def test_exactly_the_entries_between_are_read(after: int, through: int) -> None:
    archive = OplogArchive(new_store(MemoryStorage()))
    put(archive, 10, 29, begins=True)
    # Overlaps, as two workers at once would leave them.
    put(archive, 30, 40)
    put(archive, 35, 60)
    assert b"".join(read(archive, after, through)) == expected(after, through)
    assert archive.count(after=ts(after), through=ts(through)) == max(0, through - after)


def test_a_batch_says_what_is_in_it(archive: OplogArchive) -> None:
    put(archive, 1, 20, begins=True)
    (batch,) = archive.iter_batches(after=ts(4), through=ts(9))
    assert batch == EntryBatch(raw=expected(4, 9), count=5, first=make_optime(5), last=make_optime(9))


def test_optimes_are_found(archive: OplogArchive) -> None:
    put(archive, 1, 20, begins=True)
    put(archive, 30, 40, begins=True)
    assert archive.find_optime(ts(7)) == make_optime(7)
    assert archive.find_optime(OplogTimestamp(7, 2)) is None
    assert archive.newest_at_or_before(OplogTimestamp(7, 2)) == make_optime(7)
    # Between the two, where something is missing, the newest is the last one before.
    assert archive.newest_at_or_before(ts(25)) == make_optime(20)
    assert archive.find_optime(ts(25)) is None
    assert archive.newest_at_or_before(ts(90)) == make_optime(40)
    assert archive.newest_at_or_before(OplogTimestamp(0, 9)) is None


def test_an_empty_archive_has_nothing(archive: OplogArchive) -> None:
    assert (archive.slices(), archive.ranges(), archive.newest()) == ((), (), None)
    assert archive.newest_at_or_before(ts(5)) is None
    with pytest.raises(OplogGapError):
        read(archive, 1, 2)


def test_a_gap_is_refused_before_the_first_entry_is_given(archive: OplogArchive) -> None:
    put(archive, 1, 20, begins=True)
    put(archive, 22, 40)
    with pytest.raises(OplogGapError):
        next(iter(archive.iter_batches(after=ts(5), through=ts(30))))


def test_other_objects_beside_the_slices_are_left_alone(
    archive: OplogArchive, storage: MemoryStorage
) -> None:
    put(archive, 1, 5, begins=True)
    storage.put(archive.store.object_name("oplog/readme"), [b"hello"])
    assert len(archive.slices()) == 1


@pytest.mark.usefixtures("small_batches")
def test_a_reader_does_not_notice_that_slices_are_merged_under_it(archive: OplogArchive) -> None:
    for first in range(0, 100, 10):
        put(archive, first, first + 9, begins=first == 0)
    reader = archive.iter_batches(after=ts(0), through=ts(99))
    found = [next(reader).raw, next(reader).raw]
    _merge_all(archive)
    assert len(archive.slices()) == 1
    found += [batch.raw for batch in reader]
    assert b"".join(found) == expected(0, 99)


def _merge_all(archive: OplogArchive) -> None:
    parts = archive.slices()
    merged = merge_slices(archive, parts, check=lambda: None)
    remove_parts(archive, [(part, merged) for part in parts], check=lambda: None)


@pytest.mark.parametrize("look", [lambda a: a.find_optime(ts(15)), lambda a: a.newest_at_or_before(ts(15))])
def test_looking_for_an_entry_goes_on_while_slices_are_merged(
    archive: OplogArchive, look: Callable[[OplogArchive], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(archive, 1, 10, begins=True)
    put(archive, 11, 20)
    slices = archive.slices()
    listings = iter([slices])
    _merge_all(archive)
    real = archive.slices
    monkeypatch.setattr(archive, "slices", lambda: next(listings, None) or real())
    assert look(archive) == make_optime(15)


def test_a_slice_that_is_listed_and_gone_for_good_ends_the_reader(
    archive: OplogArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(archive, 1, 10, begins=True)
    slices = archive.slices()
    archive.delete(slices[0])
    monkeypatch.setattr(archive, "slices", lambda: slices)
    with pytest.raises(ObjectNotFound):
        read(archive, 1, 10)


def test_merging_keeps_entries_and_predecessor(archive: OplogArchive) -> None:
    for first in range(10, 40, 10):
        put(archive, first, first + 9)
    before = archive.ranges()
    parts = archive.slices()
    merged = merge_slices(archive, parts, check=lambda: None)
    assert (merged.predecessor, merged.first, merged.last) == (
        make_optime(9),
        make_optime(10),
        make_optime(39),
    )
    assert archive.ranges() == before
    assert fingerprints(b"".join(archive.iter_raw(merged))) == fingerprints(b"".join(ENTRIES[10:40]))


def test_a_damaged_part_is_not_merged(archive: OplogArchive, storage: MemoryStorage) -> None:
    put(archive, 10, 19)
    put(archive, 20, 29)
    damaged, intact = archive.slices()
    name = archive.object_name(damaged)
    storage.objects[name] = storage.objects[name][:-1] + b"\0"
    with pytest.raises(IntegrityError, match="checksum"):
        merge_slices(archive, [damaged, intact], check=lambda: None)
    assert archive.slices() == (damaged, intact)


def test_parts_of_a_damaged_slice_stay(archive: OplogArchive, storage: MemoryStorage) -> None:
    put(archive, 10, 19)
    put(archive, 20, 29)
    parts = archive.slices()
    merged = merge_slices(archive, parts, check=lambda: None)
    name = archive.object_name(merged)
    data = bytearray(storage.objects[name])
    data[100] ^= 1
    storage.objects[name] = bytes(data)
    with pytest.raises(IntegrityError):
        remove_parts(archive, [(part, merged) for part in parts], check=lambda: None)
    assert set(parts) < set(archive.slices())
