"""Wire shapes of Ebbtide's own API: clusters with their heads, snapshots, jobs with their progress, events.

They say more than the hosted services' documents, in the same style: dates, ids and sizes are written as in `wire`. What
each field means is in docs/api.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ebbtide.api.wire import (
    Addresses,
    Document,
    bson_timestamp,
    date_or_none,
    effective_state,
    iso_date,
    present,
    self_links,
)
from ebbtide.backup.registration import RegistrationReport
from ebbtide.backup.registration_checks import Check
from ebbtide.backup.sharded_registration import ShardedReport
from ebbtide.domain.cluster import Cluster, Head
from ebbtide.domain.cluster_snapshot import AnySnapshot
from ebbtide.domain.download import Transfer
from ebbtide.domain.event import Event
from ebbtide.domain.job import Job
from ebbtide.domain.progress import Progress
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.restore_point import Resolution
from ebbtide.domain.snapshot import Snapshot
from ebbtide.restore.batch_point import BatchPoint


@dataclass(frozen=True)
class PartShown:
    """A part of a sharded cluster, and its head."""

    cluster: Cluster
    head: Head | None


def own_cluster_document(
    cluster: Cluster,
    *,
    parts: Sequence[PartShown] | None = None,
    head: Head | None,
    last_snapshot: AnySnapshot | None,
    archive: Document | None = None,
    waits_for: str = "",
    shows_paths: bool = False,
    addresses: Addresses,
) -> Document:
    """`parts` are those of a sharded cluster; `waits_for` is why no snapshot is begun now; empty: nothing holds them up.
    `shows_paths`: of the server too."""
    return present(
        id=cluster.id,
        groupId=cluster.group_id,
        name=cluster.name,
        kind=cluster.kind.value,
        replicaSetName=cluster.replica_set_name or None,
        partOf=cluster.parent_id,
        shardName=cluster.shard_name,
        configServer=cluster.is_config_server or None,
        mongodVersion=cluster.mongod_version,
        fcv=cluster.fcv,
        mongod=cluster.mongod if shows_paths else None,
        state=cluster.state.value,
        paused=cluster.is_paused or None,
        restoreTarget=cluster.restore_target,
        restoreUsername=cluster.restore_username,
        created=iso_date(cluster.created),
        tls=None if cluster.tls_expires is None else _tls(cluster),
        head=None if head is None else _head(head),
        parts=None if parts is None else [_part(part) for part in parts],
        archive=archive,
        lastSnapshot=None if last_snapshot is None else _last_snapshot(last_snapshot),
        snapshotsWaitFor=waits_for or None,
        links=self_links(addresses.own_cluster(cluster.group_id, cluster.name)),
    )


def _part(part: PartShown) -> Document:
    return present(
        id=part.cluster.id,
        name=part.cluster.name,
        shardName=part.cluster.shard_name,
        configServer=part.cluster.is_config_server or None,
        replicaSetName=part.cluster.replica_set_name,
        mongodVersion=part.cluster.mongod_version,
        state=part.cluster.state.value,
        head=None if part.head is None else _head(part.head),
    )


def _tls(cluster: Cluster) -> Document:
    return present(
        mode=cluster.tls_mode.value,
        clusterAuthMode=cluster.cluster_auth_mode.value,
        certificateExpires=date_or_none(cluster.tls_expires),
    )


def checks_document(checks: Iterable[Check]) -> Document:
    """Every check of a registration, or of credentials, passed and failed."""
    return {
        "checks": [
            {"name": check.name, "ok": check.ok, "what": check.what, "fix": check.fix} for check in checks
        ]
    }


def dry_run_document(report: RegistrationReport) -> Document:
    return {
        "dryRun": True,
        "ok": report.ok,
        **checks_document(report.checks),
        "head": {"host": report.head_host, "port": report.head_port},
        "needs": {"diskBytes": report.disk_bytes, "memoryBytes": report.memory_bytes},
    }


def sharded_dry_run_document(report: ShardedReport) -> Document:
    return {
        "dryRun": True,
        "ok": report.ok,
        **checks_document(report.checks),
        "needs": {"diskBytes": report.disk_bytes, "memoryBytes": report.memory_bytes},
        "parts": [
            {
                "name": part.request.name,
                **({} if part.address.is_config_server else {"shardName": part.address.name}),
                "head": {"host": part.report.head_host, "port": part.report.head_port},
            }
            for part in report.parts
        ],
    }


def status_document(*, version: str) -> Document:
    return {"version": version}


def _head(head: Head) -> Document:
    return present(
        state=head.state.value,
        stateSince=iso_date(head.state_since),
        host=head.host,
        port=head.port,
        memberId=head.member_id,
        message=head.message or None,
        lagSeconds=head.lag_seconds,
        restarts=head.restarts,
        initialSync=_initial_sync(head),
    )


def _initial_sync(head: Head) -> Document | None:
    if head.sync_done_bytes is None or head.sync_started is None:
        return None
    return present(
        doneBytes=head.sync_done_bytes,
        totalBytes=head.sync_total_bytes,
        started=iso_date(head.sync_started),
        secondsLeft=seconds_left(
            done=head.sync_done_bytes,
            total=head.sync_total_bytes,
            seconds=(head.updated - head.sync_started).total_seconds(),
        ),
    )


def seconds_left(*, done: int, total: int | None, seconds: float) -> int | None:
    """Time left at the average speed so far; None while that says nothing."""
    if total is None or done <= 0 or seconds <= 0:
        return None
    return max(0, round((total - done) * seconds / done))


def _last_snapshot(snapshot: AnySnapshot) -> Document:
    """Sizes of a sharded cluster's are with its parts."""
    of_set = snapshot if isinstance(snapshot, Snapshot) else None
    return present(
        id=snapshot.id,
        created=iso_date(snapshot.created),
        completed=date_or_none(snapshot.completed),
        storedBytes=of_set.stored_bytes if of_set else None,
        newStoredBytes=of_set.new_stored_bytes if of_set else None,
    )


