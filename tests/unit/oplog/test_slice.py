"""The format of a slice: what is written comes back, and any damage is noticed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.oplog import OplogSlice
from ebbtide.domain.optime import OpTime
from ebbtide.errors import IntegrityError, ObjectNotFound
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.draft import SliceDraft
from ebbtide.oplog.entries import ENTRY_BYTES_MAX, walk_entries
from ebbtide.oplog.slice import MEMBER_BYTES, find_slice_in_name, slice_object_name
from ebbtide.testing.oplog import fingerprints, make_entry, make_optime
from ebbtide.testing.snapshots import new_store
from ebbtide.testing.storage import Faults, FaultyStorage, MemoryStorage


def new_archive(storage: MemoryStorage | None = None) -> OplogArchive:
    return OplogArchive(new_store(storage or MemoryStorage()))


def put(archive: OplogArchive, raw: bytes, *, after: OpTime | None = None) -> OplogSlice:
    draft = SliceDraft(predecessor=after, opened=0.0)
    draft.add(raw)
    piece, members = draft.compress()
    archive.put(piece, members)
    return piece


def entries(first: int, last: int, *, payload: bytes = b"") -> bytes:
    return b"".join(make_entry(second, payload=payload) for second in range(first, last + 1))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=30), st.one_of(st.none(), st.integers(1, 9)))
def test_what_is_written_comes_back(payloads: list[bytes], after: int | None) -> None:
    archive = new_archive()
    raw = b"".join(make_entry(10 + n, payload=payload) for n, payload in enumerate(payloads))
    piece = put(archive, raw, after=None if after is None else make_optime(after))
    assert archive.slices() == (piece,)
    assert b"".join(archive.iter_raw(piece)) == raw
    assert piece.entry_count == len(payloads)
    assert piece.stored_bytes == archive.store.storage.size(archive.object_name(piece))


def test_a_slice_is_cut_into_members_of_whole_entries() -> None:
    archive = new_archive()
    # Random enough not to vanish when compressed, and one that is larger than a member.
    raw = entries(1, 40, payload=bytes(range(256)) * 400) + make_entry(41, payload=b"x" * 3 * MEMBER_BYTES)
    piece = put(archive, raw)
    members = list(archive.iter_members(piece))
    assert sum(m.plain_bytes for m in members) == len(raw)
    assert len(members) > 3
    assert b"".join(archive.iter_raw(piece)) == raw


def test_an_entry_of_sixteen_megabytes_is_an_entry() -> None:
    archive = new_archive()
    raw = make_entry(1) + make_entry(2, payload=b"y" * (16 * 1024 * 1024)) + make_entry(3)
    put(archive, raw)
    batches = list(archive.iter_batches(after=make_optime(1).timestamp, through=make_optime(3).timestamp))
    assert b"".join(batch.raw for batch in batches) == raw[len(make_entry(1)) :]
    assert (batches[0].first, batches[-1].last) == (make_optime(2), make_optime(3))


@pytest.mark.parametrize("first", [make_entry(5, term=-1), make_entry(5)])
def test_the_name_says_all_but_the_entries(first: bytes) -> None:
    archive = new_archive()
    piece = put(archive, first + make_entry(6, term=7), after=None)
    name = slice_object_name(piece)
    assert find_slice_in_name(name, stored_bytes=piece.stored_bytes) == piece


def test_the_entry_that_began_the_set_has_no_term() -> None:
    assert make_optime(5, term=-1) < make_optime(5, term=0)
    with pytest.raises(ValueError, match="term"):
        make_optime(5, term=-2)


@pytest.mark.parametrize(
    "name",
    [
        "oplog/",
        "oplog/readme",
        "oplog/0000000500000001.1-0000000600000001.1-begin-2",
        "oplog/0000000600000001.1-0000000500000001.1-begin-2-100",  # backwards
        "oplog/0000000500000001.1-0000000600000001.1-0000000500000001.1-2-100",  # its own predecessor
        "oplog/0000000500000001.1-0000000600000001.1-begin-0-100",  # nothing in it
        "oplog/0000000500000001.1-0000000600000001.1-begin-2-999999999999",  # far too long
        "oplog/0000000500000001.99999999999999999999-0000000600000001.1-begin-2-100",
        "oplog/0000000500000001.1-0000000600000001.1-begin-2-100/x",
    ],
)
def test_other_names_are_of_no_slice(name: str) -> None:
    assert find_slice_in_name(name, stored_bytes=100) is None


def test_names_sort_by_the_first_entry() -> None:
    archive = new_archive()
    second = put(archive, entries(300, 301))
    first = put(archive, entries(7, 9))
    assert [slice_object_name(first), slice_object_name(second)] == sorted(
        slice_object_name(piece) for piece in archive.slices()
    )


@given(st.data())
def test_any_flipped_bit_and_any_missing_byte_is_noticed(data: st.DataObject) -> None:
    storage = MemoryStorage()
    archive = new_archive(storage)
    piece = put(archive, entries(1, 20))
    name = archive.object_name(piece)
    if data.draw(st.booleans()):
        faults = Faults(flip_bit=(name, data.draw(st.integers(0, piece.stored_bytes * 8 - 1))))
    else:
        faults = Faults(truncate=(name, data.draw(st.integers(0, piece.stored_bytes - 1))))
    archive.store.storage = FaultyStorage(storage, faults)
    with pytest.raises(IntegrityError):
        list(archive.iter_raw(piece))


def test_a_slice_under_another_ones_name_is_noticed() -> None:
    storage = MemoryStorage()
    archive = new_archive(storage)
    one, other = put(archive, entries(1, 5)), put(archive, entries(11, 15))
    storage.objects[archive.object_name(one)] = storage.objects[archive.object_name(other)]
    with pytest.raises(IntegrityError, match="name"):
        list(archive.iter_raw(one))


def test_a_slice_that_is_absent_is_no_damage() -> None:
    archive = new_archive()
    piece = put(archive, entries(1, 5))
    archive.delete(piece)
    archive.delete(piece)
    assert archive.slices() == ()
    with pytest.raises(ObjectNotFound):
        list(archive.iter_raw(piece))


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00",
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff\x00",
        make_entry(1)[:-1],
        make_entry(1) + b"\x05",
        (ENTRY_BYTES_MAX + 1).to_bytes(4, "little") + b"\0" * 100,
    ],
)
def test_what_is_not_whole_entries_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="entry"):
        walk_entries(raw, run_bytes=100)
    with pytest.raises(ValueError, match="entry"):
        SliceDraft(predecessor=None, opened=0.0).add(raw)


@pytest.mark.parametrize("raw", [make_entry(4), make_entry(5), make_entry(7) + make_entry(6)])
def test_a_draft_takes_no_entries_out_of_order(raw: bytes) -> None:
    draft = SliceDraft(predecessor=make_optime(5), opened=0.0)
    with pytest.raises(ValueError, match="came after"):
        draft.add(raw)
    assert draft.entry_count == 0


def test_a_draft_without_entries_is_no_slice() -> None:
    draft = SliceDraft(predecessor=None, opened=0.0)
    draft.add(b"")
    with pytest.raises(ValueError, match="at least one entry"):
        draft.compress()


def test_fingerprints_tell_entries_apart() -> None:
    found = fingerprints(make_entry(1) + make_entry(1, term=2) + make_entry(2))
    assert len(set(found)) == 3
