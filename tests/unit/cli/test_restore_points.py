"""`ebbtide restores start`: the ways to say "when"."""

from typing import Any

import pytest

from ebbtide.cli.moments import parse_millis, parse_moment
from ebbtide.errors import InvalidInput

GROUP = "a" * 24
OWN, ATLAS = (f"/api/{family}/groups/{GROUP}" for family in ("ebbtide/v1", "atlas/v1.0"))
JOB, CLUSTER = "5f00000000000000000000d1", "5f00000000000000000000c1"
OWN_JOB = {"id": JOB, "clusterId": CLUSTER, "clusterName": "shop", "statusName": "IN_PROGRESS"}


def point(**given: str) -> Any:
    return parse_moment(**({"snapshot": None, "at": None, "oplog": None} | given))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"snapshot": "latest"}, {"snapshot": "latest"}),
        ({"at": "now"}, {"now": True}),
        ({"at": "2026-11-22T10:00:00Z"}, {"pointInTimeUTCMillis": 1795341600000}),
        ({"at": "2026-11-22T10:00:00"}, {"pointInTimeUTCMillis": 1795341600000}),
        ({"at": "2026-11-22T12:00:00+02:00"}, {"pointInTimeUTCMillis": 1795341600000}),
        ({"at": "2026-11-22T10:00:00.500Z"}, {"pointInTimeUTCMillis": 1795341600500}),
        ({"oplog": "1795341600:12"}, {"oplogTs": 1795341600, "oplogInc": 12}),
    ],
)
def test_a_moment_is_told_as_the_api_takes_it(given: dict[str, str], expected: Any) -> None:
    assert expected == point(**given)


@pytest.mark.parametrize("text", ["yesterday", "10:00", "", "1795341600"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="2026-11-22T10:00:00Z"):
        parse_millis(text)


@pytest.mark.parametrize("text", ["1795341600", "1795341600:", ":1", "a:b", "1:2:3"])
def test_half_an_oplog_timestamp_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="SECONDS:INC"):
        point(oplog=text)


def test_two_moments_are_refused() -> None:
    with pytest.raises(InvalidInput, match="without --at"):
        point(at="now", oplog="1:1")


def test_a_moment_is_asked_for_and_its_job_shown(connected: Any, ebbtide: Any) -> None:
    asked = f"{OWN}/clusters/shop/restoreJobs"
    connected.answer("POST", asked, OWN_JOB)
    connected.answer("GET", f"{ATLAS}/clusters/{CLUSTER}/restoreJobs/{JOB}", {"id": JOB, "pointInTime": True})
    done = ebbtide("restores", "start", "shop", "--oplog", "1795341600:12", "--expires-in", "2h")
    assert done.code == 0
    assert f"restore job {JOB} of shop at 1795341600:12 begins" in done.stdout
    assert connected.bodies("POST", asked) == [
        {"expirationHours": 2, "maxDownloads": 10, "oplogTs": 1795341600, "oplogInc": 12}
    ]


def test_two_moments_on_the_command_line_reach_nobody(connected: Any, ebbtide: Any) -> None:
    done = ebbtide("restores", "start", "shop", "--at", "now", "--snapshot", "latest")
    assert done.code == 2
    assert connected.requests == []
