"""Asking for a snapshot of a sharded cluster: a record that people see, and a job that a worker claims.

Crash between the two: the worker enqueues the job of a snapshot that lacks one (`enqueue_cluster_snapshot` is
repeatable).
"""

from datetime import datetime

from ebbtide.backup.requesting import HeadNotReady, SnapshotInProgress, require_head
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.crash_points import reach
from ebbtide.domain.cluster import Cluster, ClusterState, HeadState
from ebbtide.domain.cluster_snapshot import ClusterSnapshot
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import SnapshotId, new_id
from ebbtide.domain.job import JobKind, queued_job
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.events import record_event

_NOT_BEGUN = (HeadState.PROVISIONING, HeadState.JOINING, HeadState.SYNCING)


def request_cluster_snapshot(
    parent: Cluster,
    *,
    catalog: Catalog,
    clock: Clock,
    actor: str,
    scheduled_for: datetime | None = None,
    expires: datetime | None = None,
) -> ClusterSnapshot:
    """Record the wish for a snapshot of the sharded cluster `parent`; `scheduled_for` is the schedule's slot, if that
    asks; without `expires` it is kept as long as the schedule says.

    Raises SnapshotInProgress, HeadNotReady; then nothing was recorded. What only the cluster itself can tell, as which
    shards it has now, is judged by the job.
    """
    _require_parts(parent, catalog)
    snapshot = ClusterSnapshot(
        id=SnapshotId(new_id()),
        group_id=parent.group_id,
        cluster_id=parent.id,
        cluster_name=parent.name,
        created=clock.now(),
        state=SnapshotState.IN_PROGRESS,
        scheduled_for=scheduled_for,
        expires=expires,
    )
    if not catalog.cluster_snapshots.insert(snapshot):
        running = catalog.cluster_snapshots.list_in_state(parent.id, SnapshotState.IN_PROGRESS)
        name = f" {running[0].id}" if running else ""
        raise SnapshotInProgress(
            f"snapshot{name} of {parent.name} is being taken",
            hint=f"follow it: ebbtide snapshots watch {parent.name}{name}",
        )
    enqueue_cluster_snapshot(snapshot, catalog=catalog, clock=clock)
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="snapshot.requested",
        message=f"a snapshot of the sharded cluster {parent.name} was asked for",
        group_id=parent.group_id,
        cluster_id=parent.id,
        subject_id=snapshot.id,
        actor=actor,
    )
    return snapshot


def enqueue_cluster_snapshot(snapshot: ClusterSnapshot, *, catalog: Catalog, clock: Clock) -> None:
    """Give a cluster's snapshot its job; harmless where it has one."""
    catalog.jobs.enqueue(
        queued_job(
            JobKind.CLUSTER_SNAPSHOT,
            subject_id=snapshot.id,
            group_id=snapshot.group_id,
            cluster_id=snapshot.cluster_id,
            now=clock.now(),
        )
    )
    reach("cluster_snapshot.recorded")


def _require_parts(parent: Cluster, catalog: Catalog) -> None:
    """Raise HeadNotReady where it is plain from here that no snapshot can come of it."""
    if parent.state is not ClusterState.ACTIVE:
        raise HeadNotReady(
            f"{parent.name} is not backed up (any more)", hint="ebbtide clusters add registers it"
        )
    if parent.is_paused:
        raise HeadNotReady(
            f"{parent.name} is paused: no snapshots are taken of it",
            hint=f"ebbtide clusters resume {parent.name}",
        )
    parts = [part for part in catalog.clusters.list_parts(parent.id) if part.state is ClusterState.ACTIVE]
    if not any(part.is_config_server for part in parts) or len(parts) == 1:
        raise HeadNotReady(
            f"not all parts of {parent.name} are registered yet",
            hint=f"wait until they are: ebbtide clusters show {parent.name}",
        )
    for part in parts:
        head = catalog.heads.find(part.id)
        # A head that was well once may be again when its turn comes, or its shard may have left: the job finds out.
        if head is None or head.state in _NOT_BEGUN or part.is_config_server:
            require_head(part, catalog)
