"""A rate limit: how long who moves bytes waits, by a clock that only sleeping moves."""

from datetime import UTC, datetime

import pytest

from ebbtide.errors import JobCancelled
from ebbtide.storage.throttled import WAIT_SECONDS_MAX, RateLimit, ThrottledStorage, stoppable
from ebbtide.testing.storage import MemoryStorage


class SleepingClock:
    """Time passes by sleeping only."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_bytes_beyond_the_burst_are_waited_for_in_short_pieces() -> None:
    clock = SleepingClock()
    limit = RateLimit(1000, clock)
    for _ in range(3):
        limit.take(1000)
    assert clock.monotonic() == pytest.approx(2.5)
    assert max(clock.slept) <= WAIT_SECONDS_MAX


def test_who_waits_stops_when_it_is_told_to() -> None:
    def cancelled() -> None:
        raise JobCancelled("the job was cancelled")

    clock = SleepingClock()
    with pytest.raises(JobCancelled):
        RateLimit(1000, clock).take(10_000, check=cancelled)
    assert clock.slept == []


def test_a_put_that_is_told_to_stop_while_it_waits_stores_nothing() -> None:
    def cancelled() -> None:
        raise JobCancelled("the job was cancelled")

    clock, inner = SleepingClock(), MemoryStorage()
    storage = stoppable(ThrottledStorage(inner, writes=RateLimit(1000, clock)), cancelled)
    with pytest.raises(JobCancelled):
        storage.put("a", [b"x" * 400, b"y" * 400])
    with pytest.raises(JobCancelled):
        storage.put_many([("b", b"z" * 400)])
    assert inner.objects == {}
    assert stoppable(inner, cancelled) is inner


def test_puts_share_one_limit_and_reads_have_none() -> None:
    clock = SleepingClock()
    storage = ThrottledStorage(MemoryStorage(), writes=RateLimit(1000, clock))
    storage.put("a", [b"x" * 500, b"y" * 500])
    storage.put_many([("b", b"z" * 500), ("c", b"z" * 500)])
    assert clock.monotonic() == pytest.approx(1.5)
    storage.get("a", limit=1000)
    storage.get_range("a", start=0, length=1000)
    assert clock.monotonic() == pytest.approx(1.5)
