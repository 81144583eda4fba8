"""Asking for a checkpoint of a sharded cluster: a record that people see; the worker that keeps house takes it.

Crash: the record is there or not. One that no worker takes in time is said to have failed.
"""

from datetime import datetime

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.crash_points import reach
from ebbtide.domain.checkpoint import Checkpoint
from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import CheckpointId, new_id
from ebbtide.errors import Refused
from ebbtide.events import record_event


class CheckpointRefused(Refused):
    """No checkpoint of this cluster can be taken now."""


def request_checkpoint(
    cluster: Cluster,
    *,
    catalog: Catalog,
    clock: Clock,
    actor: str | None = None,
    scheduled_for: datetime | None = None,
) -> Checkpoint:
    """Record the wish for a checkpoint; `scheduled_for` is the schedule's slot, if that asks; else `actor` is who did.

    Raises CheckpointRefused; then nothing was recorded.
    """
    refused = find_refusal(cluster, catalog)
    if refused is not None:
        raise refused
    checkpoint = Checkpoint(
        id=CheckpointId(new_id()),
        group_id=cluster.group_id,
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        created=clock.now(),
        scheduled_for=scheduled_for,
        message="waits for a worker",
    )
    catalog.checkpoints.insert(checkpoint)
    reach("checkpoint.recorded")
    # One that a schedule asked for is no event: there may be ninety-six a day.
    if scheduled_for is None:
        record_event(
            catalog,
            clock,
            level=EventLevel.INFO,
            kind="checkpoint.requested",
            message=f"a checkpoint of {cluster.name} was asked for",
            group_id=cluster.group_id,
            cluster_id=cluster.id,
            subject_id=checkpoint.id,
            actor=actor,
        )
    return checkpoint


def find_refusal(cluster: Cluster, catalog: Catalog) -> CheckpointRefused | None:
    """What is in the way of a checkpoint; None where nothing is."""
    if cluster.kind is not ClusterKind.SHARDED:
        return CheckpointRefused(
            f"{cluster.name} is a replica set: checkpoints are of sharded clusters",
            hint=f"it can be restored to any second: ebbtide oplog ranges {cluster.name}",
        )
    if cluster.state is not ClusterState.ACTIVE:
        return CheckpointRefused(
            f"{cluster.name} is not backed up (any more)", hint="ebbtide clusters add registers it"
        )
    if cluster.is_paused:
        return CheckpointRefused(
            f"{cluster.name} is paused: no checkpoints are taken of it",
            hint=f"ebbtide clusters resume {cluster.name}",
        )
    parts = catalog.clusters.list_parts(cluster.id)
    behind = [part.name for part in parts if not _is_archived(part, catalog)]
    if not parts or behind:
        return CheckpointRefused(
            f"the oplog of {', '.join(behind) or 'its parts'} is not archived yet",
            hint=f"wait until every head follows: ebbtide clusters watch {cluster.name}",
        )
    return None


def _is_archived(part: Cluster, catalog: Catalog) -> bool:
    state = catalog.archives.find(part.id)
    return state is not None and state.archived_to is not None
