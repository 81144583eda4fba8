"""Asking for a restore by download, and taking that back.

Crash between record and job: the worker enqueues the job of a restore that lacks one (`enqueue_restore` is
repeatable).
"""

from dataclasses import dataclass
from datetime import datetime

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.crash_points import reach
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import BatchId, RestoreJobId, new_id
from ebbtide.domain.job import JobKind, job_id, queued_job
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import (
    NEW,
    DeliveryMethod,
    RestoreEvent,
    RestoreJob,
    RestoreStatus,
    archive_name,
)
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import Refused
from ebbtide.events import record_event


class SnapshotNotComplete(Refused):
    """Only a complete snapshot can be restored."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the jobs of all parts of one restore have in common. Each bears the sharded cluster's name (contract 6.1)."""

    id: BatchId
    cluster_name: str


def request_http_restore(
    *,
    cluster: Cluster | None,
    snapshot: Snapshot,
    expiration_hours: int,
    max_downloads: int,
    catalog: Catalog,
    clock: Clock,
    actor: str,
    asked_expires: datetime | None = None,
    limit: OplogTimestamp | None = None,
    batch: Batch | None = None,
) -> RestoreJob:
    """Record a restore job whose result is a download link, usable for `expiration_hours` from when it is ready, but
    until `asked_expires` where that is given. Raises SnapshotNotComplete.

    With `limit` the oplog is replayed on `snapshot` up to and including it; else the snapshot is delivered as it is.
    `cluster` is None for a snapshot of a host, which itself tells all that is needed. `batch` is that of a part of a
    sharded cluster.
    """
    if snapshot.state is not SnapshotState.COMPLETE or snapshot.stable_timestamp is None:
        raise SnapshotNotComplete(f"snapshot {snapshot.id} is {snapshot.state}", hint="choose a complete one")
    restore_id = RestoreJobId(new_id())
    name = snapshot.cluster_name if cluster is None else cluster.name
    if batch is not None:
        name = batch.cluster_name
    timestamp = snapshot.stable_timestamp if limit is None else _shown(limit)
    job = RestoreJob(
        id=restore_id,
        group_id=snapshot.group_id if cluster is None else cluster.group_id,
        cluster_id=snapshot.cluster_id if cluster is None else cluster.id,
        cluster_name=name,
        replica_set_name=snapshot.replica_set_name,
        snapshot_id=snapshot.id,
        created=clock.now(),
        status=NEW[0],
        delivery_status=NEW[1],
        timestamp=timestamp,
        expiration_hours=expiration_hours,
        asked_expires=asked_expires,
        max_downloads=max_downloads,
        requested_by=actor,
        file_name=archive_name(
            replica_set_name=snapshot.replica_set_name,
            timestamp=timestamp,
            job_id=restore_id,
            config_server_of=None if cluster is None else cluster.config_server_of,
        ),
        point_in_time=limit is not None,
        limit=limit,
        batch_id=None if batch is None else batch.id,
    )
    catalog.restore_jobs.insert(job)
    enqueue_restore(job, catalog=catalog, clock=clock)
    what = f"snapshot {snapshot.id}" if limit is None else f"everything up to {limit}"
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="restore.requested",
        message=f"a download of {what} of {name} was asked for",
        group_id=job.group_id,
        cluster_id=job.cluster_id,
        subject_id=job.id,
        actor=actor,
    )
    return job


def _shown(limit: OplogTimestamp) -> OplogTimestamp:
    """What a job shows until its result is known: the limit, in numbers that 32 bits with a sign hold."""
    return limit if limit.increment < 2**31 else OplogTimestamp(seconds=limit.seconds, increment=1)


def enqueue_restore(job: RestoreJob, *, catalog: Catalog, clock: Clock) -> None:
    """Give a restore its job; harmless where it has one."""
    catalog.jobs.enqueue(
        queued_job(
            JobKind.RESTORE,
            subject_id=job.id,
            group_id=job.group_id,
            cluster_id=job.cluster_id,
            now=clock.now(),
        )
    )
    reach("restore.recorded")


def cancel_restore_job(job: RestoreJob, *, catalog: Catalog, clock: Clock, actor: str) -> RestoreJob | None:
    """Stop a restore job and kill its link; None where it had ended already.

    What an automated restore has put in place cannot be taken back like a link: once it is done, it has ended. Of a
    sharded cluster it is one thing: all jobs of its batch are stopped.
    """
    if job.method is DeliveryMethod.AUTOMATED_RESTORE and job.status is RestoreStatus.FINISHED:
        return None
    for other in _bound_to(job, catalog):
        catalog.restore_jobs.apply(other.id, RestoreEvent.CANCELLED, reason=f"cancelled by {actor}")
        catalog.jobs.request_cancel(job_id(JobKind.RESTORE, other.id))
    # The state first: from here on the link is dead and the worker cannot make it READY.
    cancelled = catalog.restore_jobs.apply(job.id, RestoreEvent.CANCELLED, reason=f"cancelled by {actor}")
    catalog.jobs.request_cancel(job_id(JobKind.RESTORE, job.id))
    if cancelled is not None:
        record_event(
            catalog,
            clock,
            level=EventLevel.INFO,
            kind="restore.cancelled",
            message=f"restore job {job.id} was cancelled",
            group_id=job.group_id,
            cluster_id=job.cluster_id,
            subject_id=job.id,
            actor=actor,
        )
    return cancelled


def _bound_to(job: RestoreJob, catalog: Catalog) -> list[RestoreJob]:
    """The other jobs of an automated restore: none of them goes on without this one. Downloads of a batch are free."""
    if job.method is not DeliveryMethod.AUTOMATED_RESTORE or job.batch_id is None:
        return []
    return [other for other in catalog.restore_jobs.list_batch(job.batch_id) if other.id != job.id]
