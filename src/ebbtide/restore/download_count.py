"""Counting the downloads of a restore job, and settling transfers whose api process died.

The count follows from the transfers alone (`domain.download`), so it can be made again at any time. Crash: it is made
again after the next transfer, or when a lost one is settled.
"""

from datetime import datetime

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.download import (
    TRANSFER_STALE_AFTER,
    Transfer,
    completed_downloads,
    sent_intervals,
    sent_of_lost,
)
from ebbtide.domain.event import EventLevel
from ebbtide.domain.restore_job import MAX_DOWNLOADS_UNLIMITED, RestoreEvent, RestoreJob
from ebbtide.events import record_event


def count_downloads(job: RestoreJob, *, last: Transfer, catalog: Catalog, clock: Clock) -> None:
    """Count what `job`'s transfers have completed, now that `last` is known, and end a link that is used up."""
    sent = sent_intervals(catalog.transfers.list_for_job(job.id))
    completed = completed_downloads(job.archive_bytes or 0, sent)
    if completed == 0:
        return
    before = catalog.restore_jobs.find(job.id)
    catalog.restore_jobs.raise_completed_downloads(job.id, completed)
    if before is not None and before.completed_downloads < completed:
        record_event(
            catalog,
            clock,
            level=EventLevel.INFO,
            kind="restore.downloaded",
            message=f"download {completed} of restore job {job.id} is complete, to {last.address}",
            group_id=job.group_id,
            cluster_id=job.cluster_id,
            subject_id=job.id,
            actor=f"download link from {last.address}",
        )
    if job.max_downloads != MAX_DOWNLOADS_UNLIMITED and completed >= job.max_downloads:
        catalog.restore_jobs.apply(job.id, RestoreEvent.DOWNLOADS_USED_UP)


def settle_lost_transfers(*, catalog: Catalog, clock: Clock, now: datetime) -> None:
    """End the transfers whose api process died, and count what they and their resumptions completed."""
    for lost in catalog.transfers.list_lost(now - TRANSFER_STALE_AFTER):
        sent = sent_of_lost(lost, catalog.transfers.list_for_job(lost.job_id))
        catalog.transfers.record_progress(lost.id, sent_bytes=sent, now=lost.updated, ended=now)
        job = catalog.restore_jobs.find(lost.job_id)
        if job is not None:
            count_downloads(job, last=lost, catalog=catalog, clock=clock)
