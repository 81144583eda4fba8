"""Work for a worker: a queue entry with a lease, steps and progress.

A job belongs to one subject (a snapshot, a restore job) and has its id made from it, so enqueueing twice is
harmless. A dead worker's job is taken over; what may be tried again is decided by `decide_retry`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.progress import Progress

ATTEMPTS_MAX = 10
"""Claims of one job: a job that ends its worker this often is given up."""

STORE_RESULT_STEP = "store result"
"""The step of a restore in which it writes to the repository: prune keeps away meanwhile, as it does from snapshots."""

RETRY_DELAY_FIRST = timedelta(seconds=1)
RETRY_DELAY_MAX = timedelta(seconds=60)


class JobKind(StrEnum):
    """What a job does."""

    SNAPSHOT = "SNAPSHOT"
    RESTORE = "RESTORE"
    CLUSTER_SNAPSHOT = "CLUSTER_SNAPSHOT"  # of a sharded cluster: it waits for the jobs of its parts


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "QUEUED"  # waits for a worker, or for its next try
    RUNNING = "RUNNING"  # a worker holds its lease
    DONE = "DONE"
    FAILED = "FAILED"  # given up; `error` says why
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work. `lease_*` say who works on it and until when that is believed."""

    id: str
    kind: JobKind
    subject_id: str
    group_id: GroupId
    cluster_id: ClusterId
    state: JobState
    created: datetime
    not_before: datetime
    attempts: int = 0
    failures: int = 0
    first_failed: datetime | None = None
    step: str = ""
    error: str = ""
    cancel_requested: bool = False
    progress: Progress | None = None
    lease_worker_id: str | None = None
    lease_until: datetime | None = None


def job_id(kind: JobKind, subject_id: str) -> str:
    """The id of the one job that `subject_id` has."""
    return f"{kind.value}:{subject_id}"


def queued_job(
    kind: JobKind, *, subject_id: str, group_id: GroupId, cluster_id: ClusterId, now: datetime
) -> Job:
    """The job of a subject, as it is when it is asked for."""
    return Job(
        id=job_id(kind, subject_id),
        kind=kind,
        subject_id=subject_id,
        group_id=group_id,
        cluster_id=cluster_id,
        state=JobState.QUEUED,
        created=now,
        not_before=now,
    )


@dataclass(frozen=True)
class TryAgain:
    """The job goes back into the queue until `not_before`."""

    not_before: datetime


@dataclass(frozen=True)
class GiveUp:
    """The job ends FAILED, for `reason`."""

    reason: str


def failing_since(first_failed: datetime | None, *, worked: timedelta, now: datetime) -> datetime:
    """Since when a job that fails now has failed, where this attempt made progress for the time `worked`.

    Such time does not count: an attempt at a large snapshot may work for hours between two failures that have nothing
    to do with each other.
    """
    return now if first_failed is None else min(now, first_failed + worked)


def decide_retry(
    *,
    retryable: bool,
    error: str,
    failures: int,
    first_failed: datetime | None,
    now: datetime,
    retry_for: timedelta,
) -> TryAgain | GiveUp:
    """What follows a failure, the `failures`th before it (0 for the first).

    Delays double from 1 s to 60 s. Only a cause that would meet the job again, or one that lasted longer than
    `retry_for` since `first_failed` (see `failing_since`), ends it.
    """
    if not retryable:
        return GiveUp(error)
    if first_failed is not None and now - first_failed > retry_for:
        return GiveUp(f"{error} (tried again for {retry_for.total_seconds() / 60:.0f} minutes)")
    delay = min(RETRY_DELAY_MAX, RETRY_DELAY_FIRST * 2 ** min(failures, 10))
    return TryAgain(now + delay)