def own_snapshot_document(snapshot: Snapshot, *, job: Job | None, addresses: Addresses) -> Document:
    stable, applied = snapshot.stable_timestamp, snapshot.applied_timestamp
    return present(
        id=snapshot.id,
        groupId=snapshot.group_id,
        clusterId=snapshot.cluster_id,
        clusterName=snapshot.cluster_name,
        replicaSetName=snapshot.replica_set_name,
        state=snapshot.state.value,
        created=iso_date(snapshot.created),
        completed=date_or_none(snapshot.completed),
        parentId=snapshot.parent_id,
        stableTimestamp=None if stable is None else bson_timestamp(stable),
        appliedTimestamp=None if applied is None else bson_timestamp(applied),
        mongodVersion=snapshot.mongod_version,
        fcv=snapshot.fcv,
        fileSizeBytes=snapshot.file_size_bytes,
        storedBytes=snapshot.stored_bytes,
        newStoredBytes=snapshot.new_stored_bytes,
        lockSeconds=snapshot.lock_seconds,
        doNotDelete=snapshot.do_not_delete,
        expires=date_or_none(snapshot.expires),
        scheduledFor=date_or_none(snapshot.scheduled_for),
        deleted=date_or_none(snapshot.deleted),
        pruneAfter=date_or_none(snapshot.prune_after),
        removed=date_or_none(snapshot.removed),
        error=snapshot.error or None,
        clusterSnapshotId=snapshot.cluster_snapshot_id,
        job=None if job is None else job_document(job),
        links=self_links(addresses.own_snapshot(snapshot.group_id, snapshot.cluster_name, snapshot.id)),
    )


def job_document(job: Job) -> Document:
    return present(
        state=job.state.value,
        step=job.step,
        attempts=job.attempts,
        error=job.error or None,
        progress=None if job.progress is None else _progress(job.progress),
    )


def _progress(progress: Progress) -> Document:
    seconds = (progress.updated - progress.started).total_seconds()
    return present(
        phase=progress.phase,
        done=progress.done,
        total=progress.total,
        unit=progress.unit,
        started=iso_date(progress.started),
        updated=iso_date(progress.updated),
        ratePerSecond=round(progress.done / seconds, 1) if seconds > 0 else None,
        secondsLeft=seconds_left(done=progress.done, total=progress.total, seconds=seconds),
    )


def own_restore_job_document(
    job: RestoreJob,
    *,
    now: datetime,
    work: Job | None,
    transfers: Sequence[Transfer],
    automated: Document | None = None,
    addresses: Addresses,
) -> Document:
    """What the Atlas family has no place for; never a link or a key. `automated`: what it does to its target."""
    status, delivery_status = effective_state(job, now=now)
    return present(
        id=job.id,
        groupId=job.group_id,
        batchId=job.batch_id,
        clusterId=job.cluster_id,
        clusterName=job.cluster_name,
        snapshotId=job.snapshot_id,
        created=iso_date(job.created),
        requestedBy=job.requested_by,
        statusName=status.value,
        deliveryStatusName=delivery_status.value,
        reason=job.reason or None,
        pointInTime=job.point_in_time,
        limit=None if job.limit is None else bson_timestamp(job.limit),
        timestamp=bson_timestamp(job.timestamp),
        archiveBytes=job.archive_bytes,
        fileName=job.file_name or None,
        expirationHours=job.expiration_hours,
        maxDownloads=job.max_downloads,
        completedDownloads=job.completed_downloads,
        ready=date_or_none(job.ready),
        expires=date_or_none(job.expires),
        automated=automated,
        job=None if work is None else job_document(work),
        transfers=[_transfer(t) for t in transfers],
        links=self_links(addresses.own_restore_job(job.group_id, job.id)),
    )


def resolution_document(resolution: Resolution) -> Document:
    """What a restore point comes to: the answer of a dry run."""
    base, limit = resolution.base, resolution.limit
    return present(
        dryRun=True,
        snapshotId=base.id,
        stableTimestamp=None if base.stable_timestamp is None else bson_timestamp(base.stable_timestamp),
        limit=None if limit is None else bson_timestamp(limit),
    )


def batch_resolution_document(point: BatchPoint) -> Document:
    """What a restore point comes to for a sharded cluster."""
    return {
        "dryRun": True,
        "limit": bson_timestamp(point.limit),
        "parts": [
            present(
                clusterId=part.cluster.id,
                name=part.cluster.name,
                snapshotId=part.base.id,
                stableTimestamp=(
                    None if part.base.stable_timestamp is None else bson_timestamp(part.base.stable_timestamp)
                ),
            )
            for part in (point.config, *point.shards)
        ],
    }


def _transfer(transfer: Transfer) -> Document:
    return present(
        first=transfer.first,
        end=transfer.end,
        sentBytes=transfer.sent_bytes,
        started=iso_date(transfer.started),
        updated=iso_date(transfer.updated),
        ended=date_or_none(transfer.ended),
        address=transfer.address,
    )


def event_document(event: Event) -> Document:
    return present(
        id=event.id,
        time=iso_date(event.time),
        level=event.level.value,
        kind=event.kind,
        message=event.message,
        groupId=event.group_id,
        clusterId=event.cluster_id,
        subjectId=event.subject_id,
        actor=event.actor,
    )
