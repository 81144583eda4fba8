"""What follows when a job's steps end, fail, are cancelled, or lose their lease."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ebbtide.clock import Clock, SystemClock
from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.job import ATTEMPTS_MAX, RETRY_DELAY_FIRST, Job, JobKind, JobState
from ebbtide.errors import EbbtideError, IntegrityError, LeaseLost, StorageFull, Unreachable
from ebbtide.jobs import runner
from ebbtide.jobs.runner import PAUSE, Ending, JobPaused, JobRun, Step, WorkerStopping, run_job

HOUR = timedelta(hours=1)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
CLAIMED = Job(
    id="RESTORE:x",
    kind=JobKind.RESTORE,
    subject_id="x",
    group_id=GroupId("g"),
    cluster_id=ClusterId("c"),
    state=JobState.RUNNING,
    created=LONG_AGO,
    not_before=LONG_AGO,
    attempts=1,
    lease_worker_id="w",
)


@dataclass
class OneJob:
    """A queue of one job, in memory: what `run_job` needs of the catalog. `failure` is raised by every call."""

    job: Job
    failure: Exception | None = None
    is_taken: bool = False
    steps: list[str] = field(default_factory=list)
    beats: int = 0

    @property
    def jobs(self) -> "OneJob":
        return self

    def _change(self, worker_id: str, changes: dict[str, Any]) -> Job | None:
        if self.failure is not None:
            raise self.failure
        if self.is_taken or self.job.lease_worker_id != worker_id:
            return None
        self.job = replace(self.job, **changes)
        return self.job

    def record(self, job_id: str, *, worker_id: str, **changes: Any) -> Job | None:
        assert job_id == self.job.id
        self.steps += [changes["step"]] if "step" in changes else []
        return self._change(worker_id, changes)

    def heartbeat(self, job_id: str, *, worker_id: str, until: datetime) -> Job | None:
        assert job_id == self.job.id
        self.beats += 1
        return self._change(worker_id, {"lease_until": until})

    def finish(self, job_id: str, *, worker_id: str, state: JobState, error: str = "") -> bool:
        assert job_id == self.job.id
        return self._change(worker_id, {"state": state, "error": error, "lease_worker_id": None}) is not None

    def put_back(self, job_id: str, *, worker_id: str, **changes: Any) -> bool:
        assert job_id == self.job.id
        back = {**changes, "state": JobState.QUEUED, "lease_worker_id": None}
        return self._change(worker_id, back) is not None


class Ran:
    """One run of a job: `calls` are the endings that were called, in order."""

    def __init__(self, job: Job = CLAIMED, *, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.catalog = OneJob(job)
        self.stopping = threading.Event()
        self.calls: list[str] = []
        self.run = JobRun(
            job, catalog=self._any_catalog, clock=self.clock, worker_id="w", stopping=self.stopping
        )

    @property
    def _any_catalog(self) -> Any:
        return self.catalog

    def through(self, *actions: Callable[[], None]) -> Job:
        """Run the steps `actions`; the job as it is afterwards."""
        steps = [Step(name=f"step{number}", run=action) for number, action in enumerate(actions)]
        ending = Ending(
            always=lambda: self.calls.append("always"),
            gave_up=lambda reason: self.calls.append(f"gave up: {reason}"),
            cancelled=lambda: self.calls.append("cancelled"),
        )
        run_job(
            self.run,
            steps,
            ending,
            catalog=self._any_catalog,
            clock=self.clock,
            worker_id="w",
            retry_for=HOUR,
        )
        return self.catalog.job

    def wait_for_a_check_to_raise(self, deadline_seconds: float = 60.0) -> None:
        """A step that works until it is told to stop."""
        deadline = SystemClock().monotonic() + deadline_seconds
        while SystemClock().monotonic() < deadline:
            self.run.check()
            threading.Event().wait(0.002)
        raise AssertionError("nothing stopped the step")


@pytest.fixture(autouse=True)
def _quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "HEARTBEAT_SECONDS", 0.01)


def nothing() -> None:
    pass


def failing(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_steps_run_in_order_and_the_job_is_done() -> None:
    ran, seen = Ran(), list[int]()
    job = ran.through(lambda: seen.append(1), lambda: seen.append(2))
    assert seen == [1, 2]
    assert ran.catalog.steps == ["step0", "step1"]
    assert ran.calls == ["always"]
    assert (job.state, job.lease_worker_id) == (JobState.DONE, None)


def test_a_cause_that_may_pass_puts_the_job_back() -> None:
    ran = Ran()
    before = SystemClock().now()
    job = ran.through(failing(StorageFull("put", "pack")), failing(AssertionError("never reached")))
    assert (job.state, job.failures, job.attempts, job.lease_worker_id) == (JobState.QUEUED, 1, 0, None)
    assert "no space is left" in job.error
    assert job.first_failed is not None
    assert before <= job.first_failed
    assert job.not_before >= before + RETRY_DELAY_FIRST
    assert ran.calls == ["always"]


def test_the_first_failure_is_remembered_over_later_ones() -> None:
    first = SystemClock().now() - timedelta(minutes=10)
    job = Ran(replace(CLAIMED, failures=4, first_failed=first)).through(failing(Unreachable("gone")))
    assert (JobState.QUEUED, 5, first) == (job.state, job.failures, job.first_failed)


def test_a_cause_that_lasts_too_long_ends_the_job() -> None:
    ran = Ran(replace(CLAIMED, failures=40, first_failed=LONG_AGO))
    job = ran.through(failing(Unreachable("gone")))
    assert JobState.FAILED is job.state
    assert ran.calls == ["always", f"gave up: {job.error}"]
    assert job.error.startswith("gone (tried again")


class SkippingClock(SystemClock):
    """The machine's clock, which a test puts forward."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


