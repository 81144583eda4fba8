"""The repository's disk fills up while a snapshot is stored: the head is unlocked, and the job goes on by itself later.

Twice, and the test's name says which: with a real, small filesystem under `ebbtide serve`, where this machine lets us
mount one; and always with a storage that says that it is full, under a worker in this process.
"""

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from ebbtide.backup.context import BackupContext
from ebbtide.backup.requesting import request_snapshot
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.ids import SnapshotId, new_id
from ebbtide.domain.job import Job, JobKind, JobState, job_id
from ebbtide.domain.progress import NoProgress
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.repository.repository import Repository, never_cancelled
from ebbtide.repository.verify import verify_snapshot
from ebbtide.sealing import ServiceKey
from ebbtide.serve.catalog_mongod import start_catalog
from ebbtide.settings import resolve_settings
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.testing.running_service import RunningService
from ebbtide.testing.service import Owner
from ebbtide.testing.storage import Faults, FaultyStorage
from ebbtide.worker.worker import Worker

MEBIBYTE = 1024**2
DISK_BYTES = 256 * MEBIBYTE
LEFT_BYTES = 4 * MEBIBYTE
NOISE_MEGABYTES = 12
REAL, INJECTED = "a small filesystem", "a storage that says it is full"


class Place:
    """A repository that can be filled and freed, and the catalog of who writes to it."""

    def __init__(
        self,
        owner: Owner,
        *,
        catalog: Catalog,
        repository: Path,
        fill: Callable[[], None],
        free: Callable[[], None],
    ) -> None:
        self.owner = owner
        self.catalog = catalog
        self.repository = repository
        self.fill = fill
        self.free = free

    @property
    def cluster(self) -> Cluster:
        return self.catalog.clusters.list_live()[0]

    def start_snapshot(self) -> SnapshotId:
        return request_snapshot(self.cluster, catalog=self.catalog, clock=SystemClock(), actor="test").id

    def snapshot(self, snapshot_id: SnapshotId) -> Snapshot:
        found = self.catalog.snapshots.find(snapshot_id)
        if found is None:
            raise LookupError(snapshot_id)
        return found

    def wait_until_complete(self, snapshot_id: SnapshotId) -> None:
        self.owner.service.wait_until(
            lambda: self.snapshot(snapshot_id).state is SnapshotState.COMPLETE, f"snapshot {snapshot_id}"
        )

    def wait_until_full(self, snapshot_id: SnapshotId) -> Job:
        """The snapshot's job once it waits because the disk is full."""

        def look() -> Job | None:
            job = self.catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot_id))
            return job if job is not None and job.failures > 0 and job.state is JobState.QUEUED else None

        return self.owner.service.wait_until(look, "the job to meet the full disk")

    def is_head_locked(self) -> bool:
        client: MongoClient[dict[str, Any]] = MongoClient(
            self.cluster.head_host, self.cluster.head_port, directConnection=True
        )
        with client:
            return bool(client.admin.command("currentOp").get("fsyncLock", False))

    def is_whole(self, snapshot_id: SnapshotId) -> bool:
        """Whether everything that the snapshot is made of is stored as it was written."""
        repository = Repository.open(DirectoryStorage(self.repository))
        store = repository.replica_set(self.cluster.id, self.cluster.replica_set_name)
        found = verify_snapshot(
            store,
            store.load_manifest(snapshot_id),
            threads=2,
            progress=NoProgress(),
            check_cancelled=never_cancelled,
        )
        return found == []


@contextmanager
def mounted(path: Path) -> Iterator[bool]:
    """A small filesystem at `path`; False where this machine does not let us mount one."""
    path.mkdir(exist_ok=True)
    options = f"size={DISK_BYTES},mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", str(path)], check=True)


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as directory, mounted(Path(directory) / "probe") as is_mounted:
        return is_mounted


