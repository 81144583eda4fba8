"""What a job may do with a balancer, row by row: what was found is noted once, and our own stop is never taken for it."""

from datetime import UTC, datetime

import pytest

from ebbtide.domain.balancer_hold import (
    BalancerHold,
    HeldElsewhere,
    Holding,
    NoteFirst,
    decide_balancer,
    is_abandoned,
)
from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.job import Job, JobKind, JobState
from ebbtide.domain.sharding import BalancerMode

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FULL, SPLIT, OFF = BalancerMode.FULL, BalancerMode.SPLIT_ONLY, BalancerMode.OFF


def hold(holder: str, found: BalancerMode) -> BalancerHold:
    return BalancerHold(id=ClusterId("c" * 24), holder=holder, found=found, since=NOW)


@pytest.mark.parametrize(
    ("held", "mode", "decided"),
    [
        # Nobody holds it: what it does now is what was found.
        (None, FULL, NoteFirst(FULL)),
        (None, SPLIT, NoteFirst(SPLIT)),
        (None, OFF, NoteFirst(OFF)),
        # Ours: what it does now says nothing of what was found.
        (hold("us", FULL), FULL, Holding(must_stop=True)),
        (hold("us", FULL), OFF, Holding(must_stop=True)),
        (hold("us", FULL), SPLIT, Holding(must_stop=True)),
        # What moves no chunks is not stopped: autoSplitOnly could not be put back.
        (hold("us", SPLIT), SPLIT, Holding(must_stop=False)),
        (hold("us", OFF), OFF, Holding(must_stop=False)),
        # Its owner put it on meanwhile: found off, so it is not ours to stop, nor to start.
        (hold("us", OFF), FULL, Holding(must_stop=False)),
        # Another job's.
        (hold("them", FULL), OFF, HeldElsewhere("them")),
        (hold("them", OFF), FULL, HeldElsewhere("them")),
    ],
)
def test_what_is_to_be_done_before_the_balancer_can_be_counted_on(
    held: BalancerHold | None, mode: BalancerMode, decided: object
) -> None:
    assert decided == decide_balancer(held, holder="us", mode=mode)


def job(job_id: str, state: JobState) -> Job:
    return Job(
        id=job_id,
        kind=JobKind.CLUSTER_SNAPSHOT,
        subject_id="s",
        group_id=GroupId("g"),
        cluster_id=ClusterId("c"),
        state=state,
        created=NOW,
        not_before=NOW,
    )


@pytest.mark.parametrize(
    ("found", "abandoned"),
    [
        (None, True),
        (job("us", JobState.QUEUED), False),  # its next attempt goes on with the hold
        (job("us", JobState.RUNNING), False),
        (job("us", JobState.DONE), True),
        (job("us", JobState.FAILED), True),
        (job("us", JobState.CANCELLED), True),
        (job("them", JobState.RUNNING), True),
    ],
)
def test_a_hold_whose_job_is_over_is_abandoned(found: Job | None, abandoned: bool) -> None:
    assert abandoned is is_abandoned(hold("us", FULL), found)
