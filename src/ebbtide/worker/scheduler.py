"""Asking for the snapshots that schedules want.

Nothing is remembered here that matters: the newest slot asked for is on the snapshot itself, so a worker that dies
between any two steps, or another one that takes over, neither forgets a slot nor asks for it twice.
"""

from datetime import datetime, timedelta

import structlog

from ebbtide.backup.cluster_snapshot_requesting import request_cluster_snapshot
from ebbtide.backup.requesting import HeadNotReady, SnapshotInProgress, request_snapshot
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.schedule import Due, decide_snapshot
from ebbtide.events import record_event

ACTOR = "schedule"

TOLD_AFTER = timedelta(minutes=10)
"""A snapshot that could not be begun for so long after its slot is an event."""

_log = structlog.get_logger()


class Scheduler:
    """Looks at every cluster under backup; a sharded one as a whole, not at its parts. For one thread."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        # After a restart a slot may be told of once more; that is better than never.
        self._told: dict[ClusterId, datetime] = {}

    def look(self) -> None:
        """Ask for what is due. What cannot be begun now is tried again at the next look."""
        whole = [cluster for cluster in self._catalog.clusters.list_live() if cluster.parent_id is None]
        for cluster in (*whole, *self._catalog.clusters.list_sharded()):
            # Somebody paused it: nothing is missed, and one snapshot makes up for all once it goes on.
            if cluster.state is ClusterState.ACTIVE and not cluster.is_paused:
                self._look_at(cluster)

    def _look_at(self, cluster: Cluster) -> None:
        is_sharded = cluster.kind is ClusterKind.SHARDED
        taken = self._catalog.cluster_snapshots if is_sharded else self._catalog.snapshots
        decided = decide_snapshot(
            self._catalog.schedules.get(cluster),
            now=self._clock.now(),
            last_slot=taken.newest_slot(cluster.id),
        )
        if not isinstance(decided, Due):
            return
        request = request_cluster_snapshot if is_sharded else request_snapshot
        try:
            request(
                cluster, catalog=self._catalog, clock=self._clock, actor=ACTOR, scheduled_for=decided.slot
            )
        except (SnapshotInProgress, HeadNotReady) as refused:
            _log.debug("schedule.waits", cluster_id=cluster.id, message=str(refused))
            if decided.late >= TOLD_AFTER and self._told.get(cluster.id) != decided.slot:
                self._told[cluster.id] = decided.slot
                self._tell_missed(cluster, decided, str(refused))

    def _tell_missed(self, cluster: Cluster, due: Due, why: str) -> None:
        record_event(
            self._catalog,
            self._clock,
            level=EventLevel.WARNING,
            kind="schedule.missed",
            message=f"the snapshot of {cluster.name} that was due at {due.slot.isoformat(timespec='minutes')} "
            f"could not be begun yet: {why}; it is made up once that is over",
            group_id=cluster.group_id,
            cluster_id=cluster.id,
            actor=ACTOR,
        )