@pytest.mark.parametrize(("advanced_by", "state"), [(1, JobState.QUEUED), (0, JobState.FAILED)])
def test_hours_of_work_between_two_failures_are_no_outage_and_hours_of_nothing_are(
    advanced_by: int, state: JobState
) -> None:
    clock = SkippingClock()
    ran = Ran(replace(CLAIMED, failures=1, first_failed=clock.now()), clock=clock)

    def work() -> None:
        ran.run.progress.phase("store", total=10)
        clock.ahead = 3 * HOUR
        if advanced_by:
            ran.run.progress.advance(advanced_by)
        raise Unreachable("gone")

    assert state is ran.through(work).state


def test_a_cause_that_would_meet_the_job_again_ends_it_at_once() -> None:
    ran = Ran()
    job = ran.through(failing(IntegrityError("pack 7", "is damaged", hint="none")))
    assert (job.state, job.error) == (JobState.FAILED, "pack 7: is damaged (none)")
    assert ran.calls == ["always", "gave up: pack 7: is damaged (none)"]


def test_an_unforeseen_error_ends_the_job_and_names_its_kind() -> None:
    ran = Ran()
    job = ran.through(failing(ZeroDivisionError("division by zero")))
    assert (job.state, job.error) == (JobState.FAILED, "ZeroDivisionError: division by zero")
    assert len(ran.calls) == 2


def test_a_job_that_is_cancelled_stops_at_its_next_check() -> None:
    ran = Ran()

    def work() -> None:
        ran.catalog.job = replace(ran.catalog.job, cancel_requested=True)
        ran.wait_for_a_check_to_raise()

    job = ran.through(work, failing(AssertionError("never reached")))
    assert JobState.CANCELLED is job.state
    assert ran.calls == ["always", "cancelled"]


def test_a_cancel_that_a_dead_worker_was_told_of_is_known_at_once() -> None:
    ran = Ran(replace(CLAIMED, cancel_requested=True))
    job = ran.through(failing(AssertionError("never reached")))
    assert JobState.CANCELLED is job.state


def test_who_lost_the_lease_stops_and_touches_nothing_more() -> None:
    ran = Ran()

    def work() -> None:
        ran.catalog.is_taken = True
        ran.wait_for_a_check_to_raise()

    before = ran.catalog.job
    ran.through(work, failing(AssertionError("never reached")))
    assert ran.calls == ["always"]
    assert before.state is ran.catalog.job.state
    with pytest.raises(LeaseLost):
        ran.run.check()


