"""How often somebody may call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.rate_limit import RateLimit, refill, spend, wait_seconds


def test_a_rush_is_allowed_and_then_the_rate() -> None:
    limit = RateLimit(requests=6)
    allowance = refill(None, limit, at=100.0)
    for _ in range(6):
        assert wait_seconds(allowance, limit) == 0.0
        allowance = spend(allowance)
    assert wait_seconds(allowance, limit) == 10.0
    assert wait_seconds(refill(allowance, limit, at=106.0), limit) == pytest.approx(4.0)
    assert wait_seconds(refill(allowance, limit, at=110.0), limit) == 0.0


def test_a_clock_that_stands_or_runs_back_gives_nothing() -> None:
    limit = RateLimit(requests=1)
    empty = spend(refill(None, limit, at=100.0))
    assert wait_seconds(refill(empty, limit, at=100.0), limit) == 60.0
    assert wait_seconds(refill(empty, limit, at=50.0), limit) == 60.0


@given(st.integers(1, 100), st.lists(st.floats(0, 120), max_size=200))
def test_never_more_than_twice_the_limit_in_any_minute(requests: int, pauses: list[float]) -> None:
    limit, allowance, at = RateLimit(requests=requests), None, 0.0
    granted: list[float] = []
    for pause in pauses:
        at += pause
        allowance = refill(allowance, limit, at=at)
        if not wait_seconds(allowance, limit):
            allowance = spend(allowance)
            granted.append(at)
    for begin in granted:
        assert len([moment for moment in granted if begin <= moment < begin + 60]) <= 2 * requests
