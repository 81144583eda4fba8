"""How far behind an archive is, when somebody should know, and whose oplog is read."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ebbtide.domain.archive_state import (
    ArchiveState,
    is_behind,
    lag_at,
    members_to_tail,
    other_data_members,
)
from ebbtide.domain.ids import ClusterId

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def test_an_archive_that_nobody_observes_falls_behind() -> None:
    state = ArchiveState(id=ClusterId("a" * 24), observed=NOW, lag_seconds=2.0)
    assert lag_at(state, NOW) == 2.0
    assert lag_at(state, NOW + timedelta(seconds=40)) == 42.0
    # A clock that went back makes nothing better.
    assert lag_at(state, NOW - timedelta(seconds=40)) == 2.0


def test_an_archive_that_has_not_begun_has_no_lag() -> None:
    assert lag_at(ArchiveState(id=ClusterId("a" * 24), observed=NOW), NOW) is None


@pytest.mark.parametrize(
    ("lag", "window", "was", "expected"),
    [
        (59.0, None, False, False),
        (61.0, None, False, True),
        (61.0, 86_400.0, False, True),
        # Half of what the oplog holds comes sooner, on a small oplog.
        (45.0, 80.0, False, True),
        # But what is behind by design is not behind, however small the oplog is.
        (20.0, 4.0, False, False),
        # It is over only once it is far better.
        (45.0, None, True, True),
        (29.0, None, True, False),
    ],
)
def test_behind_is_a_minute_or_half_of_the_oplog(
    lag: float, window: float | None, was: bool, expected: bool
) -> None:
    assert is_behind(lag, window_seconds=window, slice_seconds=15.0, was_behind=was) is expected


def _configuration(*members: dict[str, Any]) -> dict[str, Any]:
    return {"_id": "rs0", "version": 1, "members": list(members)}


CONFIGURATION = _configuration(
    {"_id": 0, "host": "a:1"},
    {"_id": 1, "host": "b:1"},
    {"_id": 2, "host": "late:1", "secondaryDelaySecs": 3600, "priority": 0},
    {"_id": 3, "host": "later:1", "slaveDelay": 3600, "priority": 0},
    {"_id": 4, "host": "judge:1", "arbiterOnly": True},
    {"_id": 5, "host": "head:1", "priority": 0, "votes": 0, "hidden": True},
    {"_id": 6, "host": "down:1"},
)
STATUS = {
    "members": [
        {"name": "a:1", "state": 1},
        {"name": "b:1", "state": 2},
        {"name": "late:1", "state": 2},
        {"name": "later:1", "state": 2},
        {"name": "judge:1", "state": 7},
        {"name": "head:1", "state": 2},
        {"name": "down:1", "state": 8},
        {"name": "stranger:1", "state": 2},
    ]
}


def test_secondaries_stand_in_for_the_head_before_the_primary() -> None:
    assert members_to_tail(CONFIGURATION, STATUS, head="head:1", lag_max=15.0) == ["b:1", "a:1"]


@pytest.mark.parametrize(("lag", "expected"), [(15, ["b:1", "a:1"]), (16, ["a:1", "b:1"])])
def test_a_secondary_that_lags_comes_after_the_primary(lag: int, expected: list[str]) -> None:
    status = {
        "members": [
            {"name": "a:1", "state": 1, "stateStr": "PRIMARY", "optimeDate": NOW},
            {"name": "b:1", "state": 2, "stateStr": "SECONDARY", "optimeDate": NOW - timedelta(seconds=lag)},
        ]
    }
    assert members_to_tail(CONFIGURATION, status, head="head:1", lag_max=15.0) == expected


def test_a_member_that_is_down_may_still_hold_what_is_missing() -> None:
    assert other_data_members(CONFIGURATION, head="head:1") == {"a:1", "b:1", "down:1"}
