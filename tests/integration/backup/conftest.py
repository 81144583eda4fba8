"""An installation without its API: catalog on a real mongod, worker in this process, heads in real replica sets."""

import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from ebbtide import crash_points
from ebbtide.backup import head_keeper
from ebbtide.backup.context import BackupContext
from ebbtide.backup.registration import (
    RegistrationReport,
    check_registration,
    register_cluster,
    remove_cluster,
)
from ebbtide.backup.registration_checks import RegistrationRequest
from ebbtide.backup.requesting import request_snapshot
from ebbtide.backup.sharded_registration import (
    ShardedReport,
    check_sharded_registration,
    remove_sharded_cluster,
)
from ebbtide.catalog.catalog import Catalog
from ebbtide.catalog.clusters import HeadCollection
from ebbtide.clock import SystemClock
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.cluster import Cluster, ClusterState, Head, HeadState
from ebbtide.domain.event import Event
from ebbtide.domain.group import Group
from ebbtide.domain.ids import GroupId, new_id
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.progress import NoProgress
from ebbtide.domain.restore_job import RestoreJob, RestoreStatus
from ebbtide.domain.restore_point import Refusal, Resolution, RestorePoint
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.mongod.process import MongodProcess
from ebbtide.repository.manifest import Manifest
from ebbtide.repository.materialise import materialise
from ebbtide.repository.repository import Repository, never_cancelled
from ebbtide.restore.job_archive import open_archive
from ebbtide.restore.requesting import request_http_restore
from ebbtide.restore.restore_points import resolve_asked
from ebbtide.restore.scratch_mongod import ScratchFiles
from ebbtide.sealing import ServiceKey
from ebbtide.serve.catalog_mongod import start_catalog
from ebbtide.settings import resolve_settings
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.testing import workload
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.sharded_lab import ShardedLab
from ebbtide.testing.sharded_registration import lab_request, register_lab
from ebbtide.worker import worker as worker_module
from ebbtide.worker.worker import Worker

Document = dict[str, Any]

WAIT_SECONDS = 120.0
"""How long anything is waited for. Far more than it takes: a test fails by what it finds, not by a busy machine."""


