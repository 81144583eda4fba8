"""What to worry about, from what is seen: rules with two thresholds each, so that a concern is told once.

A concern begins at one value and ends at a better one. What is not known at the moment changes nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from ebbtide.domain.bounds import Space, is_space_low, least_free_bytes
from ebbtide.domain.cluster import HeadState

LAGGING_SHARE = 0.5
LAGGING_OVER_SHARE = 0.25
"""Of the oplog window: a head that lags by all of it can never catch up."""

BEHIND_SECONDS = 60.0
BEHIND_OVER_SECONDS = 30.0
"""A lag of more than the one is being behind, until it is less than the other."""

BEHIND_FOR_SECONDS = 300.0
"""Restarts, elections and bursts of writes are over within minutes."""


class Concern(StrEnum):
    """Something about a head that somebody should look at before it hurts."""

    LAGGING = "LAGGING"  # its lag is beyond half of the oplog window
    BEHIND = "BEHIND"  # it has not kept up for minutes
    LOCKED = "LOCKED"  # it has been locked for long, and is still
    DISK_LOW = "DISK_LOW"  # the filesystem of its files is nearly full


@dataclass(frozen=True, kw_only=True)
class HeadObservation:
    """A head at one moment. Durations in seconds; None: not known, or (`locked_for`) not locked.

    `behind_for`: how long it has been behind (0: it is not). `window`: how far back its set's oplog reaches.
    """

    lag: float | None
    window: float | None
    behind_for: float
    locked_for: float | None
    disk: Space | None


def is_behind(
    state: HeadState, *, lag: float | None, is_locked: bool, in_trouble: bool, was_behind: bool
) -> bool:
    """Whether a head does not keep up now. One that has not joined yet, or waits for a person, is no laggard.

    `in_trouble`: it could not be asked at the last look, so its lag is an old one.
    """
    if state is HeadState.DOWN:
        return True
    if state is not HeadState.FOLLOWING or is_locked:
        return False
    if in_trouble:
        return True
    if lag is None:
        return was_behind
    return lag > (BEHIND_OVER_SECONDS if was_behind else BEHIND_SECONDS)


def judge_head(
    seen: HeadObservation, *, before: frozenset[Concern], lock_warn_seconds: float
) -> frozenset[Concern]:
    """The concerns that hold now; `before` are those that held at the last look."""
    holds = {
        Concern.LAGGING: _is_lagging(seen, was=Concern.LAGGING in before),
        Concern.BEHIND: seen.behind_for >= BEHIND_FOR_SECONDS
        or (Concern.BEHIND in before and seen.behind_for > 0),
        Concern.LOCKED: seen.locked_for is not None and seen.locked_for >= lock_warn_seconds,
        Concern.DISK_LOW: _is_disk_low(seen.disk, was=Concern.DISK_LOW in before),
    }
    return frozenset(concern for concern, is_so in holds.items() if is_so)


def _is_lagging(seen: HeadObservation, *, was: bool) -> bool:
    if seen.lag is None or seen.window is None:
        return was
    return seen.lag > seen.window * (LAGGING_OVER_SHARE if was else LAGGING_SHARE)


def _is_disk_low(disk: Space | None, *, was: bool) -> bool:
    if disk is None:
        return was
    return is_space_low(disk, least_bytes=least_free_bytes(disk, setting=None), was_low=was)
