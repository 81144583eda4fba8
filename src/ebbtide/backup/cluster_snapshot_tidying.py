"""What nobody else puts right about snapshots of sharded clusters: records without jobs, jobs that ended without a word,
balancers whose job is gone, clusters that wait to be removed, parts that should be gone with the whole.

Everything here is repeatable, and may be slow: a config server that does not answer holds up the others.
"""

from ebbtide.backup.balancer_hold import is_held, release_abandoned
from ebbtide.backup.cluster_snapshot_parts import abandon_parts
from ebbtide.backup.cluster_snapshot_requesting import enqueue_cluster_snapshot
from ebbtide.backup.context import BackupContext
from ebbtide.domain.cluster import ClusterState
from ebbtide.domain.cluster_snapshot import ClusterSnapshot
from ebbtide.domain.event import EventLevel
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.events import record_event

_OVER = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


def settle_cluster_snapshots(context: BackupContext) -> None:
    """One look. Raises the catalog's errors; what a cluster does not answer is tried again at the next look."""
    for snapshot in context.catalog.cluster_snapshots.list_in_progress():
        _settle(snapshot, context)
    release_abandoned(context)
    _finish_removals(context)


def _settle(snapshot: ClusterSnapshot, context: BackupContext) -> None:
    """A snapshot in progress has a job that will end it, or is given up."""
    catalog = context.catalog
    cluster = catalog.clusters.find(snapshot.cluster_id)
    if cluster is not None and cluster.state is ClusterState.ACTIVE:
        enqueue_cluster_snapshot(snapshot, catalog=catalog, clock=context.clock)
        job = catalog.jobs.find(job_id(JobKind.CLUSTER_SNAPSHOT, snapshot.id))
        if job is not None and job.state in _OVER:
            give_up_cluster_snapshot(snapshot, job.error or "its job ended early", context)
        return
    job = catalog.jobs.request_cancel(job_id(JobKind.CLUSTER_SNAPSHOT, snapshot.id))
    if job is None or job.lease_until is None or job.lease_until <= context.clock.now():
        give_up_cluster_snapshot(snapshot, "its cluster was removed before it was taken", context)


def give_up_cluster_snapshot(snapshot: ClusterSnapshot, reason: str, context: BackupContext) -> None:
    """Harmless where it is not in progress any more."""
    failed = context.catalog.cluster_snapshots.update(snapshot.id, state=SnapshotState.FAILED, message=reason)
    if failed is None:
        return
    abandon_parts(failed, catalog=context.catalog, clock=context.clock)
    record_event(
        context.catalog,
        context.clock,
        level=EventLevel.ERROR,
        kind="snapshot.failed",
        message=f"snapshot {snapshot.id} of the sharded cluster {snapshot.cluster_name} failed: {reason}",
        group_id=snapshot.group_id,
        cluster_id=snapshot.cluster_id,
        subject_id=snapshot.id,
    )


def _finish_removals(context: BackupContext) -> None:
    """A sharded cluster that is being removed is forgotten, and its secrets, once its balancer is its own again."""
    for cluster in context.catalog.clusters.list_sharded():
        if cluster.state is not ClusterState.REMOVING or is_held(cluster.id, context):
            continue
        if not context.catalog.cluster_snapshots.list_in_state(cluster.id, SnapshotState.IN_PROGRESS):
            context.catalog.clusters.set_state(cluster.id, ClusterState.REMOVED)
