"""What a snapshot of a live set is worth: its files, laid down and started by real mongods."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from ebbtide.demo.copies import hash_advanced, start_plainly
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import DeliveryStatus
from ebbtide.domain.snapshot import Snapshot
from ebbtide.mongod.log_lines import find_recovery_timestamp
from ebbtide.mongod.options import MongodOptions, UnixSocket, render_arguments
from ebbtide.mongod.process import MongodProcess
from ebbtide.restore.job_archive import open_archive
from ebbtide.restore.requesting import request_http_restore
from ebbtide.testing import workload
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab

Hashes = dict[str, dict[str, str]]
AtPoint = Callable[[str, Callable[[], None]], None]

CHAIN = 5


@pytest.fixture(scope="module", autouse=True)
def checkpoint_every_second() -> Iterator[None]:
    """As if each lock were held for a minute or more: the server takes a checkpoint every 60 s by itself.

    It has to be an argument: the parameter of that name is overruled at the start, and later a running server
    finishes its 60 s first.
    """

    def with_syncdelay(options: MongodOptions) -> list[str]:
        return [*render_arguments(options), "--syncdelay", "1"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebbtide.mongod.process.render_arguments", with_syncdelay)
        yield


def take_hashed_snapshot(
    installation: Any, cluster: Cluster, at_point: AtPoint, *, await_checkpoint: bool = False
) -> tuple[Snapshot, Hashes]:
    """A snapshot, and what the head itself hashed under that snapshot's lock."""
    hashes: list[Hashes] = []
    turtle = installation.context.head_directory(cluster) / "db" / "WiredTiger.turtle"

    def hash_head() -> None:
        with installation.head_client(cluster) as client:
            before = turtle.read_bytes()
            hashes.append(database_hashes(client))
            if await_checkpoint:
                installation.wait_until(lambda: turtle.read_bytes() != before, what="a checkpoint")

    at_point("snapshot.locked", hash_head)
    snapshot = installation.take_snapshot(cluster)
    return snapshot, hashes[-1]


def recovery_timestamp(binary: Path, dbpath: Path, socket: Path) -> OplogTimestamp | None:
    """Where a plain start opens the files, as mongod itself logs it."""
    with_copy(binary, dbpath, socket, lambda client: client.admin.command("ping"))
    return logged_timestamp(log_of(dbpath))


def logged_timestamp(log_path: Path) -> OplogTimestamp | None:
    return find_recovery_timestamp(log_path.read_text().splitlines())


def with_copy(
    binary: Path, dbpath: Path, socket: Path, ask: Callable[["MongoClient[dict[str, Any]]"], Any]
) -> Any:
    """Start the files plainly, ask, and stop."""
    options = MongodOptions(
        dbpath=dbpath,
        log_path=log_of(dbpath),
        listen=UnixSocket(path=socket / "plain.sock"),
        cache_gb=0.25,
        set_parameters={"ttlMonitorEnabled": False, "disableLogicalSessionCacheRefresh": True},
    )
    process = MongodProcess.start(binary, options, identity_path=dbpath.with_name(f"{dbpath.name}.json"))
    try:
        with process.client() as client:
            return ask(client)
    finally:
        process.stop()


def log_of(dbpath: Path) -> Path:
    return dbpath.with_name(f"{dbpath.name}.plain.log")


def advanced_hashes(binary: Path, dbpath: Path, socket: Path) -> Hashes:
    hashes: Hashes = hash_advanced(binary, dbpath, socket_directory=socket, hash_databases=database_hashes)
    return hashes


def read_files(root: Path, *, without: str = "") -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file() and p.name != without)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def validate_everything(client: "MongoClient[dict[str, Any]]") -> dict[str, bool]:
    """Whether each collection is valid, down to every page and index key."""
    verdicts = {}
    for database in client.list_database_names():
        for collection in client[database].list_collections(filter={"type": {"$ne": "view"}}):
            name = collection["name"]
            if collection["type"] == "timeseries":
                continue  # its buckets are in the list by themselves
            verdict = client[database].command("validate", name, full=True)
            # The workload has a document that its collection's validator would refuse: that one is as it should be.
            problems = [p for p in verdict["errors"] if "not compliant with the collection's schema" not in p]
            verdicts[f"{database}.{name}"] = bool(verdict["valid"] or (verdict["errors"] and not problems))
    return verdicts


