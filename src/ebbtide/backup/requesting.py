"""Asking for a snapshot: a record that people see, and a job that a worker claims.

Crash between the two: the worker enqueues the job of a snapshot that lacks one (`enqueue_snapshot` is repeatable).
"""

from datetime import datetime

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.crash_points import reach
from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import SnapshotId, new_id
from ebbtide.domain.job import JobKind, queued_job
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import Refused
from ebbtide.events import record_event


class SnapshotInProgress(Refused):
    """The cluster's last snapshot is not done yet."""


class HeadNotReady(Refused):
    """The cluster has no head that follows its set."""


def request_snapshot(
    cluster: Cluster,
    *,
    catalog: Catalog,
    clock: Clock,
    actor: str,
    scheduled_for: datetime | None = None,
    expires: datetime | None = None,
    snapshot_id: SnapshotId | None = None,
    cluster_snapshot_id: SnapshotId | None = None,
) -> Snapshot:
    """Record the wish for a snapshot; `scheduled_for` is the schedule's slot, if that asks; without `expires` it is kept
    as long as the schedule says. A part of the snapshot `cluster_snapshot_id` of its sharded cluster has an id already.

    Raises SnapshotInProgress, HeadNotReady; then nothing was recorded."""
    require_head(cluster, catalog)
    running = catalog.snapshots.page(cluster.id, states=(SnapshotState.IN_PROGRESS,), skip=0, limit=1)
    if running:
        raise SnapshotInProgress(
            f"snapshot {running[0].id} of {cluster.name} is being taken",
            hint=f"follow it: ebbtide snapshots watch {cluster.name} {running[0].id}",
        )
    snapshot = Snapshot(
        id=snapshot_id or SnapshotId(new_id()),
        group_id=cluster.group_id,
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        replica_set_name=cluster.replica_set_name,
        created=clock.now(),
        state=SnapshotState.IN_PROGRESS,
        scheduled_for=scheduled_for,
        expires=expires,
        cluster_snapshot_id=cluster_snapshot_id,
    )
    catalog.snapshots.insert(snapshot)
    enqueue_snapshot(snapshot, catalog=catalog, clock=clock)
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="snapshot.requested",
        message=f"a snapshot of {cluster.name} was asked for",
        group_id=cluster.group_id,
        cluster_id=cluster.id,
        subject_id=snapshot.id,
        actor=actor,
    )
    return snapshot


def require_head(cluster: Cluster, catalog: Catalog) -> None:
    """Raise HeadNotReady unless the cluster has a head of which a snapshot may be taken."""
    if cluster.kind is ClusterKind.SHARDED:
        raise HeadNotReady(f"{cluster.name} is a sharded cluster and has no head: its parts have")
    head = catalog.heads.find(cluster.id)
    if cluster.state is not ClusterState.ACTIVE or head is None:
        raise HeadNotReady(
            f"{cluster.name} is not backed up (any more)", hint="ebbtide clusters add registers it"
        )
    if cluster.is_paused:
        raise HeadNotReady(
            f"{cluster.name} is paused: no snapshots are taken of it",
            hint=f"ebbtide clusters resume {cluster.name}",
        )
    if head.state not in (HeadState.FOLLOWING, HeadState.DOWN):
        raise HeadNotReady(
            f"the head of {cluster.name} is {head.state}{': ' + head.message if head.message else ''}",
            hint=f"wait until it follows: ebbtide clusters watch {cluster.name}",
        )


def enqueue_snapshot(snapshot: Snapshot, *, catalog: Catalog, clock: Clock) -> None:
    """Give a snapshot its job; harmless where it has one."""
    catalog.jobs.enqueue(
        queued_job(
            JobKind.SNAPSHOT,
            subject_id=snapshot.id,
            group_id=snapshot.group_id,
            cluster_id=snapshot.cluster_id,
            now=clock.now(),
        )
    )
    reach("snapshot.recorded")
