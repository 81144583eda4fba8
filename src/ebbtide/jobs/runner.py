"""Running one claimed job: its list of steps, its heartbeat, and what follows a failure.

A step can be run again and first looks at what is there. The runner alone retries: steps raise, `decide_retry`
judges. Stopping is cooperative: `JobRun.check` raises in the job's thread once the job is cancelled, the lease is
lost, or the worker shuts down. Crash: the lease runs out (or the next worker on this machine sees that ours is dead)
and the job is claimed again from its first step.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.job import ATTEMPTS_MAX, GiveUp, Job, JobState, TryAgain, decide_retry, failing_since
from ebbtide.domain.progress import Progress
from ebbtide.errors import EbbtideError, JobCancelled, LeaseLost
from ebbtide.jobs.progress import ThrottledProgress

LEASE = timedelta(seconds=15)
HEARTBEAT_SECONDS = 2.0
PAUSE = timedelta(seconds=3)
"""A paused job is looked at again after so long; whoever claims jobs may leave it for longer."""

_log = structlog.get_logger()


class WorkerStopping(EbbtideError):
    """The worker shuts down: the job goes back into the queue as it is."""


class JobPaused(EbbtideError):
    """What the job needs is not there now, through no fault of its own: it waits, however long that takes."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One named, repeatable piece of a job."""

    name: str
    run: Callable[[], None]


