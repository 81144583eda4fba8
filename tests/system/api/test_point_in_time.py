"""Asking for a download of a moment: what is answered, what is refused, and what the hosted families still refuse."""

from typing import Any

import pytest

from ebbtide.domain.ids import RestoreJobId
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.errors import Unreachable
from ebbtide.restore import restore_points


@pytest.fixture
def newest(service: Any, monkeypatch: pytest.MonkeyPatch) -> OplogTimestamp:
    """The set's newest write that is safe, a few entries beyond a complete snapshot; no set runs here."""
    found = OplogTimestamp(int(service.clock.now().timestamp()), 7)
    monkeypatch.setattr(restore_points, "newest_committed", lambda _: OpTime(found, 1))
    return found


def asked(service: Any, **body: Any) -> Any:
    return service.call("POST", f"{service.own_base}/clusters/Cluster0/restoreJobs", json=body)


def snapshot_at(service: Any, seconds: int) -> Any:
    """A snapshot whose own oplog holds the second before it."""
    return service.new_snapshot(
        stable_timestamp=OplogTimestamp(seconds - 10, 1), applied_timestamp=OplogTimestamp(seconds, 9)
    )


def blamed(answer: Any) -> list[str]:
    assert answer.status_code == 400
    return [row["field"] for row in answer.json()["badRequestDetail"]["fields"]]


def test_a_moment_becomes_a_job_that_says_so(service: Any, newest: OplogTimestamp) -> None:
    snapshot = snapshot_at(service, newest.seconds)
    moment = newest.seconds - 3

    answer = asked(service, oplogTs=moment, oplogInc=5, expirationHours=2, maxDownloads=4)
    assert answer.status_code == 200
    document = answer.json()
    assert document["pointInTime"] is True
    assert document["snapshotId"] == snapshot.id
    assert document["limit"]["increment"] == 5
    job = service.job(RestoreJobId(document["id"]))
    assert (job.limit, job.expiration_hours, job.max_downloads) == (OplogTimestamp(moment, 5), 2, 4)

    shown = service.call("GET", f"{service.base}/restoreJobs/{job.id}").json()
    assert (shown["pointInTime"], shown["timestamp"]["increment"]) == (True, 5)


def test_a_second_is_taken_whole_and_a_dry_run_makes_no_job(service: Any, newest: OplogTimestamp) -> None:
    snapshot = snapshot_at(service, newest.seconds)
    before = service.catalog.restore_jobs.count(service.cluster.id)

    answer = asked(service, pointInTimeUTCMillis=(newest.seconds - 2) * 1000 + 1, dryRun=True)
    assert answer.json()["dryRun"] is True
    assert answer.json()["snapshotId"] == snapshot.id
    assert answer.json()["limit"]["increment"] == 2**32 - 1
    assert before == service.catalog.restore_jobs.count(service.cluster.id)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"oplogTs": 1700000000}, ["oplogInc"]),
        ({"now": True, "pointInTimeUTCMillis": 1700000000000}, ["now"]),
        ({"snapshotId": "a" * 24}, ["snapshotId"]),
        ({"now": True, "expirationHours": 0, "maxDownloads": "x"}, ["expirationHours", "maxDownloads"]),
        ({"now": True, "methodName": "HTTP"}, ["methodName"]),
        ({"now": True, "expirationHours": 10**6}, ["expirationHours"]),
    ],
)
def test_every_bad_field_is_named(service: Any, body: dict[str, Any], fields: list[str]) -> None:
    assert fields == blamed(asked(service, **body))


def test_no_moment_at_all_is_refused_with_what_can_be_said(service: Any) -> None:
    answer = asked(service)
    assert answer.json()["errorCode"] == "MISSING_ONE_OF_ATTRIBUTES"
    assert "oplogTs" in answer.json()["detail"]


def test_the_future_and_the_time_before_the_first_snapshot_are_refused_with_the_reason(
    service: Any, newest: OplogTimestamp
) -> None:
    snapshot_at(service, newest.seconds)
    future = asked(service, oplogTs=newest.seconds + 100, oplogInc=1)
    assert blamed(future) == ["oplogTs"]
    assert "in the future" in future.json()["detail"]
    early = asked(service, pointInTimeUTCMillis=(newest.seconds - 3600) * 1000)
    assert blamed(early) == ["pointInTimeUTCMillis"]
    assert "the oldest one is of" in early.json()["detail"]


def test_now_of_a_set_that_does_not_answer_is_refused_with_what_is_archived(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_: Any) -> OpTime:
        raise Unreachable("no server answered")

    monkeypatch.setattr(restore_points, "newest_committed", nobody)
    answer = asked(service, now=True)
    assert answer.status_code == 409
    assert "no server answered" in answer.json()["detail"]
    assert "what is archived of it reaches to" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body", [{"oplogTs": "1700000000", "oplogInc": 1}, {"pointInTimeUTCMillis": 1700000000000}]
)
def test_the_hosted_families_download_snapshots_only(service: Any, body: dict[str, Any]) -> None:
    answer = service.call(
        "POST", f"{service.base}/restoreJobs", json={"delivery": {"methodName": "HTTP"}, **body}
    )
    assert set(body) <= set(blamed(answer))