@contextmanager
def small_filesystem(
    new_service: Callable[..., RunningService], new_owner: Callable[[RunningService], Owner]
) -> Iterator[Place]:
    """`ebbtide serve` with its repository on a filesystem of 256 MiB."""
    with tempfile.TemporaryDirectory() as directory:
        disk = Path(directory) / "disk"
        with mounted(disk):
            service = new_service(
                flags=["--repository", str(disk / "repository")],
                # Less than what is left: the disk is to be full before snapshots pause for want of space.
                environment={"EBBTIDE_REPOSITORY_MIN_FREE_BYTES": str(LEFT_BYTES // 4)},
            ).start()
            try:
                owner = new_owner(service)
                owner.register()
                ballast = disk / "ballast"

                def fill() -> None:
                    # In small pieces: the archive of the oplog takes its part meanwhile.
                    with ballast.open("wb", buffering=0) as file:
                        while shutil.disk_usage(disk).free > LEFT_BYTES:
                            file.write(bytes(MEBIBYTE // 4))

                with service.catalog() as catalog:
                    yield Place(
                        owner,
                        catalog=catalog,
                        repository=disk / "repository",
                        fill=fill,
                        free=ballast.unlink,
                    )
            finally:
                service.stop()


@contextmanager
def full_storage(
    new_service: Callable[..., RunningService],
    new_owner: Callable[[RunningService], Owner],
    binary: Path,
) -> Iterator[Place]:
    """A worker in this process, on the data directory of a service that has stopped."""
    service = new_service().start()
    owner = new_owner(service)
    owner.register()
    service.terminate()
    directory = DataDirectory.at(service.data)
    settings = resolve_settings(flags={"mongod": str(binary)}, environment={}, file=None)
    catalog_mongod = start_catalog(directory, settings)
    catalog = Catalog.connect(directory.catalog_uri(settings))
    storage = FaultyStorage(DirectoryStorage(directory.repository(settings)), Faults())
    worker = Worker(
        BackupContext(
            settings=settings,
            directory=directory,
            catalog=catalog,
            service_key=ServiceKey.load_or_create(directory.service_key_file(settings)),
            clock=SystemClock(),
            repository=Repository.open(storage),
            worker_id=new_id(),
        )
    )
    thread = threading.Thread(target=worker.run, name="worker")
    thread.start()

    def fill() -> None:
        storage.faults = Faults(disk_full_at_bytes=storage.put_bytes + LEFT_BYTES)

    def free() -> None:
        storage.faults = Faults()

    try:
        yield Place(owner, catalog=catalog, repository=directory.repository(settings), fill=fill, free=free)
    finally:
        worker.stop()
        thread.join(120)
        catalog.close()
        catalog_mongod.stop()


@pytest.fixture(params=[REAL, INJECTED] if can_mount() else [INJECTED])
def place(
    request: pytest.FixtureRequest,
    new_service: Callable[..., RunningService],
    new_owner: Callable[[RunningService], Owner],
    mongod_binary: Path,
) -> Iterator[Place]:
    if request.param == REAL:
        with small_filesystem(new_service, new_owner) as found:
            yield found
    else:
        with full_storage(new_service, new_owner, mongod_binary) as found:
            yield found


def test_a_full_disk_costs_time_and_nothing_else(place: Place) -> None:
    place.owner.write()
    before = place.start_snapshot()
    place.wait_until_complete(before)

    place.fill()
    place.owner.write(megabytes=NOISE_MEGABYTES)
    snapshot_id = place.start_snapshot()
    job = place.wait_until_full(snapshot_id)
    assert not place.is_head_locked()
    assert "no space is left" in job.error
    assert place.snapshot(snapshot_id).state is SnapshotState.IN_PROGRESS
    assert place.is_whole(before)

    place.free()
    place.wait_until_complete(snapshot_id)
    assert place.is_whole(before)
    assert place.is_whole(snapshot_id)
    assert not place.is_head_locked()
