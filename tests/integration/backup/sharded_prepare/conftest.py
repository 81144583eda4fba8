"""A sharded cluster that was restored: its parts' extracted archives, all of one consistent point, and what they hold."""

import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from pymongo import MongoClient

from ebbtide.backup.archive_wait import wait_until_archived
from ebbtide.backup.consistent_points import find_consistent_point
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.consistent_point import ConsistentPoint
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import DeliveryStatus, RestoreJob, RestoreStatus
from ebbtide.mongod.options import ClusterRole, MongodOptions, Tcp
from ebbtide.mongod.process import MongodProcess
from ebbtide.oplog.open_work import OpenWorkStore
from ebbtide.restore.job_archive import open_archive
from ebbtide.restore.requesting import request_http_restore
from ebbtide.testing.bank import COLLECTION, DATABASE, Bank, StopAfter, StoppedTransfer
from ebbtide.testing.lab_directory import write_private
from ebbtide.testing.sharded_lab import CONFIG, ShardedLab

Document = dict[str, Any]

WAIT_SECONDS = 120.0
TRANSFERS = 4


@dataclass(frozen=True, kw_only=True)
class Restored:
    """One restore of the cluster: the extracted `directories` by part, and the `balances` by account that they hold.

    `undecided` are accounts of transfers that were under way.
    """

    directories: Mapping[str, Path]
    balances: Mapping[int, int]
    undecided: tuple[int, ...]
    total: int
    keyfile_text: str


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A consistent point, every account's balance then, and the accounts of transfers that were under way."""

    at: OplogTimestamp
    balances: Mapping[int, int]
    undecided: tuple[int, ...] = ()


@pytest.fixture(scope="module")
def restored(
    shared_installation: Any, shared_sharded_lab: ShardedLab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Restored]]:
    """Restores of a bank to two moments. `transfers`: one transfer is prepared and undecided, and one between its two
    commits, which is for the archives to see. `migration`: a chunk is on its way, its documents on both shards."""
    shared_sharded_lab.reset()
    root = tmp_path_factory.mktemp("parts")
    with Bank(shared_sharded_lab) as bank, shared_installation.working(oplog_upkeep_seconds=1.0):
        cluster = shared_installation.register_sharded(shared_sharded_lab)
        try:
            yield _restore_all(shared_installation, bank, cluster, root)
        finally:
            shared_installation.remove_sharded(cluster)
            shared_installation.remove_all()


def _restore_all(installation: Any, bank: Bank, cluster: Cluster, root: Path) -> Mapping[str, Restored]:
    parts = installation.catalog.clusters.list_parts(cluster.id)
    for part in parts:
        installation.wait_for_head(part, HeadState.FOLLOWING)
        store = installation.context.repository.replica_set(part.id, part.replica_set_name)
        # What was open where its archive begins: without that record there is no consistent point.
        installation.wait_until(OpenWorkStore(store).moments, what=f"a record of {part.name}")
    bases = [installation.request_snapshot(part) for part in parts]
    bases = [installation.wait_for_snapshot(base) for base in bases]
    moments = {
        "migration": _cut_migration(bank),
        "transfers": _cut_transfers(installation, bank, parts),
    }
    jobs = {
        name: [
            request_http_restore(
                cluster=part,
                snapshot=base,
                expiration_hours=1,
                max_downloads=1,
                catalog=installation.catalog,
                clock=installation.context.clock,
                actor="test",
                limit=moment.at,
            )
            for part, base in zip(parts, bases, strict=True)
        ]
        for name, moment in moments.items()
    }
    return {
        name: Restored(
            directories={
                part.shard_name or CONFIG: _extract(installation, job, root / name)
                for part, job in zip(parts, jobs[name], strict=True)
            },
            balances=moment.balances,
            undecided=moment.undecided,
            total=bank.expected_total,
            keyfile_text=bank.lab.config.keyfile_text or "",
        )
        for name, moment in moments.items()
    }


def _cut_migration(bank: Bank) -> Moment:
    """Right before the config server commits it. Nothing else is under way, so any moment is a consistent point."""
    bank.transfer()
    before = bank.lab.gossip_note()
    assert bank.move_some_chunk()
    chunks = (
        bank.lab.admin_client(CONFIG)
        .local["oplog.rs"]
        .find_one(
            {"ts": {"$gt": before}, "$or": [{"ns": "config.chunks"}, {"o.applyOps.ns": "config.chunks"}]}
        )
    )
    assert chunks is not None
    committed = OplogTimestamp.from_bson(chunks["ts"])
    return Moment(
        at=OplogTimestamp(committed.seconds, committed.increment - 1),
        balances=owned_balances(bank.lab),
    )


def _cut_transfers(installation: Any, bank: Bank, parts: list[Cluster]) -> Moment:
    prepared = _stopped(bank, StopAfter.PREPARE)
    stopped = [prepared]
    try:
        for _ in range(TRANSFERS):
            bank.transfer()
        # Neither of the two is in it: a read like this one sees nothing of what is prepared.
        balances = owned_balances(bank.lab)
        stopped.append(_stopped(bank, StopAfter.FIRST_COMMIT))
        noted = OplogTimestamp.from_bson(bank.lab.gossip_note())
        for part in parts:
            wait_until_archived(
                installation.catalog,
                part.id,
                noted,
                clock=installation.context.clock,
                check=lambda: None,
                seconds=WAIT_SECONDS,
            )
        found = find_consistent_point(parts, at_most=noted, context=installation.context)
    finally:
        # What is left prepared would keep the lab from stopping.
        for transfer in stopped:
            transfer.finish()
    assert isinstance(found, ConsistentPoint), found
    assert prepared.transaction.commit_timestamp is not None
    assert prepared.transaction.commit_timestamp < found.timestamp.to_bson() < noted.to_bson()
    undecided = tuple(account for transfer in stopped for account in transfer.accounts)
    return Moment(at=found.timestamp, balances=balances, undecided=undecided)


