"""The worker process: keeps heads, claims jobs, tidies up after workers that died.

One loop looks every half second: renew leases, give every cluster its keeper, claim jobs while there is room. A job
runs in a thread of its own; so does each keeper. On SIGTERM jobs return to the queue, locked heads are unlocked, and
heads are stopped.

Crash: leases run out after 15 s; a worker that starts on the same machine sees at once that its predecessor's process
is gone, and takes over its heads (their mongods are still running) and its jobs.
"""

import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import structlog

from ebbtide.backup.cluster_snapshot_parts import abandon_part
from ebbtide.backup.cluster_snapshot_run import ClusterSnapshotRun
from ebbtide.backup.context import BackupContext
from ebbtide.backup.head_handle import LEASE as HEAD_LEASE
from ebbtide.backup.head_keeper import HeadKeeper
from ebbtide.backup.host_access import unlock_abandoned
from ebbtide.backup.host_snapshot_run import HostSnapshotRun
from ebbtide.backup.registration import new_head
from ebbtide.backup.requesting import enqueue_snapshot
from ebbtide.backup.snapshot_run import SnapshotRun
from ebbtide.catalog.workers import WorkerRecord
from ebbtide.domain.cluster import ClusterState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.host import HostState
from ebbtide.domain.ids import ClusterId, RestoreJobId
from ebbtide.domain.job import Job, JobKind, job_id
from ebbtide.domain.restore_job import DeliveryMethod, RestoreEvent
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import EbbtideError
from ebbtide.events import record_event
from ebbtide.jobs.runner import LEASE, Ending, JobRun, Step, run_job
from ebbtide.processes import current_boot_id, process_start_ticks
from ebbtide.restore.automated_run import AutomatedRun
from ebbtide.restore.batch_follower import BatchFollower
from ebbtide.restore.download_count import settle_lost_transfers
from ebbtide.restore.download_run import DownloadRun
from ebbtide.restore.point_in_time_run import PointInTimeRun
from ebbtide.restore.requesting import enqueue_restore
from ebbtide.restore.source import sweep_scratch
from ebbtide.worker.archiving import Archiving
from ebbtide.worker.housekeeping import Housekeeping
from ebbtide.worker.watcher import Watcher
from ebbtide.worker.webhook import webhook_of

LOOK_SECONDS = 0.5
TIDY_SECONDS = 5.0
JOBS_STOP_SECONDS = 12.0
CATALOG_LOOK_SECONDS = 0.5
CATALOG_ANSWER_SECONDS = 2.0

WORKING_KINDS = (JobKind.SNAPSHOT, JobKind.RESTORE)
"""Kinds that count against `worker.jobs_max`."""
WAITING_KINDS = (JobKind.CLUSTER_SNAPSHOT,)
"""Kinds that wait for other jobs: if they counted, all places could be taken by those that wait."""

_log = structlog.get_logger()


