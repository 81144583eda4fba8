"""What is worth a warning: each concern begins at one value and ends at a better one."""

from dataclasses import replace

import pytest

from ebbtide.domain.bounds import Space
from ebbtide.domain.cluster import HeadState
from ebbtide.domain.watch import Concern, HeadObservation, is_behind, judge_head

GIB = 1024**3
FINE = HeadObservation(
    lag=0.5,
    window=3600.0,
    behind_for=0.0,
    locked_for=None,
    disk=Space(free_bytes=90 * GIB, total_bytes=100 * GIB),
)


def judge(seen: HeadObservation, *before: Concern) -> set[Concern]:
    return set(judge_head(seen, before=frozenset(before), lock_warn_seconds=300.0))


def test_a_head_that_follows_is_no_concern() -> None:
    assert judge(FINE) == set()
    assert judge(FINE, *Concern) == set()


@pytest.mark.parametrize(
    ("lag", "was", "expected"),
    [
        (1800.0, False, False),
        (1801.0, False, True),
        (901.0, True, True),
        (900.0, True, False),
        (None, True, True),
        (None, False, False),
    ],
)
def test_lag_is_a_concern_beyond_half_of_the_window_until_it_is_a_quarter(
    lag: float | None, was: bool, expected: bool
) -> None:
    before = (Concern.LAGGING,) if was else ()
    assert expected is (Concern.LAGGING in judge(replace(FINE, lag=lag), *before))


def test_without_a_known_window_lag_says_nothing() -> None:
    assert judge(replace(FINE, lag=1e6, window=None)) == set()


@pytest.mark.parametrize(
    ("seconds", "was", "expected"),
    [(299.0, False, False), (300.0, False, True), (1.0, True, True), (0.0, True, False)],
)
def test_being_behind_for_minutes_is_a_concern_until_it_is_over(
    seconds: float, was: bool, expected: bool
) -> None:
    before = (Concern.BEHIND,) if was else ()
    assert expected is (Concern.BEHIND in judge(replace(FINE, behind_for=seconds), *before))


def test_a_long_lock_is_a_concern_while_it_is_held() -> None:
    assert judge(replace(FINE, locked_for=299.0)) == set()
    assert judge(replace(FINE, locked_for=300.0)) == {Concern.LOCKED}
    assert judge(FINE, Concern.LOCKED) == set()


@pytest.mark.parametrize(
    ("free", "was", "expected"),
    [(4.9, False, True), (5.0, False, False), (5.4, True, True), (5.6, True, False)],
)
def test_a_disk_is_low_below_a_twentieth_and_fine_a_tenth_above_that(
    free: float, was: bool, expected: bool
) -> None:
    disk = Space(free_bytes=int(free * GIB), total_bytes=100 * GIB)
    before = (Concern.DISK_LOW,) if was else ()
    assert expected is (Concern.DISK_LOW in judge(replace(FINE, disk=disk), *before))
    assert (Concern.DISK_LOW in judge(replace(FINE, disk=None), *before)) is was


@pytest.mark.parametrize(
    ("state", "lag", "is_locked", "in_trouble", "was", "expected"),
    [
        (HeadState.FOLLOWING, 60.0, False, False, False, False),
        (HeadState.FOLLOWING, 61.0, False, False, False, True),
        (HeadState.FOLLOWING, 31.0, False, False, True, True),
        (HeadState.FOLLOWING, 30.0, False, False, True, False),
        (HeadState.FOLLOWING, 0.0, False, True, False, True),
        (HeadState.FOLLOWING, None, False, False, True, True),
        (HeadState.FOLLOWING, None, False, False, False, False),
        (HeadState.FOLLOWING, 999.0, True, True, False, False),
        (HeadState.DOWN, None, False, False, False, True),
        (HeadState.SYNCING, 999.0, False, True, False, False),
        (HeadState.FAILED, None, False, True, True, False),
    ],
)
def test_who_is_behind(
    state: HeadState, lag: float | None, is_locked: bool, in_trouble: bool, was: bool, expected: bool
) -> None:
    behind = is_behind(state, lag=lag, is_locked=is_locked, in_trouble=in_trouble, was_behind=was)
    assert expected is behind
