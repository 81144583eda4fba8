"""How long a replayed result is kept: as long as anybody can still get a byte of it, and no longer."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ebbtide.domain.download import Transfer
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId
from ebbtide.domain.job import JobKind, JobState, queued_job
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import (
    BEGUN,
    BROKEN,
    DAMAGED,
    EXPIRED,
    KILLED,
    NEW,
    READY,
    USED_UP,
    RestoreJob,
    RestoreState,
)
from ebbtide.domain.result import is_result_needed, result_id_of

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RESUME_FOR = timedelta(hours=1)
JOB = RestoreJob(
    id=RestoreJobId("5f00000000000000000000d1"),
    group_id=GroupId("5f0000000000000000000001"),
    cluster_id=ClusterId("5f00000000000000000000c1"),
    cluster_name="shop",
    replica_set_name="rs0",
    snapshot_id=SnapshotId("5f00000000000000000000e1"),
    created=NOW,
    status=READY[0],
    delivery_status=READY[1],
    timestamp=OplogTimestamp(1700000000, 3),
    expiration_hours=1,
    max_downloads=1,
    requested_by="abcdefgh",
)
WORK = queued_job(
    JobKind.RESTORE, subject_id=JOB.id, group_id=JOB.group_id, cluster_id=JOB.cluster_id, now=NOW
)


def in_state(state: RestoreState, *, expires: datetime | None) -> RestoreJob:
    return replace(JOB, status=state[0], delivery_status=state[1], expires=expires)


def is_needed(job: RestoreJob | None, *, work_state: JobState = JobState.DONE, sending: bool = False) -> bool:
    transfer = Transfer(id="t", job_id=JOB.id, first=0, end=10, sent_bytes=1, started=NOW, updated=NOW)
    return is_result_needed(
        job,
        work=replace(WORK, state=work_state),
        transfers=[transfer] if sending else [],
        now=NOW,
        resume_for=RESUME_FOR,
    )


LATER, JUST_NOW, LONG_AGO = NOW + timedelta(hours=1), NOW - timedelta(minutes=1), NOW - timedelta(hours=2)


@pytest.mark.parametrize(
    ("state", "expires", "needed"),
    [
        (NEW, None, True),
        (BEGUN, None, True),
        (READY, LATER, True),
        (READY, JUST_NOW, True),  # whoever broke off may go on for a while
        (READY, LONG_AGO, False),
        (EXPIRED, JUST_NOW, True),
        (EXPIRED, LONG_AGO, False),
        (USED_UP, LATER, False),
        (KILLED, LATER, False),
        (KILLED, None, False),
        (BROKEN, None, False),
        (DAMAGED, LATER, False),
    ],
)
def test_a_result_is_needed_as_long_as_its_link_is_good_for_something(
    state: RestoreState, expires: datetime | None, needed: bool
) -> None:
    assert needed is is_needed(in_state(state, expires=expires))


def test_a_result_that_is_read_for_its_sha1_or_sent_is_needed_whatever_its_job_says() -> None:
    dead = in_state(KILLED, expires=None)
    assert is_needed(dead, work_state=JobState.RUNNING)
    assert is_needed(dead, sending=True)


def test_a_result_without_a_job_is_nobodys() -> None:
    assert not is_needed(None)


def test_a_result_has_the_id_of_its_job() -> None:
    assert result_id_of(JOB) == JOB.id
