"""Records of open work: what is kept comes back, and any damage is noticed."""

import struct
from collections.abc import Callable

import bson
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.consistent_point import (
    ClusterOperation,
    OpenWork,
    Participants,
    PartTransaction,
    TransactionId,
)
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import IntegrityError, ObjectNotFound
from ebbtide.oplog.open_work import FOLDER, OpenWorkStore, decode_record, encode_record
from ebbtide.testing.snapshots import new_store
from ebbtide.testing.storage import MemoryStorage

AT = OplogTimestamp(1_780_000_000, 7)
WORK = OpenWork(
    transactions=(PartTransaction(id=TransactionId("id=00.uid=ff", 3), prepared=AT),),
    participants=(Participants(id=TransactionId("id=00", 1), shards=("shard0", "shard1"), recorded=None),),
    operations=(ClusterOperation(name="dropCollection of shop.orders", began=None),),
)

timestamps = st.builds(OplogTimestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
ids = st.builds(TransactionId, names, st.integers(-(2**63), 2**63 - 1))
maybe = st.none() | timestamps
works = st.builds(
    OpenWork,
    transactions=st.lists(st.builds(PartTransaction, id=ids, prepared=maybe, committed=st.none())).map(tuple),
    participants=st.lists(
        st.builds(Participants, id=ids, shards=st.lists(names).map(tuple), recorded=maybe, removed=st.none())
    ).map(tuple),
    operations=st.lists(st.builds(ClusterOperation, name=names, began=maybe, ended=st.none())).map(tuple),
)


def store() -> OpenWorkStore:
    return OpenWorkStore(new_store(MemoryStorage()))


def with_checksum(body: bytes) -> bytes:
    return body + blake3(body).digest()


@given(timestamps, works)
def test_what_is_kept_comes_back(at: OplogTimestamp, work: OpenWork) -> None:
    assert work == decode_record(encode_record(at, work), at=at, object_name="record")


@given(st.integers(0), st.integers(0, 7))
def test_any_flipped_bit_is_noticed(place: int, bit: int) -> None:
    data = bytearray(encode_record(AT, WORK))
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(IntegrityError):
        decode_record(bytes(data), at=AT, object_name="record")


@pytest.mark.parametrize("length", [0, 1, 31, 32, 40, 50, 60])
def test_a_record_that_was_cut_is_noticed(length: int) -> None:
    with pytest.raises(IntegrityError):
        decode_record(encode_record(AT, WORK)[:length], at=AT, object_name="record")


@pytest.mark.parametrize(
    "change",
    [
        lambda body: b"OTHER\r\n\0" + body[8:],
        lambda body: body[:8] + struct.pack("<H", 2) + body[10:],
        lambda body: body[:18] + bson.encode({"transactions": []}),
        lambda body: body[:18] + bson.encode({**WORK.to_document(), "transactions": [{"session": "s"}]}),
        lambda body: body[:18] + bson.encode({**WORK.to_document(), "operations": [{"name": "x", "began": 5}]}),
        lambda body: body[:-1],
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused_though_its_checksum_is_right(change: Callable[[bytes], bytes]) -> None:
    body = encode_record(AT, WORK)[:-32]
    with pytest.raises(IntegrityError):
        decode_record(with_checksum(change(body)), at=AT, object_name="record")


def test_a_record_of_another_moment_is_refused() -> None:
    with pytest.raises(IntegrityError, match="moment"):
        decode_record(encode_record(AT, WORK), at=OplogTimestamp(1, 1), object_name="record")


def test_records_are_listed_by_their_moments_and_removed_again() -> None:
    records = store()
    later, earlier = OplogTimestamp(300, 0), OplogTimestamp(16, 2**32 - 1)
    for at in (later, earlier, later):
        records.put(at, WORK)
    assert [earlier, later] == records.moments()
    assert records.load(later) == WORK

    for _ in range(2):
        records.delete(earlier)
    assert [later] == records.moments()
    with pytest.raises(ObjectNotFound, match=FOLDER):
        records.load(earlier)
