"""A replayed result: which restore job it belongs to, and how long it is of use. Pure.

A result is stored so that its job can deliver it, and for nothing else. It has its job's id, so the job is all the
record there is of it.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from ebbtide.domain.download import Transfer, is_active
from ebbtide.domain.ids import ResultId
from ebbtide.domain.job import Job, JobState
from ebbtide.domain.restore_job import DeliveryStatus, RestoreJob, RestoreStatus


def result_id_of(job: RestoreJob) -> ResultId:
    """The id of a job's result: there is one at most."""
    return ResultId(job.id)


def is_result_needed(
    job: RestoreJob | None,
    *,
    work: Job | None,
    transfers: Iterable[Transfer],
    now: datetime,
    resume_for: timedelta,
) -> bool:
    """Whether the result of `job` can still be of use: to its worker, to a download, or to the rest of one.

    `resume_for`: how long after its expiry a broken download may be resumed.
    """
    if job is None:
        return False  # nobody has its link
    if job.status is RestoreStatus.IN_PROGRESS or (work is not None and work.state is JobState.RUNNING):
        return True
    if any(is_active(transfer, now=now) for transfer in transfers):
        return True
    if job.delivery_status not in (DeliveryStatus.READY, DeliveryStatus.EXPIRED):
        return False
    return job.expires is not None and now < job.expires + resume_for