def _stopped(bank: Bank, stop_after: StopAfter) -> StoppedTransfer:
    stopped = bank.transfer(stop_after=stop_after)
    assert stopped is not None
    return stopped


def _extract(installation: Any, job: RestoreJob, directory: Path) -> Path:
    def over() -> RestoreJob | None:
        found: RestoreJob = installation.catalog.restore_jobs.find(job.id)
        return None if found.status is RestoreStatus.IN_PROGRESS else found

    done: RestoreJob = installation.wait_until(over, seconds=WAIT_SECONDS, what="the restore job")
    assert done.state == (RestoreStatus.FINISHED, DeliveryStatus.READY), done.reason
    archive = open_archive(installation.context.repository, done)
    directory.mkdir(exist_ok=True)
    path = directory / done.file_name
    with path.open("wb") as file:
        file.writelines(archive.iter_range(0, archive.length_bytes))
    with tarfile.open(path) as tar:
        tar.extractall(directory, filter="data")
    path.unlink()
    return directory / done.file_name.removesuffix(".tar.gz")


def owned_balances(cluster: ShardedLab) -> dict[int, int]:
    """Every account's balance, by number, once no account is on two shards."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        documents = [
            document
            for shard in cluster.shards
            for document in cluster.admin_client(shard)[DATABASE][COLLECTION].find()
        ]
        found = {document["_id"]: document["balance"] for document in documents}
        if len(found) == len(documents):
            return found
        assert time.monotonic() < deadline, "orphans stay"
        threading.Event().wait(0.1)


# --- the new cluster ------------------------------------------------------------------------------------------------


class StartedPart:
    """One mongod on prepared files, as its owner would start it: a set of one."""

    def __init__(
        self, binary: Path, name: str, directory: Path, port: int, *, set_name: str, keyfile: Path
    ) -> None:
        self.address = f"127.0.0.1:{port}"
        self.keyfile_text = keyfile.read_text().strip()
        self._set_name = set_name
        self._binary = binary
        is_config = name == CONFIG
        self._options = MongodOptions(
            dbpath=directory,
            log_path=directory.with_name(f"{name}.log"),
            listen=Tcp(host="127.0.0.1", port=port),
            cache_gb=0.25,
            replica_set_name=set_name,
            cluster_role=ClusterRole.CONFIG if is_config else ClusterRole.SHARD,
            keyfile=keyfile,
            set_parameters={} if is_config else {"orphanCleanupDelaySecs": 0},
        )
        self._identity_path = directory.with_name(f"{name}.json")
        self._process: MongodProcess | None = None

    def start(self) -> None:
        self._process = MongodProcess.start(
            self._binary, self._options, identity_path=self._identity_path, ready_seconds=WAIT_SECONDS
        )

    @property
    def process(self) -> MongodProcess:
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def primary(self) -> "StartedPart":
        deadline = time.monotonic() + WAIT_SECONDS
        with self.process.client() as client:
            while not client.admin.command("hello").get("isWritablePrimary"):
                assert time.monotonic() < deadline, f"{self.address} does not become primary"
                threading.Event().wait(0.05)
        return self

    def client(self, **options: Any) -> "MongoClient[Document]":
        self.primary()
        uri = f"mongodb://{self.address}/?replicaSet={self._set_name}"
        return MongoClient(uri, serverSelectionTimeoutMS=int(WAIT_SECONDS * 1000), **options)


class NewCluster(ShardedLab):
    """A lab's commands, on parts that were prepared: the config server's set has a new name."""

    def __init__(
        self,
        binary: Path,
        directories: Mapping[str, Path],
        ports: Mapping[str, int],
        *,
        keyfile_text: str,
    ) -> None:
        self._clients: dict[str, Any] = {}
        keyfile = next(iter(directories.values())).with_name("keyfile")
        write_private(keyfile, keyfile_text + "\n")
        started: dict[str, Any] = {}
        for name, directory in directories.items():
            set_name = "new-config" if name == CONFIG else name
            started[name] = StartedPart(
                binary, name, directory, ports[name], set_name=set_name, keyfile=keyfile
            )
        self.config = started[CONFIG]
        self.shards = {name: part for name, part in sorted(started.items()) if name != CONFIG}

    def start(self) -> Self:
        """All at once: a shard does not answer before the config server does. Who made it stops it."""
        with ThreadPoolExecutor() as executor:
            list(executor.map(StartedPart.start, self._started()))
        self._connect()
        return self

    def _connect(self) -> None:
        for name in self.parts:
            self._clients[name] = self._open_client(name)

    def restart(self) -> None:
        """All stop, and then all start."""
        self.shut_down()
        self.start()

    def shut_down(self) -> None:
        self._disconnect()
        for part in self._started():
            part.process.stop()

    def stop(self) -> None:
        self._disconnect()
        for part in self._started():
            part.kill()

    def _disconnect(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _started(self) -> list[Any]:
        return list(self.parts.values())


@pytest.fixture
def new_clusters(mongod_binary: Path) -> Iterator[Any]:
    """Makes `NewCluster`s of directories, ports and a keyfile; they are killed when the test ends."""
    made: list[NewCluster] = []

    def make(directories: Mapping[str, Path], ports: Mapping[str, int], keyfile_text: str) -> NewCluster:
        made.append(NewCluster(mongod_binary, directories, ports, keyfile_text=keyfile_text))
        return made[-1].start()

    yield make
    for cluster in made:
        cluster.stop()