@dataclass
class Installation:
    """What a user has, and what a test asks of it."""

    context: BackupContext
    group: Group

    @property
    def catalog(self) -> Catalog:
        return self.context.catalog

    def wait_until(
        self, condition: Callable[[], Any], *, seconds: float = WAIT_SECONDS, what: str = ""
    ) -> Any:
        """The first true answer of `condition`."""
        deadline = time.monotonic() + seconds
        while True:
            answer = condition()
            if answer:
                return answer
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {what or condition}")
            time.sleep(0.05)

    # --- the worker -----------------------------------------------------------------------------------------------

    @contextmanager
    def working(self, **settings: Any) -> Iterator[Worker]:
        """A worker in a thread, for the length of the block; `settings` by name, with _ for the first dot."""
        changed = {name.replace("_", ".", 1): value for name, value in settings.items()}
        values = replace(self.context.settings, values={**self.context.settings.values, **changed})
        worker = Worker(replace(self.context, worker_id=new_id(), settings=values))
        thread = threading.Thread(target=worker.run, name="worker")
        thread.start()
        try:
            yield worker
        finally:
            worker.stop()
            thread.join(WAIT_SECONDS)
            if thread.is_alive():
                raise AssertionError("the worker did not stop")

    # --- clusters -------------------------------------------------------------------------------------------------

    def request(self, lab: ReplicaSetLab, name: str = "shop", **changes: Any) -> RegistrationRequest:
        values: Document = {"name": name, "uri": lab.uri}
        if lab.keyfile_path is not None:
            values |= {
                "username": lab.backup_username,
                "password": lab.backup_password,
                "keyfile": lab.keyfile_path.read_text(),
            }
        return RegistrationRequest(**(values | changes))

    def check(self, request: RegistrationRequest) -> RegistrationReport:
        return check_registration(
            request,
            settings=self.context.settings,
            catalog=self.catalog,
            group_id=self.group.id,
            data_dir=self.context.directory.root,
        )

    def register(self, lab: ReplicaSetLab, name: str = "shop", **changes: Any) -> Cluster:
        request = self.request(lab, name, **changes)
        return register_cluster(
            request,
            self.check(request),
            catalog=self.catalog,
            service_key=self.context.service_key,
            clock=self.context.clock,
            group_id=self.group.id,
            actor="test",
        )

    def wait_until_healthy(self, lab: ReplicaSetLab) -> None:
        """Wait until the primary sees every member: it does only some heartbeats after a restart."""
        self.wait_until(lambda: self.check(self.request(lab, "health")).ok, what="a healthy set")

    def register_and_follow(self, lab: ReplicaSetLab, name: str = "shop", **changes: Any) -> Cluster:
        cluster = self.register(lab, name, **changes)
        self.wait_for_head(cluster, HeadState.FOLLOWING)
        return cluster

    def cluster(self, cluster: Cluster) -> Cluster:
        found = self.catalog.clusters.find(cluster.id)
        if found is None:
            raise LookupError(cluster.name)
        return found

    def head(self, cluster: Cluster) -> Head:
        found = self.catalog.heads.find(cluster.id)
        if found is None:
            raise LookupError(cluster.name)
        return found

    def wait_for_head(self, cluster: Cluster, *states: HeadState) -> Head:
        """The head, once it is in one of `states`; a head that failed meanwhile is told at once."""

        def in_state() -> Head | None:
            head = self.catalog.heads.find(cluster.id)
            if head is None or head.state in states:
                return head
            if head.state is HeadState.FAILED:
                raise AssertionError(head.message)
            return None

        found: Head = self.wait_until(in_state, what=f"head {states}")
        return found

    def head_process(self, cluster: Cluster) -> MongodProcess | None:
        return MongodProcess.find_running(self.context.head_directory(cluster) / "mongod.json")

    @contextmanager
    def head_client(self, cluster: Cluster) -> Iterator["MongoClient[Document]"]:
        """The head, alone, as the user that the cluster was registered with."""
        client = self.context.access(cluster).head_client()
        with client:
            yield client

    def remove(self, cluster: Cluster) -> None:
        """Remove the cluster, and wait until its head has left. Needs a worker."""
        remove_cluster(self.cluster(cluster), catalog=self.catalog, clock=self.context.clock, actor="test")
        self.wait_until(lambda: self.cluster(cluster).state is ClusterState.REMOVED, what="removed")

    def remove_all(self) -> None:
        """Remove every cluster, with a worker of its own if none runs: nothing of ours stays in a lab."""
        if not self.catalog.clusters.list_live():
            return
        with self.working():
            for cluster in self.catalog.clusters.list_live():
                self.remove(cluster)

    # --- sharded clusters -----------------------------------------------------------------------------------------

    def check_sharded(self, request: RegistrationRequest) -> ShardedReport:
        return check_sharded_registration(
            request,
            settings=self.context.settings,
            catalog=self.catalog,
            group_id=self.group.id,
            data_dir=self.context.directory.root,
        )

    def register_sharded(
        self, lab: ShardedLab, name: str = "bank", *, report: ShardedReport | None = None, **changes: Any
    ) -> Cluster:
        return register_lab(
            lab_request(lab, name, **changes),
            catalog=self.catalog,
            settings=self.context.settings,
            service_key=self.context.service_key,
            group_id=self.group.id,
            data_dir=self.context.directory.root,
            report=report,
        )

    def remove_sharded(self, cluster: Cluster) -> None:
        """Ask for it; the heads leave once a worker runs."""
        remove_sharded_cluster(cluster, catalog=self.catalog, clock=self.context.clock, actor="test")

    # --- snapshots ------------------------------------------------------------------------------------------------

    def request_snapshot(self, cluster: Cluster) -> Snapshot:
        return request_snapshot(
            self.cluster(cluster), catalog=self.catalog, clock=self.context.clock, actor="test"
        )

    def wait_for_snapshot(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot once it is complete, and told so. A failed one is told at once."""

        def complete() -> Snapshot | None:
            found = self.catalog.snapshots.find(snapshot.id)
            if found is not None and found.state is SnapshotState.FAILED:
                raise AssertionError(found.error)
            job = self.catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))
            return found if job is not None and job.state is JobState.DONE else None

        done: Snapshot = self.wait_until(complete, what="the snapshot")
        return done

    def take_snapshot(self, cluster: Cluster) -> Snapshot:
        return self.wait_for_snapshot(self.request_snapshot(cluster))

    def manifest(self, snapshot: Snapshot) -> Manifest:
        store = self.context.repository.replica_set(snapshot.cluster_id, snapshot.replica_set_name)
        return store.load_manifest(snapshot.id)

    def damage_snapshot(self, snapshot: Snapshot) -> None:
        """Flip a bit in each of its own packs; what it shares with older ones stays whole."""
        root = self.context.directory.repository(self.context.settings)
        for pack in Path(root).glob(f"{snapshot.cluster_id}/*/packs/{snapshot.id}-*"):
            data = bytearray(pack.read_bytes())
            data[len(data) // 2] ^= 1
            pack.write_bytes(bytes(data))

    def materialise(self, snapshot: Snapshot, target: Path) -> None:
        store = self.context.repository.replica_set(snapshot.cluster_id, snapshot.replica_set_name)
        materialise(
            store,
            store.load_manifest(snapshot.id),
            target,
            threads=2,
            progress=NoProgress(),
            check_cancelled=never_cancelled,
        )

    # --- restores -------------------------------------------------------------------------------------------------

    def resolve(self, cluster: Cluster, point: RestorePoint) -> Resolution | Refusal:
        return resolve_asked(
            point,
            access=self.context.access(self.cluster(cluster)),
            catalog=self.catalog,
            repository=self.context.repository,
            now_seconds=int(self.context.clock.now().timestamp()),
        )

    def ask_for_download(self, cluster: Cluster, point: RestorePoint) -> RestoreJob:
        resolution = self.resolve(cluster, point)
        if isinstance(resolution, Refusal):
            raise AssertionError(resolution.message)
        return request_http_restore(
            cluster=cluster,
            snapshot=resolution.base,
            expiration_hours=1,
            max_downloads=1,
            catalog=self.catalog,
            clock=self.context.clock,
            actor="test",
            limit=resolution.limit,
        )

    def wait_for_restore(self, job: RestoreJob) -> RestoreJob:
        """The job once it is over, however it ended."""

        def over() -> RestoreJob | None:
            found = self.catalog.restore_jobs.find(job.id)
            return None if found is None or found.status is RestoreStatus.IN_PROGRESS else found

        done: RestoreJob = self.wait_until(over, what="the restore job")
        return done

    def extract(self, job: RestoreJob, directory: Path, binary: Path) -> ScratchFiles:
        """The download of a job, extracted by Python's tarfile."""
        archive = open_archive(self.context.repository, job)
        path = directory / job.file_name
        with path.open("wb") as file:
            file.writelines(archive.iter_range(0, archive.length_bytes))
        with tarfile.open(path) as tar:
            tar.extractall(directory, filter="data")
        path.unlink()
        files = ScratchFiles(directory=directory, binary=binary, cache_gb=0.25)
        (directory / job.file_name.removesuffix(".tar.gz")).rename(files.dbpath)
        return files

    # --- events ---------------------------------------------------------------------------------------------------

    def events(self, cluster: Cluster, kind: str | None = None) -> list[Event]:
        """Oldest first."""
        found = self.catalog.events.page(self.group.id, cluster_id=cluster.id, skip=0, limit=500)
        return [event for event in reversed(found) if kind is None or event.kind == kind]


@pytest.fixture(scope="session")
def shared_installation(mongod_binary: Path) -> Iterator[Installation]:
    # A short path: the catalog listens on a Unix socket below it.
    root = Path(tempfile.mkdtemp(prefix="ebb-"))
    directory = DataDirectory.at(root)
    directory.prepare()
    settings = resolve_settings(
        flags={
            "mongod": str(mongod_binary),
            "head.cache_gb": 0.25,
            # Tests of heads that nobody reaches set less.
            "head.reach_seconds": WAIT_SECONDS,
            "worker.threads": 2,
            "snapshot.lock_warn_seconds": 3.0,
        },
        environment={},
        file=None,
    )
    patch = pytest.MonkeyPatch()
    # A test waits for every look, and there are many of them.
    patch.setattr(head_keeper, "TICK_SECONDS", 0.2)
    patch.setattr(worker_module, "LOOK_SECONDS", 0.1)
    catalog_mongod = start_catalog(directory, settings)
    catalog = Catalog.connect(directory.catalog_uri(settings))
    try:
        catalog.prepare()
        clock = SystemClock()
        group = Group(id=GroupId(new_id()), name="test", created=clock.now())
        catalog.groups.insert(group)
        context = BackupContext(
            settings=settings,
            directory=directory,
            catalog=catalog,
            service_key=ServiceKey.load_or_create(directory.service_key_file(settings)),
            clock=clock,
            repository=Repository.create(DirectoryStorage(directory.repository(settings)), now=clock.now()),
            worker_id=new_id(),
        )
        yield Installation(context=context, group=group)
    finally:
        catalog.close()
        catalog_mongod.stop()
        for identity in directory.heads.glob("*/mongod.json"):
            left_over = MongodProcess.find_running(identity)
            if left_over is not None:
                left_over.kill()
        shutil.rmtree(root, ignore_errors=True)
        patch.undo()


@pytest.fixture(scope="module")
def followed(shared_installation: Installation, shared_lab: ReplicaSetLab) -> Iterator[Cluster]:
    """The lab with a small workload in it, followed by a head, with a worker at work; for all tests of a module."""
    shared_lab.reset()
    with shared_lab.client() as client:
        workload.load(client, seed=11, scale=0.05)
    with shared_installation.working():
        cluster = shared_installation.register_and_follow(shared_lab)
        yield cluster
        shared_installation.remove(cluster)


@pytest.fixture
def recorded_states(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What keepers in this process write about their heads' states, each write as it is made: none is missed."""
    written: list[dict[str, Any]] = []
    update = HeadCollection.update

    def recording(self: HeadCollection, *arguments: Any, **changes: Any) -> Any:
        if "state" in changes or "sync_done_bytes" in changes:
            written.append(changes)
        return update(self, *arguments, **changes)

    monkeypatch.setattr(HeadCollection, "update", recording)
    return written


@pytest.fixture
def at_point() -> Iterator[Callable[[str, Callable[[], None]], None]]:
    """`at_point(name, action)`: do `action` once, when a durable step is reached in this process."""
    actions: dict[str, list[Callable[[], None]]] = {}

    def reached(name: str) -> None:
        waiting = actions.get(name, [])
        if waiting:
            waiting.pop(0)()

    def add(name: str, action: Callable[[], None]) -> None:
        actions.setdefault(name, []).append(action)

    crash_points.arm(reached)
    yield add
    crash_points.arm(None)


@pytest.fixture
def installation(shared_installation: Installation) -> Iterator[Installation]:
    """An installation in which nothing is registered; whatever a test registers is removed after it."""
    yield shared_installation
    shared_installation.remove_all()