class JobRun:
    """What a running job sees of its surroundings. Safe to use from the job's own threads."""

    def __init__(
        self, job: Job, *, catalog: Catalog, clock: Clock, worker_id: str, stopping: threading.Event
    ) -> None:
        self.job = job
        self.progress = ThrottledProgress(self._write_progress, clock)
        self._catalog = catalog
        self._clock = clock
        self._worker_id = worker_id
        self._stopping = stopping
        self._cancelled = threading.Event()
        self._lost = threading.Event()
        self._ended = threading.Event()
        if job.cancel_requested:
            # Asked of a worker that is gone: it must not take this one a heartbeat to hear of it.
            self._cancelled.set()

    def check(self) -> None:
        """Raise where the job must stop: JobCancelled, LeaseLost, WorkerStopping."""
        if self._cancelled.is_set():
            raise JobCancelled("the job was cancelled")
        if self._lost.is_set():
            raise LeaseLost(f"another worker owns job {self.job.id} now")
        if self._stopping.is_set():
            raise WorkerStopping("the worker stops")

    def check_owner(self) -> None:
        """Ask the catalog whether the job is ours still: right before what only its owner may do. Raises LeaseLost.

        `check` knows what the last heartbeat was told; a worker that was stopped for a while and goes on may not have
        had one since.
        """
        until = self._clock.now() + LEASE
        if self._catalog.jobs.heartbeat(self.job.id, worker_id=self._worker_id, until=until) is None:
            self._lost.set()
            raise LeaseLost(f"another worker owns job {self.job.id} now")

    def execute(self, steps: Sequence[Step]) -> None:
        """Run `steps` in order, renewing the lease meanwhile."""
        heartbeat = threading.Thread(target=self._beat, name=f"heartbeat {self.job.id}", daemon=True)
        heartbeat.start()
        try:
            for step in steps:
                self.check()
                _log.info("job.step", job_id=self.job.id, step=step.name)
                self._catalog.jobs.record(self.job.id, worker_id=self._worker_id, step=step.name)
                step.run()
            self.progress.flush()
        finally:
            self._ended.set()
            heartbeat.join()

    def _beat(self) -> None:
        try:
            self._keep_lease()
        finally:
            # Whatever ended it: a lease that nobody renews is soon another worker's.
            if not self._ended.is_set():
                self._lost.set()

    def _keep_lease(self) -> None:
        believed_until = self._clock.monotonic() + LEASE.total_seconds()
        while not self._ended.wait(HEARTBEAT_SECONDS):
            until = self._clock.now() + LEASE
            try:
                job = self._catalog.jobs.heartbeat(self.job.id, worker_id=self._worker_id, until=until)
            except EbbtideError as error:
                # The catalog may come back before anyone else believes us dead.
                _log.warning("job.heartbeat_failed", job_id=self.job.id, message=str(error))
                if self._clock.monotonic() > believed_until:
                    self._lost.set()
                continue
            if job is None:
                return
            believed_until = self._clock.monotonic() + LEASE.total_seconds()
            if job.cancel_requested:
                self._cancelled.set()

    def _write_progress(self, progress: Progress) -> None:
        try:
            self._catalog.jobs.record(self.job.id, worker_id=self._worker_id, progress=progress)
        except EbbtideError:
            _log.debug("job.progress_not_written", job_id=self.job.id)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What a kind of job does at its end.

    `always` comes first, however the steps ended, and must not raise; then at most one of the others.
    """

    always: Callable[[], None]
    gave_up: Callable[[str], None]
    cancelled: Callable[[], None]


def run_job(
    run: JobRun,
    steps: Sequence[Step],
    ending: Ending,
    *,
    catalog: Catalog,
    clock: Clock,
    worker_id: str,
    retry_for: timedelta,
) -> None:
    """Run a claimed job to an end, or put it back. Never raises for what the job met."""
    job = run.job
    try:
        if job.attempts > ATTEMPTS_MAX:
            raise EbbtideError(f"{job.attempts - 1} workers ended while they worked on this")
        try:
            run.execute(steps)
        finally:
            ending.always()
        catalog.jobs.finish(job.id, worker_id=worker_id, state=JobState.DONE)
        _log.info("job.done", job_id=job.id)
    except WorkerStopping:
        # Not a failure: the attempt does not count.
        _quietly(
            job, lambda: catalog.jobs.put_back(job.id, worker_id=worker_id, attempts=max(0, job.attempts - 1))
        )
    except JobPaused as error:
        _log.warning("job.paused", job_id=job.id, message=str(error))
        paused = str(error)
        _quietly(
            job, lambda: _put_back_paused(job, paused, catalog=catalog, clock=clock, worker_id=worker_id)
        )
    except LeaseLost as error:
        _log.warning("job.lease_lost", job_id=job.id, message=str(error))
    except JobCancelled:
        _quietly(job, ending.cancelled)
        _quietly(job, lambda: catalog.jobs.finish(job.id, worker_id=worker_id, state=JobState.CANCELLED))
    except Exception as error:  # noqa: BLE001
        # The boundary: whatever a step met, the job must not hang.
        _after_failure(
            run, error, ending, catalog=catalog, clock=clock, worker_id=worker_id, retry_for=retry_for
        )


def _put_back_paused(job: Job, reason: str, *, catalog: Catalog, clock: Clock, worker_id: str) -> None:
    """Back into the queue. The time for which failures are tried again has not begun, or begins anew."""
    catalog.jobs.put_back(
        job.id,
        worker_id=worker_id,
        not_before=clock.now() + PAUSE,
        failures=job.failures + 1,
        first_failed=None,
        error=reason,
        attempts=0,
    )


def _after_failure(
    run: JobRun,
    error: Exception,
    ending: Ending,
    *,
    catalog: Catalog,
    clock: Clock,
    worker_id: str,
    retry_for: timedelta,
) -> None:
    job = run.job
    retryable = isinstance(error, EbbtideError) and error.retryable
    message = str(error) if isinstance(error, EbbtideError) else f"{type(error).__name__}: {error}"
    now = clock.now()
    first_failed = failing_since(job.first_failed, worked=run.progress.worked(), now=now)
    decision = decide_retry(
        retryable=retryable,
        error=message,
        failures=job.failures,
        first_failed=first_failed,
        now=now,
        retry_for=retry_for,
    )
    match decision:
        case TryAgain(not_before=not_before):
            _log.warning("job.retry", job_id=job.id, message=message, not_before=not_before.isoformat())
            _quietly(
                job,
                lambda: catalog.jobs.put_back(
                    job.id,
                    worker_id=worker_id,
                    not_before=not_before,
                    failures=job.failures + 1,
                    first_failed=first_failed,
                    error=message,
                    # A failure that was seen is no mysterious death.
                    attempts=0,
                ),
            )
        case GiveUp(reason=reason):
            unforeseen = None if isinstance(error, EbbtideError) else error
            _log.error("job.failed", job_id=job.id, message=reason, exc_info=unforeseen)
            _quietly(job, lambda: ending.gave_up(reason))
            _quietly(
                job,
                lambda: catalog.jobs.finish(job.id, worker_id=worker_id, state=JobState.FAILED, error=reason),
            )


def _quietly(job: Job, action: Callable[[], object]) -> None:
    """Do what can be done; where even that fails, the lease runs out and the job is taken up again."""
    try:
        action()
    except EbbtideError as error:
        _log.error("job.ending_failed", job_id=job.id, message=str(error))
