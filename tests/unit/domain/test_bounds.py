"""Bounds: how long to wait for a rate, and when too little space is free."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.bounds import (
    BURST_SECONDS,
    FREE_BYTES_MIN,
    Bucket,
    Space,
    draw,
    is_space_low,
    least_free_bytes,
    low_space_reason,
)

GIB = 1024**3


def test_what_the_bucket_holds_costs_no_time() -> None:
    bucket = Bucket.full(100, at=0.0)
    bucket, seconds = draw(bucket, 50, at=0.0)
    assert (bucket.level, seconds) == (0.0, 0.0)


def test_more_than_the_bucket_is_a_debt_that_is_waited_for() -> None:
    bucket, seconds = draw(Bucket.full(100, at=0.0), 250, at=0.0)
    assert seconds == 2.0
    # Who comes next waits behind it.
    assert draw(bucket, 100, at=0.0)[1] == 3.0
    assert draw(bucket, 100, at=2.0)[1] == 1.0


def test_idle_time_is_not_saved_up_beyond_the_burst() -> None:
    bucket, _ = draw(Bucket.full(100, at=0.0), 1, at=1000.0)
    assert bucket.level == 100 * BURST_SECONDS - 1


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket, _ = draw(Bucket.full(100, at=10.0), 50, at=10.0)
    assert draw(bucket, 100, at=5.0)[1] == 1.0


@given(
    rate=st.floats(1, 1e9),
    amounts=st.lists(st.integers(0, 10**8), min_size=1, max_size=50),
)
def test_a_thread_that_waits_as_told_never_exceeds_rate_and_burst(rate: float, amounts: list[int]) -> None:
    bucket, now = Bucket.full(rate, at=0.0), 0.0
    for amount in amounts:
        bucket, seconds = draw(bucket, amount, at=now)
        now += seconds
    assert sum(amounts) <= rate * (now + BURST_SECONDS) * 1.000001 + 1


@pytest.mark.parametrize(
    ("total", "setting", "expected"),
    [
        (100 * GIB, None, 5 * GIB),
        (1000 * GIB, None, FREE_BYTES_MIN),
        (None, None, FREE_BYTES_MIN),
        (100 * GIB, 7, 7),
        (100 * GIB, 0, 0),
    ],
)
def test_the_least_is_the_setting_or_the_smaller_of_a_share_and_ten_gib(
    total: int | None, setting: int | None, expected: int
) -> None:
    assert expected == least_free_bytes(Space(free_bytes=0, total_bytes=total), setting=setting)


@pytest.mark.parametrize(
    ("free", "was_low", "expected"),
    [(99, False, True), (100, False, False), (100, True, True), (109, True, True), (110, True, False)],
)
def test_space_that_was_low_must_grow_a_tenth_beyond_the_least(
    free: int, was_low: bool, expected: bool
) -> None:
    space = Space(free_bytes=free, total_bytes=1000)
    assert expected is is_space_low(space, least_bytes=100, was_low=was_low)


@pytest.mark.parametrize("was_low", [False, True])
def test_without_a_least_nothing_is_ever_low(was_low: bool) -> None:
    assert not is_space_low(Space(free_bytes=0, total_bytes=10), least_bytes=0, was_low=was_low)


def test_the_reason_names_what_is_free_what_must_be_and_the_setting() -> None:
    reason = low_space_reason(Space(free_bytes=GIB, total_bytes=None), least_bytes=2 * GIB)
    assert "1.00 GiB free and 2.00 GiB" in reason
    assert "repository.min_free_bytes" in reason
