"""Which moments of a cluster can be restored now, as the catalog knows it."""

from datetime import datetime, timedelta

from ebbtide.catalog.catalog import Catalog
from ebbtide.domain.archive_state import recorded_ranges
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restorable import RestorableRange, plan_restorable
from ebbtide.domain.snapshot import SnapshotState


def restorable_ranges(cluster: Cluster, *, catalog: Catalog, now: datetime) -> tuple[RestorableRange, ...]:
    """Oldest first; empty where nothing is archived, or no complete snapshot can be gone on from.

    Nothing before the schedule's window is offered, although a little more may still be archived.
    """
    state = catalog.archives.find(cluster.id)
    if state is None:
        return ()
    window = timedelta(hours=catalog.schedules.get(cluster).point_in_time_window_hours)
    return plan_restorable(
        recorded_ranges(state),
        catalog.snapshots.list_in_state(cluster.id, SnapshotState.COMPLETE),
        window_first=OplogTimestamp(max(0, int((now - window).timestamp())), 0),
    )