def test_who_was_stopped_for_longer_than_its_lease_learns_of_it_from_the_catalog(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "HEARTBEAT_SECONDS", 3600.0)
    ran = Ran()
    ran.run.check_owner()
    ran.catalog.is_taken = True
    ran.run.check()
    with pytest.raises(LeaseLost):
        ran.run.check_owner()
    with pytest.raises(LeaseLost):
        ran.run.check()


def test_a_stopping_worker_gives_the_job_back_without_counting_the_attempt() -> None:
    ran = Ran(replace(CLAIMED, attempts=3))

    def work() -> None:
        ran.stopping.set()
        ran.run.check()

    job = ran.through(work)
    assert (job.state, job.attempts, job.failures) == (JobState.QUEUED, 2, 0)
    assert ran.calls == ["always"]
    with pytest.raises(WorkerStopping):
        ran.run.check()


def test_a_paused_job_waits_however_long_and_its_failures_begin_anew() -> None:
    long_failing = replace(CLAIMED, failures=5, first_failed=LONG_AGO)
    ran = Ran(long_failing)
    job = ran.through(failing(JobPaused("no space")))
    assert (job.state, job.error) == (JobState.QUEUED, "no space")
    # The number of failures names what an attempt writes, so it only grows.
    assert (job.failures, job.first_failed, job.attempts) == (6, None, 0)
    assert job.not_before >= SystemClock().now() + PAUSE - timedelta(seconds=1)
    assert ran.calls == ["always"]


def test_a_job_that_ends_its_workers_is_given_up() -> None:
    ran = Ran(replace(CLAIMED, attempts=ATTEMPTS_MAX + 1))
    job = ran.through(failing(AssertionError("never reached")))
    assert (JobState.FAILED, f"{ATTEMPTS_MAX} workers ended while they worked on this") == (
        job.state,
        job.error,
    )
    assert ran.calls == [f"gave up: {job.error}"]


def test_the_last_allowed_attempt_is_made() -> None:
    assert Ran(replace(CLAIMED, attempts=ATTEMPTS_MAX)).through(nothing).state is JobState.DONE


def test_a_catalog_that_is_away_for_a_moment_costs_nothing() -> None:
    ran = Ran()

    def work() -> None:
        ran.catalog.failure = Unreachable("the catalog does not answer")
        beats = ran.catalog.beats
        _wait_until(lambda: ran.catalog.beats > beats + 2)
        ran.run.check()
        ran.catalog.failure = None

    assert ran.through(work).state is JobState.DONE


def test_a_catalog_that_is_away_for_longer_than_the_lease_stops_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "LEASE", timedelta(milliseconds=50))
    ran = Ran()

    def work() -> None:
        ran.catalog.failure = Unreachable("the catalog does not answer")
        ran.wait_for_a_check_to_raise()

    ran.through(work)
    assert ran.calls == ["always"]
    with pytest.raises(LeaseLost):
        ran.run.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_heartbeat_that_dies_stops_the_job() -> None:
    ran = Ran()

    def work() -> None:
        ran.catalog.failure = TypeError("nobody foresaw this")
        ran.wait_for_a_check_to_raise()

    ran.through(work)
    with pytest.raises(LeaseLost):
        ran.run.check()


def test_an_ending_that_cannot_be_recorded_is_left_to_the_next_worker() -> None:
    ran = Ran()

    def work() -> None:
        ran.catalog.failure = Unreachable("the catalog does not answer")
        raise EbbtideError("it went wrong")

    before = ran.catalog.job
    assert before.state is ran.through(work).state
    assert ran.calls == ["always", "gave up: it went wrong"]


def test_progress_that_cannot_be_written_is_no_failure() -> None:
    ran = Ran()

    def work() -> None:
        ran.catalog.failure = Unreachable("the catalog does not answer")
        ran.run.progress.phase("store", total=1)
        ran.catalog.failure = None
        ran.run.progress.advance(1)

    job = ran.through(work)
    assert JobState.DONE is job.state
    assert job.progress is not None
    assert job.progress.done == 1


def _wait_until(condition: Callable[[], bool], deadline_seconds: float = 60.0) -> None:
    deadline = SystemClock().monotonic() + deadline_seconds
    while not condition():
        assert SystemClock().monotonic() < deadline
        threading.Event().wait(0.002)