class Worker:
    """One worker; `run` returns after `stop`."""

    def __init__(self, context: BackupContext) -> None:
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._id = context.worker_id
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._keepers: dict[ClusterId, tuple[HeadKeeper, threading.Thread]] = {}
        self._jobs: dict[str, threading.Thread] = {}
        self._waiting_jobs: dict[str, threading.Thread] = {}
        self._tidied_at = float("-inf")
        self._archiving = Archiving(context)
        self._housekeeping = Housekeeping(context)
        self._watcher = Watcher(context)
        self._webhook = webhook_of(context)

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Work until `stop`; the catalog may come and go meanwhile."""
        _log.info("worker.started", worker_id=self._id)
        threading.Thread(target=self._let_go_of_dead_catalog, name="catalog", daemon=True).start()
        self._watcher.start()
        if self._webhook is not None:
            self._webhook.start()
        while not self._stopping.is_set():
            try:
                self._look()
            except EbbtideError as error:
                _log.warning("worker.trouble", message=str(error))
            self._stopping.wait(LOOK_SECONDS)
        self._shut_down()
        self._stopped.set()
        _log.info("worker.stopped", worker_id=self._id)

    def _look(self) -> None:
        if self._clock.monotonic() - self._tidied_at > TIDY_SECONDS:
            self._tidy()
            self._tidied_at = self._clock.monotonic()
            # Here, where jobs are claimed too: none can begin between the look and the wiping.
            sweep_scratch(self._context)
        self._keep_heads()
        self._archiving.look(self._keepers.keys())
        self._housekeeping.look()
        self._jobs = {job_id: thread for job_id, thread in self._jobs.items() if thread.is_alive()}
        self._waiting_jobs = {
            job_id: thread for job_id, thread in self._waiting_jobs.items() if thread.is_alive()
        }
        while self._begin(self._waiting_jobs, WAITING_KINDS):
            pass
        while len(self._jobs) < self._context.settings.count("worker.jobs_max"):
            if not self._begin(self._jobs, WORKING_KINDS):
                return

    # --- heads ----------------------------------------------------------------------------------------------------

    def _keep_heads(self) -> None:
        """Every live cluster has a head record and, where its lease is ours or free, a keeper here."""
        for cluster_id, (_, thread) in list(self._keepers.items()):
            if not thread.is_alive():
                del self._keepers[cluster_id]
        for cluster in self._catalog.clusters.list_live():
            if self._catalog.heads.find(cluster.id) is None:
                self._catalog.heads.insert(new_head(cluster, clock=self._clock))
            now = self._clock.now()
            claimed = self._catalog.heads.claim(
                cluster.id, worker_id=self._id, now=now, until=now + HEAD_LEASE
            )
            if claimed is None or cluster.id in self._keepers:
                continue
            keeper = HeadKeeper(cluster.id, self._context)
            thread = threading.Thread(target=_keep, args=(keeper,), name=f"head {cluster.name}")
            self._keepers[cluster.id] = (keeper, thread)
            thread.start()

    # --- jobs -----------------------------------------------------------------------------------------------------

    def _begin(self, jobs: dict[str, threading.Thread], kinds: Sequence[JobKind]) -> bool:
        """Claim one job of these kinds, and run it in a thread of its own; whether there was one."""
        job = self._claim(kinds)
        if job is None:
            return False
        thread = threading.Thread(target=self._work, args=(job,), name=job.id)
        jobs[job.id] = thread
        thread.start()
        return True

    def _claim(self, kinds: Sequence[JobKind]) -> Job | None:
        now = self._clock.now()
        ready = [cluster_id for cluster_id, (keeper, _) in self._keepers.items() if keeper.is_ready]
        # A host has no head, so any worker may copy it.
        ready += self._catalog.hosts.list_store_ids()
        if self._watcher.is_space_low:
            ready = []
        return self._catalog.jobs.claim(
            worker_id=self._id,
            now=now,
            until=now + LEASE,
            snapshot_cluster_ids=ready,
            # A run that lost its lease may not know it yet.
            except_ids=[*self._jobs, *self._waiting_jobs],
            kinds=kinds,
        )

    def _work(self, job: Job) -> None:
        structlog.contextvars.bind_contextvars(job_id=job.id, cluster_id=job.cluster_id)
        run = JobRun(
            job, catalog=self._catalog, clock=self._clock, worker_id=self._id, stopping=self._stopping
        )
        steps, ending = self._steps(run)
        run_job(
            run,
            steps,
            ending,
            catalog=self._catalog,
            clock=self._clock,
            worker_id=self._id,
            retry_for=timedelta(minutes=self._context.settings.count("jobs.retry_minutes")),
        )

    def _steps(self, run: JobRun) -> tuple[list[Step], Ending]:
        """The job's list of steps. What cannot even begin fails in its first step, where the runner judges it."""
        try:
            match run.job.kind:
                case JobKind.SNAPSHOT:
                    of_host = self._catalog.hosts.find_by_store(run.job.cluster_id) is not None
                    snapshot = (HostSnapshotRun if of_host else SnapshotRun)(run, context=self._context)
                    return snapshot.steps(), snapshot.ending()
                case JobKind.RESTORE:
                    return self._restore_steps(run)
                case JobKind.CLUSTER_SNAPSHOT:
                    whole = ClusterSnapshotRun(run, context=self._context)
                    return whole.steps(), whole.ending()
        except EbbtideError as error:
            failure = error

        def fail() -> None:
            raise failure

        nothing = Ending(always=lambda: None, gave_up=lambda _: None, cancelled=lambda: None)
        return [Step(name="begin", run=fail)], nothing

    def _restore_steps(self, run: JobRun) -> tuple[list[Step], Ending]:
        restore = self._catalog.restore_jobs.find(RestoreJobId(run.job.subject_id))
        if restore is not None and restore.method is DeliveryMethod.AUTOMATED_RESTORE:
            leads = restore.batch_id is None or self._catalog.automated_restores.find(restore.id) is not None
            automated = (AutomatedRun if leads else BatchFollower)(run, context=self._context)
            return automated.steps(), automated.ending()
        if restore is not None and restore.point_in_time:
            point_in_time = PointInTimeRun(run, context=self._context)
            return point_in_time.steps(), point_in_time.ending()
        download = DownloadRun(run, context=self._context)
        return download.steps(), download.ending()

    # --- tidying --------------------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """What nobody else puts right: dead workers' leases, records without jobs, links past their time."""
        self._catalog.workers.put(self._record())
        for worker in self._catalog.workers.list_all():
            if worker.id != self._id and self._is_dead(worker):
                _log.info("worker.took_over", dead_worker_id=worker.id)
                self._catalog.heads.release_all(worker.id)
                self._catalog.jobs.release_all(worker.id)
                self._catalog.leases.release_all(worker.id)
                self._catalog.workers.delete(worker.id)
        unlock_abandoned(self._context)
        for snapshot in self._catalog.snapshots.list_in_progress():
            if self._is_abandoned_part(snapshot):
                abandon_part(snapshot.id, catalog=self._catalog, clock=self._clock)
            elif self._can_be_taken(snapshot):
                enqueue_snapshot(snapshot, catalog=self._catalog, clock=self._clock)
            else:
                self._give_up_snapshot(snapshot)
        for restore in self._catalog.restore_jobs.list_unfinished():
            enqueue_restore(restore, catalog=self._catalog, clock=self._clock)
        for restore in self._catalog.restore_jobs.list_expired(self._clock.now()):
            self._catalog.restore_jobs.apply(restore.id, RestoreEvent.LINK_EXPIRED)
        settle_lost_transfers(catalog=self._catalog, clock=self._clock, now=self._clock.now())

    def _is_abandoned_part(self, snapshot: Snapshot) -> bool:
        """Whether it was to be a part of a snapshot of a sharded cluster that has failed."""
        if snapshot.cluster_snapshot_id is None:
            return False
        whole = self._catalog.cluster_snapshots.find(snapshot.cluster_snapshot_id)
        return whole is None or not whole.is_listed

    def _can_be_taken(self, snapshot: Snapshot) -> bool:
        cluster = self._catalog.clusters.find(snapshot.cluster_id)
        if cluster is not None:
            return cluster.state is not ClusterState.REMOVED
        host = self._catalog.hosts.find_by_store(snapshot.cluster_id)
        return host is not None and host.state is not HostState.REMOVED

    def _give_up_snapshot(self, snapshot: Snapshot) -> None:
        """The head is gone, so no worker will claim this one any more; one that still works on it is told to stop."""
        job = self._catalog.jobs.request_cancel(job_id(JobKind.SNAPSHOT, snapshot.id))
        if job is not None and job.lease_until is not None and job.lease_until > self._clock.now():
            return
        reason = "its cluster was removed before it was taken"
        failed = self._catalog.snapshots.update(snapshot.id, state=SnapshotState.FAILED, error=reason)
        if failed is not None:
            record_event(
                self._catalog,
                self._clock,
                level=EventLevel.ERROR,
                kind="snapshot.failed",
                message=f"snapshot {snapshot.id} of {snapshot.cluster_name} failed: {reason}",
                group_id=snapshot.group_id,
                cluster_id=snapshot.cluster_id,
                subject_id=snapshot.id,
            )

    def _record(self) -> WorkerRecord:
        return WorkerRecord(
            id=self._id,
            boot_id=current_boot_id(),
            pid=os.getpid(),
            start_ticks=process_start_ticks(os.getpid()) or 0,
            heartbeat=self._clock.now(),
        )

    def _is_dead(self, worker: WorkerRecord) -> bool:
        """Only a worker of this machine can be seen to be dead; of others the leases run out."""
        if worker.boot_id != current_boot_id():
            return self._clock.now() - worker.heartbeat > timedelta(minutes=5)
        return process_start_ticks(worker.pid) != worker.start_ticks

    # --- stopping -------------------------------------------------------------------------------------------------

    def _let_go_of_dead_catalog(self) -> None:
        """While we stop: a catalog that is gone must not hold up every thread that has a last word for it.

        That is so when the supervisor was killed: the kernel tells its children all at once.
        """
        self._stopping.wait()
        while not self._stopped.wait(CATALOG_LOOK_SECONDS):
            if not self._catalog.answers(within_seconds=CATALOG_ANSWER_SECONDS):
                _log.warning("worker.catalog_gone", message="the catalog is gone: leases are left to run out")
                self._catalog.close()
                return

    def _shut_down(self) -> None:
        """Jobs first (they unlock their heads), then keepers, then the heads' mongods, all at once."""
        deadline = self._clock.monotonic() + JOBS_STOP_SECONDS
        self._archiving.stop()
        for thread in (*self._jobs.values(), *self._waiting_jobs.values()):
            thread.join(max(0.0, deadline - self._clock.monotonic()))
        self._watcher.stop()
        if self._webhook is not None:
            self._webhook.stop()
        self._housekeeping.stop(seconds=max(1.0, deadline - self._clock.monotonic()))
        self._archiving.join(seconds=max(1.0, deadline - self._clock.monotonic()))
        keepers = list(self._keepers.values())
        for keeper, _ in keepers:
            keeper.stop()
        for _, thread in keepers:
            thread.join(max(1.0, deadline - self._clock.monotonic()))
        if keepers:
            with ThreadPoolExecutor(len(keepers)) as pool:
                list(pool.map(lambda kept: kept[0].stop_mongod(), keepers))
        try:
            self._catalog.jobs.release_all(self._id)
            self._catalog.leases.release_all(self._id)
            self._catalog.heads.release_all(self._id)
            self._catalog.workers.delete(self._id)
        except EbbtideError as error:
            _log.warning("worker.leases_not_released", message=str(error))


def _keep(keeper: HeadKeeper) -> None:
    """A keeper's thread; each line that it logs names the cluster."""
    structlog.contextvars.bind_contextvars(cluster_id=keeper.cluster_id)
    keeper.run()


def stop_on_signals(worker: Worker) -> None:
    """SIGTERM and SIGINT end the worker in order."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
