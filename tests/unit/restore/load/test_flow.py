"""Whom a load waits for."""

from typing import Any

import pytest
from bson import Timestamp

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.restore.load.flow import delayed_members, slowest_position


def member(number: int, seconds: int, state: str = "SECONDARY", health: int = 1) -> dict[str, Any]:
    return {
        "_id": number,
        "stateStr": state,
        "health": health,
        "optime": {"ts": Timestamp(seconds, 1), "t": 1},
    }


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([member(0, 9, "PRIMARY"), member(1, 5), member(2, 7)], 5),
        ([member(0, 9, "PRIMARY"), member(1, 5, health=0), member(2, 7)], 7),
        ([member(0, 9, "PRIMARY"), member(1, 5, "RECOVERING"), member(2, 6, "STARTUP2")], 9),
        ([member(0, 9, "PRIMARY"), member(7, 1)], 9),
    ],
)
def test_the_slowest_of_those_that_replicate(members: list[dict[str, Any]], expected: int) -> None:
    found = slowest_position({"members": members}, frozenset({7}))
    assert found == OplogTimestamp(expected, 1)


def test_arbiters_have_no_position() -> None:
    arbiter = {"_id": 1, "stateStr": "ARBITER", "health": 1}
    assert slowest_position({"members": [arbiter]}, frozenset()) is None


def test_delayed_members_of_old_and_new_servers() -> None:
    members = [{"_id": 0}, {"_id": 1, "slaveDelay": 60}, {"_id": 2, "secondaryDelaySecs": 0}]
    members.append({"_id": 3, "secondaryDelaySecs": 3600})
    assert delayed_members({"members": members}) == {1, 3}
