"""Carrying out one run of prune over the whole repository, with what the catalog knows: what was deleted, what is
still needed, and whether a snapshot is being taken.

Per replica set: keep snapshots out → settle with the catalog which deleted snapshots go for good → inspect, plan,
execute (`repository.prune`). A dry run does no more than inspect and plan, and keeps nobody out.
Crash: the run is RUNNING in the catalog, and the next worker begins it anew.
"""

import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from ebbtide.backup.context import BackupContext
from ebbtide.backup.prune_guard import PruneGuard, PruneInterrupted
from ebbtide.backup.snapshot_changes import claim_removal
from ebbtide.domain.download import is_active
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import RestoreJobId, ResultId, SnapshotId
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.prune_run import PruneReport, PruneRun, PruneState
from ebbtide.domain.restore_job import RestoreJob, RestoreStatus
from ebbtide.domain.result import is_result_needed
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import EbbtideError, LeaseLost
from ebbtide.events import record_event
from ebbtide.repository.prune import Kind, PrunePlan, execute_prune, inspect, plan_prune
from ebbtide.repository.repository import ReplicaSetStore
from ebbtide.restore.undo_point import kept_undos

_log = structlog.get_logger()


class Pruning:
    """Runs of prune on one worker. For one thread."""

    def __init__(self, context: BackupContext, stopping: threading.Event) -> None:
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._stopping = stopping

    def run(self, asked: PruneRun) -> None:
        """Bring a run to its end, and say what came of it. Never raises for what it met."""
        self._catalog.prune_runs.update(asked.id, state=PruneState.RUNNING, started=self._clock.now())
        reports: list[PruneReport] = []
        state, error = PruneState.DONE, ""
        try:
            for store in self._context.repository.iter_replica_sets():
                reports.append(self._prune_one(store, dry_run=asked.dry_run))
                if self._stopping.is_set():
                    return  # the next worker begins the run anew
                self._catalog.prune_runs.update(asked.id, reports=tuple(reports))
        except EbbtideError as problem:
            if self._stopping.is_set():
                return
            _log.warning("prune.ended_early", message=str(problem))
            state, error = PruneState.FAILED, str(problem)
        self._catalog.prune_runs.update(
            asked.id, state=state, ended=self._clock.now(), reports=tuple(reports), error=error
        )
        if error:
            self._event(
                None,
                EventLevel.WARNING,
                "prune.failed",
                f"prune ended early, and goes on in its next run: {error}",
            )

    def _prune_one(self, store: ReplicaSetStore, *, dry_run: bool) -> PruneReport:
        """One replica set. Raises StorageError and the catalog's errors."""
        if dry_run:
            remove = [s.id for s in self._removable(store) if s.id not in self._pinned([s])]
            plan = self._plan(store, remove, self._unneeded_results(store), check=self._require_going_on)
            return _report(store, plan, removed_bytes=plan.removed_bytes)
        guard = PruneGuard(
            store.cluster_id,
            catalog=self._catalog,
            clock=self._clock,
            worker_id=self._context.worker_id,
            stopping=self._stopping,
        )
        try:
            guard.enter()
        except PruneInterrupted as interrupted:
            return _interrupted(store, interrupted)
        try:
            return self._prune_guarded(store, guard)
        except (PruneInterrupted, LeaseLost) as interrupted:
            return _interrupted(store, interrupted)
        finally:
            guard.leave()

    def _prune_guarded(self, store: ReplicaSetStore, guard: PruneGuard) -> PruneReport:
        remove = self._settle(store)
        plan = self._plan(store, remove, self._unneeded_results(store), check=guard.check)
        removed_bytes = execute_prune(store, plan, check=guard.check)
        report = _report(store, plan, removed_bytes=removed_bytes)
        self._tell(store, report)
        return report

    def _plan(
        self,
        store: ReplicaSetStore,
        remove: Collection[SnapshotId],
        remove_results: Collection[ResultId],
        *,
        check: Callable[[], None],
    ) -> PrunePlan:
        inspection = inspect(store, remove=set(remove), remove_results=set(remove_results), check=check)
        grace = timedelta(hours=self._context.settings.number("repository.prune_grace_hours"))
        return plan_prune(inspection, now=self._clock.now(), grace=grace)

    def _require_going_on(self) -> None:
        if self._stopping.is_set():
            raise PruneInterrupted("the worker stops")

    # --- which results and snapshots go ----------------------------------------------------------------------------------------

    def _unneeded_results(self, store: ReplicaSetStore) -> list[ResultId]:
        """The replayed results whose restore jobs are over: such a job never comes back."""
        return [result_id for result_id in store.iter_result_ids() if not self._is_needed(result_id)]

    def _is_needed(self, result_id: ResultId) -> bool:
        job = self._catalog.restore_jobs.find(RestoreJobId(result_id))
        return is_result_needed(
            job,
            work=self._catalog.jobs.find(job_id(JobKind.RESTORE, result_id)),
            transfers=() if job is None else self._catalog.transfers.list_for_job(job.id),
            now=self._clock.now(),
            resume_for=timedelta(minutes=self._context.settings.number("downloads.resume_minutes")),
        )

    def _settle(self, store: ReplicaSetStore) -> list[SnapshotId]:
        """The deleted snapshots that nothing brings back any more."""
        candidates = self._removable(store)
        pinned = self._pinned(candidates)
        return [
            s.id
            for s in candidates
            if s.removed is not None
            or (s.id not in pinned and claim_removal(s, catalog=self._catalog, now=self._clock.now()))
        ]

    def _removable(self, store: ReplicaSetStore) -> list[Snapshot]:
        now = self._clock.now()
        return [
            s
            for s in self._catalog.snapshots.list_in_state(store.cluster_id, SnapshotState.DELETED)
            if s.replica_set_name == store.replica_set_name
            and (s.removed is not None or (s.prune_after is not None and s.prune_after <= now))
        ]

    def _pinned(self, snapshots: Collection[Snapshot]) -> set[SnapshotId]:
        """Those of `snapshots` that a restore job or a download is at work on, or that undoing a restore takes."""
        now = self._clock.now()
        undo_bases = {
            undo.undo_base_id
            for cluster_id in {s.cluster_id for s in snapshots}
            for undo in kept_undos(self._catalog, cluster_id, now=now)
        }
        return {
            s.id
            for s in snapshots
            if s.removed is None
            and (
                s.id in undo_bases
                or any(
                    self._is_at_work(job, now) for job in self._catalog.restore_jobs.list_for_snapshot(s.id)
                )
            )
        }

    def _is_at_work(self, restore: RestoreJob, now: datetime) -> bool:
        if restore.status is RestoreStatus.IN_PROGRESS:
            return True
        work = self._catalog.jobs.find(job_id(JobKind.RESTORE, restore.id))
        if work is not None and work.state is JobState.RUNNING:
            return True  # it reads the archive for its SHA-1
        resume_for = timedelta(minutes=self._context.settings.number("downloads.resume_minutes"))
        if restore.expires is not None and now < restore.expires:
            return True
        is_resumable = restore.expires is not None and now < restore.expires + resume_for
        transfers = self._catalog.transfers.list_for_job(restore.id)
        return any(is_active(t, now=now) or (is_resumable and not t.is_complete) for t in transfers)

    # --- saying what was done --------------------------------------------------------------------------------------

    def _tell(self, store: ReplicaSetStore, report: PruneReport) -> None:
        if report.problem:
            self._event(
                store,
                EventLevel.ERROR,
                "prune.blocked",
                f"prune cannot tell what {store.replica_set_name} still needs, so it sweeps nothing there: "
                f"{report.problem}",
            )
        elif report.removed_bytes:
            self._event(
                store,
                EventLevel.INFO,
                "prune.done",
                f"prune removed {report.removed_bytes} bytes of {store.replica_set_name}: "
                f"{report.removed_manifests} snapshots, {report.removed_recipes} recipes, "
                f"{report.removed_packs} packs",
            )

    def _event(self, store: ReplicaSetStore | None, level: EventLevel, kind: str, message: str) -> None:
        cluster = None if store is None else self._catalog.clusters.find(store.cluster_id)
        record_event(
            self._catalog,
            self._clock,
            level=level,
            kind=kind,
            message=message,
            group_id=None if cluster is None else cluster.group_id,
            cluster_id=None if cluster is None else cluster.id,
            actor="prune",
        )


def _report(store: ReplicaSetStore, plan: PrunePlan, *, removed_bytes: int) -> PruneReport:
    return PruneReport(
        cluster_id=store.cluster_id,
        replica_set_name=store.replica_set_name,
        snapshots=plan.snapshots_kept,
        removed_manifests=plan.count(Kind.MANIFEST),
        removed_recipes=plan.count(Kind.RECIPE),
        removed_packs=plan.count(Kind.PACK),
        removed_bytes=removed_bytes,
        moved_packs=len(plan.rewrites),
        waiting_objects=plan.waiting_objects,
        waiting_bytes=plan.waiting_bytes,
        live_objects=plan.live_objects,
        live_bytes=plan.live_bytes,
        problem=plan.blocked,
    )


def _interrupted(store: ReplicaSetStore, why: EbbtideError) -> PruneReport:
    report = PruneReport(cluster_id=store.cluster_id, replica_set_name=store.replica_set_name)
    return replace(report, problem=why.message, interrupted=True)
