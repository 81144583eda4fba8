"""Oplog timestamps."""

from datetime import UTC, datetime

import pytest
from bson import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.optime import OplogTimestamp

parts = st.integers(0, 2**32 - 1)
timestamps = st.builds(OplogTimestamp, parts, parts)


@given(timestamps)
def test_bson_and_back_is_the_same(timestamp: OplogTimestamp) -> None:
    assert timestamp == OplogTimestamp.from_bson(timestamp.to_bson())


@given(timestamps, timestamps)
def test_the_order_is_the_oplogs(one: OplogTimestamp, other: OplogTimestamp) -> None:
    assert (one < other) is (one.to_bson() < other.to_bson())


@given(parts, parts)
def test_wiredtigers_form_has_the_seconds_in_its_high_half(seconds: int, increment: int) -> None:
    assert OplogTimestamp(seconds, increment) == OplogTimestamp.from_packed(seconds << 32 | increment)


@pytest.mark.parametrize(("seconds", "increment"), [(-1, 0), (0, -1), (2**32, 0), (0, 2**32)])
def test_what_bson_cannot_hold_is_refused(seconds: int, increment: int) -> None:
    with pytest.raises(ValueError, match="oplog timestamp"):
        OplogTimestamp(seconds, increment)


def test_its_date_is_in_utc_and_its_text_is_the_pair() -> None:
    timestamp = OplogTimestamp(1700000000, 3)
    assert timestamp.date == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert str(timestamp) == "(1700000000, 3)"
    assert timestamp.to_bson() == Timestamp(1700000000, 3)
