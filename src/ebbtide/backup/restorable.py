"""Which moments of a cluster can be restored now, as the catalog knows it."""

from dataclasses import replace
from datetime import datetime, timedelta

from ebbtide.catalog.catalog import Catalog
from ebbtide.domain.archive_state import recorded_ranges
from ebbtide.domain.cluster import Cluster, ClusterKind
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restorable import RestorableRange, common_ranges, plan_restorable
from ebbtide.domain.snapshot import SnapshotState


def restorable_ranges(cluster: Cluster, *, catalog: Catalog, now: datetime) -> tuple[RestorableRange, ...]:
    """Oldest first; empty where nothing is archived, or no complete snapshot can be gone on from.

    Nothing before the schedule's window is offered, although a little more may still be archived. Of a sharded cluster
    it is what all its parts have in common.
    """
    if cluster.kind is ClusterKind.SHARDED:
        parts = catalog.clusters.list_parts(cluster.id)
        common = common_ranges([restorable_ranges(part, catalog=catalog, now=now) for part in parts])
        return tuple(_of_whole(found, catalog) for found in common)
    state = catalog.archives.find(cluster.id)
    if state is None:
        return ()
    window = timedelta(hours=catalog.schedules.get(cluster).point_in_time_window_hours)
    return plan_restorable(
        recorded_ranges(state),
        catalog.snapshots.list_in_state(cluster.id, SnapshotState.COMPLETE),
        window_first=OplogTimestamp(max(0, int((now - window).timestamp())), 0),
    )


def _of_whole(found: RestorableRange, catalog: Catalog) -> RestorableRange:
    """With the snapshot of the whole cluster that its base is a part of, where it is one."""
    base = catalog.snapshots.find(found.snapshot_id)
    if base is None or base.cluster_snapshot_id is None:
        return found
    return replace(found, snapshot_id=base.cluster_snapshot_id)
