"""The worker puts right what nobody else does. A real catalog and repository; no head, no set."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from ebbtide.backup.context import BackupContext
from ebbtide.catalog.catalog import Catalog
from ebbtide.catalog.workers import WorkerRecord
from ebbtide.clock import SystemClock
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId, new_id
from ebbtide.domain.job import Job, JobKind, JobState, job_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import BROKEN, EXPIRED, NEW, READY, RestoreJob, RestoreState
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.processes import current_boot_id, process_start_ticks
from ebbtide.repository.repository import Repository
from ebbtide.sealing import ServiceKey
from ebbtide.settings import resolve_settings
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.worker.worker import Worker

CLOCK = SystemClock()
GROUP = GroupId("5f0000000000000000000001")


@pytest.fixture
def context(catalog: Catalog, tmp_path: Path) -> BackupContext:
    return BackupContext(
        settings=resolve_settings(flags={}, environment={}, file=None),
        directory=DataDirectory(tmp_path),
        catalog=catalog,
        service_key=ServiceKey(bytes(32)),
        clock=CLOCK,
        repository=Repository.create(DirectoryStorage(tmp_path / "repository"), now=CLOCK.now()),
        worker_id="this-worker",
    )


@contextmanager
def working(context: BackupContext) -> Iterator[Worker]:
    worker = Worker(context)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(90)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], deadline_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + deadline_seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def restore_job(state: RestoreState) -> RestoreJob:
    return RestoreJob(
        id=RestoreJobId(new_id()),
        group_id=GROUP,
        cluster_id=ClusterId(new_id()),
        cluster_name="shop",
        replica_set_name="rs0",
        snapshot_id=SnapshotId(new_id()),
        created=CLOCK.now(),
        status=state[0],
        delivery_status=state[1],
        timestamp=OplogTimestamp(1700000000, 1),
        expiration_hours=1,
        max_downloads=1,
        requested_by="abcdefgh",
        expires=CLOCK.now() - timedelta(seconds=1) if state == READY else None,
        file_name="rs0.tar.gz",
    )


def cluster(state: ClusterState) -> Cluster:
    return Cluster(
        id=ClusterId(new_id()),
        group_id=GROUP,
        name="shop",
        replica_set_name="rs0",
        uri="mongodb://127.0.0.1:1",
        username=None,
        auth_source="admin",
        password=None,
        keyfile=None,
        mongod_version="6.0.5",
        fcv="6.0",
        state=state,
        created=CLOCK.now(),
        head_host="127.0.0.1",
        head_port=1,
    )


def snapshot_of(owner: Cluster) -> Snapshot:
    return Snapshot(
        id=SnapshotId(new_id()),
        group_id=GROUP,
        cluster_id=owner.id,
        cluster_name=owner.name,
        replica_set_name=owner.replica_set_name,
        created=CLOCK.now(),
        state=SnapshotState.IN_PROGRESS,
    )


def test_a_link_whose_time_has_passed_expires(context: BackupContext) -> None:
    job = restore_job(READY)
    jobs = context.catalog.restore_jobs
    jobs.insert(job)
    with working(context):
        wait_until(lambda: (found := jobs.find(job.id)) is not None and found.state == EXPIRED)


def test_a_restore_without_a_job_gets_one_and_a_snapshot_that_is_gone_breaks_it(
    context: BackupContext,
) -> None:
    restore = restore_job(NEW)
    context.catalog.restore_jobs.insert(restore)
    with working(context):
        wait_until(
            lambda: (
                (found := context.catalog.restore_jobs.find(restore.id)) is not None and found.state == BROKEN
            )
        )
        wait_until(
            lambda: (
                (job := context.catalog.jobs.find(job_id(JobKind.RESTORE, restore.id))) is not None
                and job.state is JobState.FAILED
            )
        )
    found = context.catalog.restore_jobs.find(restore.id)
    assert found is not None
    assert "no such object" in found.reason


def test_a_snapshot_whose_cluster_was_removed_meanwhile_does_not_wait_for_ever(
    context: BackupContext,
) -> None:
    catalog = context.catalog
    removed = cluster(ClusterState.ACTIVE)
    catalog.clusters.insert(removed)
    catalog.clusters.set_state(removed.id, ClusterState.REMOVED)
    snapshot = snapshot_of(removed)
    catalog.snapshots.insert(snapshot)
    with working(context):
        wait_until(
            lambda: (
                (found := catalog.snapshots.find(snapshot.id)) is not None
                and found.state is SnapshotState.FAILED
            )
        )
    found = catalog.snapshots.find(snapshot.id)
    assert found is not None
    assert "removed" in found.error
    assert catalog.snapshots.list_in_progress() == []


def running_job(worker_id: str) -> Job:
    now = CLOCK.now()
    return Job(
        id=f"SNAPSHOT:{worker_id}",
        kind=JobKind.SNAPSHOT,
        subject_id=worker_id,
        group_id=GROUP,
        cluster_id=ClusterId(new_id()),
        state=JobState.RUNNING,
        created=now,
        not_before=now,
        lease_worker_id=worker_id,
        lease_until=now + timedelta(minutes=10),
    )


def record(worker_id: str, *, boot_id: str, start_ticks: int, age: timedelta) -> WorkerRecord:
    heartbeat = CLOCK.now() - age
    return WorkerRecord(
        id=worker_id, boot_id=boot_id, pid=os.getpid(), start_ticks=start_ticks, heartbeat=heartbeat
    )


def test_only_workers_that_are_known_dead_lose_their_leases(context: BackupContext) -> None:
    here, ticks = current_boot_id(), process_start_ticks(os.getpid()) or 0
    minute = timedelta(minutes=1)
    records = {
        "alive": record("alive", boot_id=here, start_ticks=ticks, age=60 * minute),
        "dead": record("dead", boot_id=here, start_ticks=ticks - 1, age=timedelta(0)),
        "elsewhere": record("elsewhere", boot_id="another machine", start_ticks=1, age=4 * minute),
        "long-silent": record("long-silent", boot_id="another machine", start_ticks=1, age=6 * minute),
    }
    for name, worker in records.items():
        context.catalog.workers.put(worker)
        context.catalog.jobs.enqueue(running_job(name))
    with working(context):
        wait_until(lambda: "dead" not in {worker.id for worker in context.catalog.workers.list_all()})
        wait_until(lambda: "long-silent" not in {worker.id for worker in context.catalog.workers.list_all()})
        assert "this-worker" in {worker.id for worker in context.catalog.workers.list_all()}
    states = {}
    for name in records:
        job = context.catalog.jobs.find(f"SNAPSHOT:{name}")
        assert job is not None
        states[name] = job.state
    assert states == {
        "alive": JobState.RUNNING,
        "dead": JobState.QUEUED,
        "elsewhere": JobState.RUNNING,
        "long-silent": JobState.QUEUED,
    }


def test_a_worker_that_stops_leaves_no_record(context: BackupContext) -> None:
    with working(context):
        wait_until(lambda: context.catalog.workers.list_all() != [])
    assert context.catalog.workers.list_all() == []
