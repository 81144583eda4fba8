"""Keeping oplog archives small: what lies before the window goes, small slices become larger ones.

Run by the worker that keeps house, in a thread of its own. Two at once would do no harm: storing and removing the same
slice twice changes nothing.

Crash: merged slices beside their parts, old slices that are not all gone; the next run goes on.
"""

import threading
from datetime import timedelta

import structlog

from ebbtide.backup.archive_gaps import record_gaps
from ebbtide.backup.archive_wait import ArchiveBehind
from ebbtide.backup.context import BackupContext
from ebbtide.backup.open_work import OpenWorkCarry
from ebbtide.crash_points import reach
from ebbtide.domain.archive_state import ArchiveState
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.oplog_upkeep import (
    border_after,
    oldest_needed,
    pinned_by_wholes,
    plan_merges,
    plan_trim,
    redundant_slices,
)
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import EbbtideError, IntegrityError, ObjectNotFound, Unreachable
from ebbtide.events import record_event
from ebbtide.mongod.deployment import DeploymentError
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.merge import merge_slices, remove_parts
from ebbtide.oplog.slice import FOLDER
from ebbtide.repository.repository import ReplicaSetStore
from ebbtide.restore.undo_point import kept_undos
from ebbtide.storage.throttled import stoppable

_log = structlog.get_logger()


class UpkeepStopped(EbbtideError):
    """The worker stops."""


class OplogUpkeep:
    """`look` often, from one thread; `stop` at the end."""

    def __init__(self, context: BackupContext, stopping: threading.Event) -> None:
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._stopping = stopping
        self._thread: threading.Thread | None = None
        self._begun_at = float("-inf")
        # Since when (monotonic) a slice was seen to be redundant; after a restart the grace begins anew.
        self._redundant_since: dict[str, float] = {}
        self._told: set[str] = set()

    def look(self) -> None:
        """Begin a run where one is due and none is under way."""
        if self._thread is not None and self._thread.is_alive():
            return
        now = self._clock.monotonic()
        if now - self._begun_at < self._context.settings.number("oplog.upkeep_seconds"):
            return
        self._begun_at = now
        self._thread = threading.Thread(target=self.run, name="oplog upkeep", daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)

    def run(self) -> None:
        """One run over all archives. Never raises for what catalog or repository do."""
        try:
            for state in self._catalog.archives.list_all():
                cluster = self._catalog.clusters.find(state.id)
                if cluster is not None:
                    self._keep_small(cluster, state)
        except UpkeepStopped:
            return
        except EbbtideError as error:
            _log.warning("oplog.upkeep_trouble", message=str(error))

    def _keep_small(self, cluster: Cluster, state: ArchiveState) -> None:
        storage = stoppable(self._context.repository.storage, self._check)
        archive = OplogArchive(
            ReplicaSetStore(storage, cluster_id=cluster.id, replica_set_name=cluster.replica_set_name)
        )
        carry = OpenWorkCarry(cluster, archive, self._context, check=self._check)
        try:
            if cluster.parent_id is not None:
                self._keep_open_work(cluster, carry)
            self._trim(cluster, state, archive, carry)
            self._merge(archive)
            self._remove_parts(archive)
        except IntegrityError as error:
            self._tell_damage(cluster, error)
        except ObjectNotFound as error:
            # Somebody else removed it at the same time.
            _log.info("oplog.slice_gone", message=error.message)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise UpkeepStopped("the worker stops")

    def _keep_open_work(self, cluster: Cluster, carry: OpenWorkCarry) -> None:
        try:
            carry.keep()
        except (Unreachable, DeploymentError, ArchiveBehind) as error:
            # The next run asks again.
            _log.info("oplog.open_work_waits", cluster_id=cluster.id, message=error.message)

    # --- trim -----------------------------------------------------------------------------------------------------

    def _trim(
        self, cluster: Cluster, state: ArchiveState, archive: OplogArchive, carry: OpenWorkCarry
    ) -> None:
        slices = archive.slices()
        old = plan_trim(slices, needed_from=self._oldest_needed(cluster))
        if old and cluster.parent_id is not None and not carry.carry_to(border_after(slices, old)):
            _log.info("oplog.trim_waits", cluster_id=cluster.id, message="what is open there is not known")
            return
        for piece in old:
            self._check()
            archive.delete(piece)
            reach("oplog.trimmed")
        if old:
            _log.info("oplog.slices_trimmed", cluster_id=cluster.id, count=len(old))
            record_gaps(cluster, state, archive, reason="", context=self._context)

    def _oldest_needed(self, cluster: Cluster) -> OplogTimestamp:
        schedule = self._catalog.schedules.get(cluster)
        snapshots = self._catalog.snapshots.list_in_state(cluster.id, *SnapshotState)
        bases: list[SnapshotId | None] = [
            job.snapshot_id
            for job in self._catalog.restore_jobs.list_unfinished()
            if job.cluster_id == cluster.id and job.limit is not None
        ]
        bases += [u.undo_base_id for u in kept_undos(self._catalog, cluster.id, now=self._clock.now())]
        applied: dict[SnapshotId | None, OplogTimestamp | None] = {
            s.id: s.applied_timestamp for s in snapshots
        }
        # A base that is not listed is one that we know nothing of: then everything stays.
        pinned = [applied.get(base) or OplogTimestamp(0, 0) for base in bases]
        whole_ids = {s.cluster_snapshot_id for s in snapshots if s.cluster_snapshot_id is not None}
        pinned += pinned_by_wholes(snapshots, self._catalog.cluster_snapshots.find_many(whole_ids))
        window = timedelta(hours=schedule.point_in_time_window_hours)
        return oldest_needed(snapshots, window_start=self._clock.now() - window, pinned=pinned)

    # --- merge ----------------------------------------------------------------------------------------------------

    def _merge(self, archive: OplogArchive) -> None:
        count_min = self._context.settings.count("oplog.merge_slices")
        for group in plan_merges(archive.slices(), count_min=count_min):
            merge_slices(archive, group, check=self._check)

    def _remove_parts(self, archive: OplogArchive) -> None:
        """Remove what was redundant for the whole grace."""
        grace = self._context.settings.number("oplog.merge_grace_minutes") * 60
        now = self._clock.monotonic()
        parts = {
            archive.object_name(part): (part, by) for part, by in redundant_slices(archive.slices()).items()
        }
        folder = archive.store.object_name(FOLDER)
        others = {name: at for name, at in self._redundant_since.items() if not name.startswith(folder)}
        since = {name: self._redundant_since.get(name, now) for name in parts}
        self._redundant_since = others | since
        ripe = [pair for name, pair in parts.items() if now - since[name] >= grace]
        remove_parts(archive, ripe, check=self._check)

    def _tell_damage(self, cluster: Cluster, error: IntegrityError) -> None:
        """Once for each object and worker: nobody removes it, so every run meets it again."""
        if error.object_name in self._told:
            return
        self._told.add(error.object_name)
        record_event(
            self._catalog,
            self._clock,
            level=EventLevel.ERROR,
            kind="oplog.damaged",
            message=f"a slice of the oplog archive of {cluster.name} cannot be read: {error.message}",
            group_id=cluster.group_id,
            cluster_id=cluster.id,
        )
