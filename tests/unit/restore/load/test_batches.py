"""Raw documents end to end: where each begins, and which of them plain insertion would change."""

from typing import Any

import pytest
from bson import Int64, Timestamp, encode
from bson.raw_bson import RawBSONDocument
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.restore.load.batches import (
    Documents,
    as_batch,
    is_changed_by_insertion,
    join,
    may_hold_empty_timestamp,
)

EMPTY = Timestamp(0, 0)

names = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=5)
values = st.one_of(
    st.just(EMPTY),
    st.builds(Timestamp, st.integers(0, 3), st.integers(0, 3)),
    st.just(0.0),
    st.just(Int64(0)),
    st.binary(max_size=20),
    st.dictionaries(names, st.just(EMPTY), max_size=2),
    st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=9),
)
documents = st.dictionaries(names, values, max_size=5)


@given(st.lists(documents, max_size=5))
def test_a_batch_is_its_documents(found: list[dict[str, Any]]) -> None:
    raw = b"".join(encode(document) for document in found)
    batch = as_batch(raw)
    assert len(found) == batch.count
    assert [RawBSONDocument(encode(document)) for document in found] == list(batch)
    assert raw == join(list(batch)).raw


@given(documents)
def test_what_insertion_changes_is_found(document: dict[str, Any]) -> None:
    raw = encode(document)
    expected = any(name != "_id" and value == EMPTY for name, value in document.items())
    (only,) = as_batch(raw)
    assert expected is is_changed_by_insertion(only)
    assert not expected or may_hold_empty_timestamp(raw)


@pytest.mark.parametrize(
    "document",
    [
        {"_id": EMPTY},
        {"_id": 1, "inner": {"t": EMPTY}},
        {"_id": 1, "list": [EMPTY]},
        {"_id": 1, "t": Timestamp(0, 1)},
        {"_id": 1, "\x11": 0.0},
        {"_id": 1, "bytes": b"\x11t\x00" + bytes(8)},
    ],
)
def test_what_only_looks_like_it_is_left_alone(document: dict[str, Any]) -> None:
    (only,) = as_batch(encode(document))
    assert not is_changed_by_insertion(only)


@pytest.mark.parametrize("name", ["t", "", "a.b", "$x", "\x11", "a\x11\x11b", "x" * 300])
def test_names_of_all_kinds_are_seen(name: str) -> None:
    (only,) = as_batch(encode({"_id": 1, "before": b"\x11" * 50, name: EMPTY}))
    assert is_changed_by_insertion(only)


@pytest.mark.parametrize(
    "raw", [b"\x05\x00\x00\x00", encode({})[:-1], b"\x00\x00\x00\x00\x00", b"\xff\xff\xff\xff\x00"]
)
def test_bytes_that_are_no_documents_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="document"):
        as_batch(raw)


def test_the_driver_copies_documents_without_looking() -> None:
    """By `_type_marker`, which bson's own RawBSONDocument has: were it to change, a command would say so here."""
    raw = encode({"_id": 1}) + encode({"_id": 2})
    sent = encode({"documents": [Documents(raw)]})
    assert raw in sent
