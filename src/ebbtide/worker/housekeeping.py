"""What happens by itself: snapshots by schedule, retention, dead links of deleted snapshots, upkeep of oplog archives,
checkpoints of sharded clusters, prune, telling of keys that end, forgetting old events.

One worker keeps house at a time, by a lease; the others look whether it is free. Everything but prune is a handful of
catalog queries in the worker's own loop; prune has a thread of its own, gives way to snapshots, and runs at the
worker's niceness.

Crash: the lease runs out, or is released when the worker is seen to be dead; nothing that matters is in memory.
"""

import threading
from datetime import datetime, timedelta

import structlog

from ebbtide.backup.cluster_snapshot_tidying import settle_cluster_snapshots
from ebbtide.backup.context import BackupContext
from ebbtide.backup.snapshot_changes import (
    delete_parts_of_deleted,
    expire_links_of_deleted,
    expire_snapshot,
)
from ebbtide.backup.topology_following import TopologyFollower
from ebbtide.domain.cluster_snapshot import PartSnapshot
from ebbtide.domain.ids import ClusterId, SnapshotId, new_id
from ebbtide.domain.prune_run import PruneRun, PruneState
from ebbtide.domain.restore_job import RestoreStatus
from ebbtide.domain.retention import plan_retention
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import EbbtideError
from ebbtide.restore.abandoned import settle_abandoned
from ebbtide.restore.undo_point import kept_undos
from ebbtide.worker.checkpointing import Checkpointing
from ebbtide.worker.key_expiry import tell_key_expiry
from ebbtide.worker.oplog_upkeep import OplogUpkeep
from ebbtide.worker.pruning import Pruning
from ebbtide.worker.scheduler import ACTOR, Scheduler

LEASE_NAME = "housekeeping"
LEASE = timedelta(seconds=15)
LOOK_SECONDS = 2.0
RETENTION_SECONDS = 20.0
FORGET_SECONDS = 3600.0
KEYS_SECONDS = 60.0
TOPOLOGY_SECONDS = 10.0
PRUNE_AGAIN_AFTER = timedelta(minutes=10)
"""So soon prune runs again where something went before it."""

_log = structlog.get_logger()


