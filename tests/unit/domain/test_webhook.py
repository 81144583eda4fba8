"""The webhook's rules: what is sent, what follows an answer, and what is in it."""

from datetime import UTC, datetime, timedelta

import pytest

from ebbtide.domain.event import Event, EventLevel
from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.webhook import (
    EVENT_AGE_MAX,
    RETRY_DELAY_MAX,
    PassOver,
    SendAgain,
    Sent,
    is_refusal,
    is_wanted,
    judge_answer,
    payload,
)
from ebbtide.settings import SETTINGS

YOUNG = timedelta(minutes=1)
DEFAULT = next(s.default for s in SETTINGS if s.name == "webhook.events")


@pytest.mark.parametrize(
    ("kind", "patterns", "expected"),
    [
        ("snapshot.failed", ["*.failed"], True),
        ("snapshot.failed", ["snapshot.*"], True),
        ("snapshot.failed", ["snapshot.failed"], True),
        ("snapshot.failed", ["failed", "head.*"], False),
        ("snapshotxfailed", ["snapshot.failed"], False),
        ("snapshot.failed", [], False),
        ("webhook.undelivered", ["*"], False),
    ],
)
def test_patterns_say_what_is_sent(kind: str, patterns: list[str], expected: bool) -> None:
    assert expected is is_wanted(kind, patterns)


@pytest.mark.parametrize(
    "kind",
    [
        "snapshot.failed",
        "head.failed",
        "prune.failed",
        "restore.broken",
        "head.behind",
        "head.lagging",
        "schedule.missed",
        "repository.damaged",
        "snapshot.paused_low_space",
    ],
)
def test_by_default_failed_jobs_stale_heads_and_missed_schedules_are_sent(kind: str) -> None:
    assert is_wanted(kind, DEFAULT)
    assert not is_wanted("snapshot.complete", DEFAULT)


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_an_answer_of_success_is_the_end(status: int) -> None:
    assert isinstance(judge_answer(status, attempts=1, age=YOUNG, refusals=0), Sent)


@pytest.mark.parametrize("status", [None, 301, 408, 429, 500, 503])
def test_what_may_pass_is_tried_again_ever_more_slowly_for_a_day(status: int | None) -> None:
    assert not is_refusal(status)
    delays = [judge_answer(status, attempts=n, age=YOUNG, refusals=0) for n in (1, 2, 3, 100)]
    seconds = [timedelta(seconds=s) for s in (1, 2, 4)]
    assert delays == [*(SendAgain(delay) for delay in seconds), SendAgain(RETRY_DELAY_MAX)]
    late = judge_answer(status, attempts=9, age=EVENT_AGE_MAX + YOUNG, refusals=0)
    assert late == PassOver("it could not be sent for 24 hours")


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
def test_what_is_refused_three_times_is_passed_over(status: int) -> None:
    assert is_refusal(status)
    assert isinstance(judge_answer(status, attempts=2, age=YOUNG, refusals=2), SendAgain)
    last = judge_answer(status, attempts=3, age=YOUNG, refusals=3)
    assert last == PassOver(f"the receiver refused it 3 times, at last with status {status}")


def test_what_is_sent_says_what_and_where_and_not_who() -> None:
    event = Event(
        id="e",
        time=datetime(2026, 3, 1, 12, 0, 0, 5000, tzinfo=UTC),
        level=EventLevel.ERROR,
        kind="snapshot.failed",
        message="it failed",
        group_id=GroupId("g"),
        cluster_id=ClusterId("c"),
        subject_id="s",
        actor="abcdefgh from 192.0.2.1",
    )
    assert payload(event, cluster_name="shop") == {
        "id": "e",
        "time": "2026-03-01T12:00:00.005Z",
        "level": "ERROR",
        "kind": "snapshot.failed",
        "message": "it failed",
        "groupId": "g",
        "clusterId": "c",
        "clusterName": "shop",
        "subjectId": "s",
    }
