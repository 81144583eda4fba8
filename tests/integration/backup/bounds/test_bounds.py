"""A snapshot within bounds, on a real set: too little space, a rate for reading, and a lock that is held for long."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest
import structlog

from ebbtide.domain.bounds import BURST_SECONDS, waiting_for_space
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.ids import new_id
from ebbtide.domain.job import Job, JobKind, JobState, job_id
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.repository.repository import Repository
from ebbtide.storage.protocol import Storage
from ebbtide.storage.throttled import RateLimit, ThrottledStorage
from ebbtide.testing import workload
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.worker import watcher
from ebbtide.worker.worker import Worker

GIB = 1024**3
AMPLE, LITTLE = 50 * GIB, 4 * GIB
SECONDS_TO_READ = 6
"""At the rate that is tried: long enough to look into it, even where the files become fewer meanwhile."""
AtPoint = Callable[[str, Callable[[], None]], None]


class SmallStorage(ThrottledStorage):
    """A storage of 100 GiB, of which a test says how much is free."""

    def __init__(self, inner: Storage, clock: Any) -> None:
        super().__init__(inner, writes=RateLimit(1e12, clock))
        # Shared with those that are made of this one for a snapshot.
        self.space = {"free": AMPLE}

    @property
    def free(self) -> int:
        return self.space["free"]

    @free.setter
    def free(self, value: int) -> None:
        self.space["free"] = value

    def free_bytes(self) -> int | None:
        return self.free

    def total_bytes(self) -> int | None:
        return 100 * GIB


@dataclass
class Bounded:
    """A set under backup by a worker whose storage and settings a test may change."""

    installation: Any
    cluster: Cluster
    storage: SmallStorage
    settings: dict[str, Any]

    def job(self, snapshot: Snapshot) -> Job:
        job = self.installation.catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))
        if job is None:
            raise LookupError(snapshot.id)
        found: Job = job
        return found

    def waiting(self, snapshot: Snapshot) -> Job:
        """The snapshot's job, once it waits and says why."""

        def look() -> Job | None:
            job = self.job(snapshot)
            return job if job.state is JobState.QUEUED and job.error else None

        found: Job = self.installation.wait_until(look, what="a job that waits")
        return found

    def is_locked(self) -> bool:
        with self.installation.head_client(self.cluster) as client:
            answer = client.admin.command("currentOp", 1, **{"$ownOps": True})
            return bool(answer.get("fsyncLock", False))

    def count(self, kind: str, *, since: datetime | None = None) -> int:
        """Events of this kind, of all times or since a moment."""
        found = self.installation.catalog.events.page(
            self.installation.group.id, cluster_id=None, skip=0, limit=500
        )
        return sum(event.kind == kind and (since is None or event.time >= since) for event in found)


@pytest.fixture(scope="module")
def bounded(shared_installation: Any, shared_lab: ReplicaSetLab) -> Iterator[Bounded]:
    shared_lab.reset()
    with shared_lab.client() as client:
        workload.load(client, seed=12, scale=0.05)
    context = shared_installation.context
    storage = SmallStorage(context.repository.storage, context.clock)
    values = {**context.settings.values, "snapshot.lock_warn_seconds": 1.0}
    patch = pytest.MonkeyPatch()
    patch.setattr(watcher, "LOOK_SECONDS", 0.1)
    patch.setattr(watcher, "HEADS_SECONDS", 0.1)
    worker = Worker(
        replace(
            context,
            worker_id=new_id(),
            settings=replace(context.settings, values=values),
            repository=Repository(storage, repository_id=context.repository.id),
        )
    )
    thread = threading.Thread(target=worker.run, name="worker")
    thread.start()
    try:
        cluster = shared_installation.register_and_follow(shared_lab, "bounded")
        yield Bounded(shared_installation, cluster, storage, values)
        storage.free = AMPLE
        shared_installation.remove(cluster)
    finally:
        worker.stop()
        thread.join(120)
        patch.undo()