class Housekeeping:
    """`look` often, from one thread; `stop` at the end."""

    def __init__(self, context: BackupContext) -> None:
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._stopping = threading.Event()
        self._scheduler = Scheduler(context.catalog, context.clock)
        self._oplog_upkeep = OplogUpkeep(context, self._stopping)
        self._checkpointing = Checkpointing(context, self._stopping)
        self._pruning: threading.Thread | None = None
        self._settling: threading.Thread | None = None
        self._settling_sharded: threading.Thread | None = None
        self._topology = TopologyFollower(context)
        self._following: threading.Thread | None = None
        self._followed_at = float("-inf")
        self._looked_at = float("-inf")
        self._retained_at = float("-inf")
        self._forgot_at = float("-inf")
        self._keys_at = float("-inf")

    def look(self) -> None:
        """Do what is due, if keeping house is ours. Troubles are told and tried again at the next look."""
        if self._clock.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = self._clock.monotonic()
        try:
            now = self._clock.now()
            if self._catalog.leases.claim(
                LEASE_NAME, worker_id=self._context.worker_id, now=now, until=now + LEASE
            ):
                self._keep_house(now)
        except EbbtideError as error:
            _log.warning("housekeeping.trouble", message=str(error))

    def stop(self, *, seconds: float) -> None:
        """Interrupt prune, the upkeep of oplog archives and checkpoints, and wait at most so long for each."""
        self._stopping.set()
        if self._pruning is not None:
            self._pruning.join(seconds)
        self._oplog_upkeep.join(seconds)
        self._checkpointing.join(seconds)

    def _keep_house(self, now: datetime) -> None:
        self._scheduler.look()
        if self._clock.monotonic() - self._retained_at >= RETENTION_SECONDS:
            self._retained_at = self._clock.monotonic()
            # Wholes first: their parts follow at the same look.
            for cluster_id in self._catalog.cluster_snapshots.list_cluster_ids():
                self._retain_wholes(cluster_id, now)
            for cluster_id in self._catalog.snapshots.list_cluster_ids():
                self._retain(cluster_id, now)
        expire_links_of_deleted(catalog=self._catalog, now=now)
        self._tell_key_expiry()
        self._forget(now)
        self._oplog_upkeep.look()
        self._checkpointing.look()
        self._settle_abandoned()
        self._settle_sharded()
        self._follow_topology()
        self._prune(now)

    def _settle_abandoned(self) -> None:
        """In a thread of its own: a target that does not answer must not hold up the worker's loop."""
        if self._settling is None or not self._settling.is_alive():
            self._settling = threading.Thread(
                target=settle_abandoned, args=(self._context,), name="abandoned restores", daemon=True
            )
            self._settling.start()

    def _tell_key_expiry(self) -> None:
        if self._clock.monotonic() - self._keys_at >= KEYS_SECONDS:
            self._keys_at = self._clock.monotonic()
            tell_key_expiry(self._catalog, self._clock)

    def _settle_sharded(self) -> None:
        """In a thread of its own, for the same reason."""
        if self._settling_sharded is None or not self._settling_sharded.is_alive():
            self._settling_sharded = threading.Thread(
                target=self._run_settling_sharded, name="snapshots of sharded clusters", daemon=True
            )
            self._settling_sharded.start()

    def _run_settling_sharded(self) -> None:
        try:
            settle_cluster_snapshots(self._context)
        except EbbtideError as error:
            _log.warning("cluster_snapshots.trouble", message=str(error))

    def _follow_topology(self) -> None:
        """In a thread of its own, for the same reason."""
        if self._following is not None and self._following.is_alive():
            return
        if self._clock.monotonic() - self._followed_at >= TOPOLOGY_SECONDS:
            self._followed_at = self._clock.monotonic()
            self._following = threading.Thread(
                target=self._run_following, name="topology of sharded clusters", daemon=True
            )
            self._following.start()

    def _run_following(self) -> None:
        try:
            self._topology.look()
        except EbbtideError as error:
            _log.warning("topology.trouble", message=str(error))

    def _forget(self, now: datetime) -> None:
        """Remove what the catalog tells of times long past."""
        keep_days = self._context.settings.count("catalog.keep_days")
        if not keep_days or self._clock.monotonic() - self._forgot_at < FORGET_SECONDS:
            return
        self._forgot_at = self._clock.monotonic()
        before = now - timedelta(days=keep_days)
        events = self._catalog.events.delete_before(before)
        transfers = self._catalog.transfers.delete_ended_before(before)
        if events or transfers:
            _log.info("housekeeping.forgot", events=events, transfers=transfers)

    # --- retention -------------------------------------------------------------------------------------------------

    def _retain(self, cluster_id: ClusterId, now: datetime) -> None:
        """Delete what is past its time. A cluster that the catalog does not know keeps everything."""
        cluster = self._catalog.clusters.find(cluster_id)
        if cluster is None:
            return
        snapshots = self._catalog.snapshots.list_in_state(cluster_id, SnapshotState.COMPLETE)
        parts = delete_parts_of_deleted(snapshots, catalog=self._catalog, now=now)
        past = [s for s in snapshots if s.expires is None or s.expires <= now]
        if not past:
            return
        undo_bases = {undo.undo_base_id for undo in kept_undos(self._catalog, cluster_id, now=now)}
        verdicts = plan_retention(
            snapshots,
            retention_days=self._catalog.schedules.get(cluster).retention_days,
            in_use={s.id for s in past if s.id in undo_bases or self._is_in_use(s.id, now)},
            now=now,
        )
        for verdict in verdicts:
            if not verdict.keep and verdict.snapshot.id not in parts:
                expire_snapshot(verdict.snapshot, catalog=self._catalog, clock=self._clock)

    def _retain_wholes(self, cluster_id: ClusterId, now: datetime) -> None:
        """As `_retain`, for a sharded cluster: a snapshot is in use where one of its parts is."""
        cluster = self._catalog.clusters.find(cluster_id)
        if cluster is None:
            return
        snapshots = self._catalog.cluster_snapshots.list_in_state(cluster_id, SnapshotState.COMPLETE)
        in_use = {
            whole.id
            for whole in snapshots
            if whole.expires is not None
            and whole.expires <= now
            and any(self._is_part_in_use(part, now) for part in whole.parts)
        }
        verdicts = plan_retention(
            snapshots,
            retention_days=self._catalog.schedules.get(cluster).retention_days,
            in_use=in_use,
            now=now,
        )
        for verdict in verdicts:
            if not verdict.keep:
                expire_snapshot(verdict.snapshot, catalog=self._catalog, clock=self._clock)

    def _is_part_in_use(self, part: PartSnapshot, now: datetime) -> bool:
        undos = kept_undos(self._catalog, part.cluster_id, now=now)
        return self._is_in_use(part.snapshot_id, now) or part.snapshot_id in {
            undo.undo_base_id for undo in undos
        }

    def _is_in_use(self, snapshot_id: SnapshotId, now: datetime) -> bool:
        """Whether a restore job is under way, or its link is still good for something."""
        return any(
            job.status is RestoreStatus.IN_PROGRESS
            or (job.status is RestoreStatus.FINISHED and job.expires is not None and now < job.expires)
            for job in self._catalog.restore_jobs.list_for_snapshot(snapshot_id)
        )

    # --- prune -----------------------------------------------------------------------------------------------------

    def _prune(self, now: datetime) -> None:
        """Start the run that was asked for, or the one that is due, unless one is under way here."""
        if self._pruning is not None and self._pruning.is_alive():
            return
        asked = self._catalog.prune_runs.next_unfinished()
        if asked is None and self._is_prune_due(now):
            asked = PruneRun(
                id=new_id(), requested=now, requested_by=ACTOR, dry_run=False, state=PruneState.QUEUED
            )
            self._catalog.prune_runs.insert(asked)
        if asked is None:
            return
        self._pruning = threading.Thread(target=self._run_prune, args=(asked,), name="prune")
        self._pruning.start()

    def _is_prune_due(self, now: datetime) -> bool:
        every = timedelta(hours=self._context.settings.number("repository.prune_every_hours"))
        if not every:
            return False
        last = self._catalog.prune_runs.newest_done()
        if last is None:
            return True
        if last.state is PruneState.FAILED or any(report.interrupted for report in last.reports):
            every = min(every, PRUNE_AGAIN_AFTER)
        return now - last.requested >= every

    def _run_prune(self, asked: PruneRun) -> None:
        try:
            Pruning(self._context, self._stopping).run(asked)
        except EbbtideError as error:
            # The catalog does not answer: the run stays unfinished, and is begun anew.
            _log.warning("prune.trouble", message=str(error))
