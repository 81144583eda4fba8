"""A sharded cluster that was restored: its parts' extracted archives, all of one consistent point, and what they hold."""

import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ebbtide.backup.archive_wait import wait_until_archived
from ebbtide.backup.consistent_points import find_consistent_point
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.consistent_point import ConsistentPoint
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import DeliveryStatus, RestoreJob, RestoreStatus
from ebbtide.oplog.open_work import OpenWorkStore
from ebbtide.restore.job_archive import open_archive
from ebbtide.restore.requesting import request_http_restore
from ebbtide.testing.bank import COLLECTION, DATABASE, Bank, StopAfter, StoppedTransfer
from ebbtide.testing.prepared_cluster import PreparedCluster
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


@pytest.fixture
def new_clusters(mongod_binary: Path) -> Iterator[Any]:
    """Makes `PreparedCluster`s of directories, ports and a keyfile; they are killed when the test ends."""
    made: list[PreparedCluster] = []

    def make(directories: Mapping[str, Path], ports: Mapping[str, int], keyfile_text: str) -> PreparedCluster:
        made.append(
            PreparedCluster(
                mongod_binary, directories, ports, keyfile_text=keyfile_text, config_set="new-config"
            )
        )
        return made[-1].start()

    yield make
    for cluster in made:
        cluster.stop()