def test_with_too_little_space_a_snapshot_waits_says_why_and_goes_on_by_itself(bounded: Bounded) -> None:
    bounded.storage.free = LITTLE
    catalog = bounded.installation.catalog
    bounded.installation.wait_until(lambda: waiting_for_space(catalog.repository_space.find()))
    snapshot = bounded.installation.request_snapshot(bounded.cluster)
    job = bounded.waiting(snapshot)
    assert "4.00 GiB free and 5.00 GiB must stay so" in job.error
    assert job.failures == 0
    assert not bounded.is_locked()
    assert bounded.count("snapshot.paused_low_space") == 1

    # A little more than the least is not enough to begin again.
    bounded.storage.free = int(5.2 * GIB)
    time.sleep(0.5)
    assert bounded.job(snapshot).state is JobState.QUEUED
    bounded.storage.free = AMPLE
    bounded.installation.wait_for_snapshot(snapshot)
    assert (bounded.count("snapshot.paused_low_space"), bounded.count("snapshot.resumed")) == (1, 1)
    assert waiting_for_space(catalog.repository_space.find()) == ""


def test_a_snapshot_under_way_stops_unlocks_its_head_and_waits_however_long(
    bounded: Bounded, at_point: AtPoint
) -> None:
    def fill() -> None:
        bounded.storage.free = LITTLE

    bounded.settings["head.read_bytes_per_second"] = 4 * 1024**2
    at_point("snapshot.locked", fill)
    before = bounded.count("snapshot.paused_low_space")
    snapshot = bounded.installation.request_snapshot(bounded.cluster)
    job = bounded.waiting(snapshot)
    assert "no space is left" in job.error
    assert (job.failures, job.first_failed) == (1, None)
    assert not bounded.is_locked()
    assert bounded.installation.head(bounded.cluster).lock_job_id is None
    bounded.installation.wait_until(lambda: bounded.count("snapshot.paused_low_space") == before + 1)

    bounded.settings["head.read_bytes_per_second"] = 0
    bounded.storage.free = AMPLE
    bounded.installation.wait_for_snapshot(snapshot)


def test_the_window_of_the_oplog_is_what_the_set_says(bounded: Bounded) -> None:
    client = bounded.installation.context.access(bounded.cluster).set_client(timeout_seconds=5)
    with client:
        window = watcher.oplog_window_seconds(client)
        oldest = client.local["oplog.rs"].find_one(sort=[("$natural", 1)])["ts"].time
        now = client.admin.command("hello")["lastWrite"]["opTime"]["ts"].time
    assert window is not None
    assert abs(window - (now - oldest)) <= 15


def test_what_is_logged_names_job_and_cluster(bounded: Bounded) -> None:
    merge = structlog.contextvars.merge_contextvars
    with structlog.testing.capture_logs(processors=[merge]) as lines:
        snapshot = bounded.installation.take_snapshot(bounded.cluster)
        bounded.installation.wait_until(lambda: bounded.job(snapshot).state is JobState.DONE)
    of_the_job = [line for line in lines if line["event"].startswith(("job.", "snapshot."))]
    assert {"job.step", "snapshot.complete"} <= {line["event"] for line in of_the_job}
    told_by_the_worker = [line for line in of_the_job if line["event"] != "snapshot.requested"]
    assert {job_id(JobKind.SNAPSHOT, snapshot.id)} == {line["job_id"] for line in told_by_the_worker}
    assert {bounded.cluster.id} == {line["cluster_id"] for line in told_by_the_worker}


def test_a_head_is_read_no_faster_than_is_set_and_a_long_lock_is_told_while_it_is_held(
    bounded: Bounded,
) -> None:
    bounded.settings["snapshot.full_read_every_hours"] = 0
    first = bounded.installation.take_snapshot(bounded.cluster)
    rate = first.file_size_bytes / SECONDS_TO_READ
    bounded.settings["head.read_bytes_per_second"] = rate
    seen_while_locked = []
    began = bounded.installation.context.clock.now()
    started = time.monotonic()
    snapshot = bounded.installation.request_snapshot(bounded.cluster)

    def is_complete() -> bool:
        held = bounded.count("snapshot.lock_held", since=began)
        if held and not bounded.count("snapshot.long_lock", since=began):
            seen_while_locked.append(True)
        found = bounded.installation.catalog.snapshots.find(snapshot.id)
        return found is not None and found.state is SnapshotState.COMPLETE

    bounded.installation.wait_until(is_complete)
    seconds = time.monotonic() - started
    # Its files are not those of before: a journal may have gone meanwhile.
    second = bounded.installation.catalog.snapshots.find(snapshot.id)
    assert seconds > second.file_size_bytes / rate - BURST_SECONDS
    assert seen_while_locked
    assert bounded.count("snapshot.lock_held", since=began) == 1