def test_files_open_at_the_stable_timestamp_and_advance_to_what_was_locked(
    shared_installation: Any,
    shared_lab: ReplicaSetLab,
    followed: Cluster,
    at_point: AtPoint,
    mongod_binary: Path,
    tmp_path: Path,
    socket_directory: Path,
) -> None:
    with workload.BackgroundWorkload(shared_lab.client, seed=1) as running:
        running.wait_for_operations(100)
        snapshot, expected = take_hashed_snapshot(shared_installation, followed, at_point)
    shared_installation.materialise(snapshot, tmp_path / "plain")
    shared_installation.materialise(snapshot, tmp_path / "advanced")

    assert snapshot.stable_timestamp <= snapshot.applied_timestamp
    assert snapshot.stable_timestamp == recovery_timestamp(
        mongod_binary, tmp_path / "plain", socket_directory
    )
    assert set(workload.USER_DATABASES) <= set(expected)
    assert expected == advanced_hashes(mongod_binary, tmp_path / "advanced", socket_directory)


def test_the_archive_extracted_by_gnu_tar_is_the_same(
    shared_installation: Any,
    shared_lab: ReplicaSetLab,
    followed: Cluster,
    at_point: AtPoint,
    mongod_binary: Path,
    tmp_path: Path,
    socket_directory: Path,
) -> None:
    with workload.BackgroundWorkload(shared_lab.client, seed=2) as running:
        running.wait_for_operations(100)
        snapshot, expected = take_hashed_snapshot(shared_installation, followed, at_point)
    job = request_http_restore(
        cluster=followed,
        snapshot=snapshot,
        expiration_hours=1,
        max_downloads=1,
        catalog=shared_installation.catalog,
        clock=shared_installation.context.clock,
        actor="test",
    )

    def ready() -> Any:
        found = shared_installation.catalog.restore_jobs.find(job.id)
        return found if found.delivery_status is DeliveryStatus.READY else None

    job = shared_installation.wait_until(ready, what="the download")
    archive = open_archive(shared_installation.context.repository, job)
    path = tmp_path / job.file_name
    with path.open("wb") as file:
        file.writelines(archive.iter_range(0, archive.length_bytes))
    subprocess.run(["tar", "-xzf", path.name], cwd=tmp_path, check=True)
    extracted = tmp_path / job.file_name.removesuffix(".tar.gz")

    shared_installation.materialise(snapshot, tmp_path / "laid-down")
    assert read_files(tmp_path / "laid-down") == read_files(extracted, without="restoreInfo.txt")
    opened_at = start_plainly(mongod_binary, extracted)
    assert opened_at is not None
    assert snapshot.stable_timestamp == opened_at
    assert expected == advanced_hashes(mongod_binary, tmp_path / "laid-down", socket_directory)


def test_every_snapshot_of_a_chain_opens_though_checkpoints_ran_under_its_lock(
    shared_installation: Any,
    shared_lab: ReplicaSetLab,
    followed: Cluster,
    at_point: AtPoint,
    mongod_binary: Path,
    tmp_path: Path,
    socket_directory: Path,
) -> None:
    taken = []
    # It writes on: without anything new the server takes no checkpoint.
    with workload.BackgroundWorkload(shared_lab.client, seed=3) as running:
        for number in range(CHAIN):
            running.wait_for_operations(running.operations + 60)
            taken.append(
                take_hashed_snapshot(
                    shared_installation, followed, at_point, await_checkpoint=number % 2 == 1
                )
            )

    parents = [snapshot.parent_id for snapshot, _ in taken[1:]]
    assert [snapshot.id for snapshot, _ in taken[:-1]] == parents
    for number, (snapshot, expected) in enumerate(taken):
        dbpath = tmp_path / str(number)
        shared_installation.materialise(snapshot, dbpath)
        assert expected == advanced_hashes(mongod_binary, dbpath, socket_directory)
        assert snapshot.stable_timestamp == logged_timestamp(dbpath.with_name(f"{number}.log"))

    verdicts = with_copy(mongod_binary, tmp_path / str(CHAIN - 1), socket_directory, validate_everything)
    assert {"shop.orders", "telemetry.system.buckets.measurements", "local.oplog.rs"} <= set(verdicts)
    assert [name for name, is_valid in verdicts.items() if not is_valid] == []
