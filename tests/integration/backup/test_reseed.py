"""A head without files, with damaged ones, or that fell off the oplog: it gets its data again, by itself."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.backup import head_starting, reseed
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.errors import IntegrityError, StorageError
from ebbtide.mongod.process import MongodProcess
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab

SMALL_OPLOG_MB = 8


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_starting, "STALE_CHECK_SECONDS", 0.5)
    monkeypatch.setattr(head_starting, "RESTART_DELAY_MAX_SECONDS", 1.0)


def fill(lab: ReplicaSetLab, collection: str, megabytes: int) -> None:
    with lab.client(w="majority") as client:
        for _ in range(megabytes):
            client.shop[collection].insert_many([{"body": bytes(10_000)} for _ in range(100)])


def assert_same_data(installation: Any, cluster: Cluster, lab: ReplicaSetLab) -> None:
    """What the primary has, the head gets."""
    with lab.member_client(lab.primary().index) as client:
        expected = database_hashes(client)["shop"]

    def has_it() -> bool:
        with installation.head_client(cluster) as client:
            return bool(database_hashes(client).get("shop") == expected)

    installation.wait_until(has_it, what="the head's data")


def lose_files(installation: Any, cluster: Cluster) -> None:
    """As a disk that is gone: the mongod ends, and nothing is left."""
    directory = installation.context.head_directory(cluster)
    installation.head_process(cluster).kill()
    (directory / "db").rename(directory / "lost")
    # The keeper may have been quicker, and have started it on the files that are being lost.
    again = MongodProcess.find_running(directory / "mongod.json")
    if again is not None:
        again.kill()
    shutil.rmtree(directory / "lost")


def kinds(installation: Any, cluster: Cluster) -> list[str]:
    return [event.kind for event in installation.events(cluster)]


def test_a_head_without_files_is_built_from_the_newest_snapshot(
    installation: Any, lab: ReplicaSetLab
) -> None:
    fill(lab, "before", 2)
    with installation.working():
        cluster = installation.register_and_follow(lab)
        installation.take_snapshot(cluster)
        fill(lab, "between", 1)
        newest = installation.take_snapshot(cluster)
        fill(lab, "after", 1)
        lose_files(installation, cluster)
        installation.wait_until(lambda: "head.reseeded" in kinds(installation, cluster), what="a reseed")
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        assert_same_data(installation, cluster, lab)
        (event,) = installation.events(cluster, "head.reseeded")
        assert newest.id in event.message
        assert "head.initial_sync" not in kinds(installation, cluster)
        # It is as good as any: a snapshot of it builds on the one that it was built from.
        after = installation.take_snapshot(cluster)
        assert newest.id == after.parent_id
        assert after.new_stored_bytes < after.stored_bytes / 2


def test_without_a_snapshot_initial_sync_does_it(installation: Any, lab: ReplicaSetLab) -> None:
    fill(lab, "before", 1)
    with installation.working():
        cluster = installation.register_and_follow(lab)
        lose_files(installation, cluster)
        installation.wait_until(
            lambda: kinds(installation, cluster).count("head.synced") == 2, what="a second initial sync"
        )
        assert_same_data(installation, cluster, lab)
        (event,) = installation.events(cluster, "head.initial_sync")
        assert event.level is EventLevel.WARNING
        assert "there is no snapshot" in event.message


def test_a_reseed_that_was_interrupted_begins_again(
    installation: Any, lab: ReplicaSetLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lab, "before", 1)
    real = reseed.materialise
    attempts: list[Path] = []

    def interrupted(*arguments: Any, **named: Any) -> None:
        attempts.append(arguments[2])
        if len(attempts) == 1:
            (arguments[2] / "journal").mkdir(parents=True)
            (arguments[2] / "collection-0.wt").write_bytes(bytes(1000))
            raise StorageError("materialise into", str(arguments[2]), "the cable was pulled")
        real(*arguments, **named)

    with installation.working():
        cluster = installation.register_and_follow(lab)
        installation.take_snapshot(cluster)
        monkeypatch.setattr(reseed, "materialise", interrupted)
        lose_files(installation, cluster)
        installation.wait_until(lambda: "head.reseeded" in kinds(installation, cluster), what="a reseed")
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        assert_same_data(installation, cluster, lab)
    assert len(attempts) == 2


def test_a_damaged_snapshot_is_passed_over(
    installation: Any, lab: ReplicaSetLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lab, "before", 1)
    real = reseed.materialise
    damaged: list[str] = []

    def read_back(store: Any, manifest: Any, target: Path, **named: Any) -> None:
        if manifest.snapshot_id in damaged:
            raise IntegrityError("packs/1", "its checksum is another one")
        real(store, manifest, target, **named)

    with installation.working():
        cluster = installation.register_and_follow(lab)
        older = installation.take_snapshot(cluster)
        damaged.append(installation.take_snapshot(cluster).id)
        monkeypatch.setattr(reseed, "materialise", read_back)
        lose_files(installation, cluster)
        installation.wait_until(lambda: "head.reseeded" in kinds(installation, cluster), what="a reseed")
        (event,) = installation.events(cluster, "head.reseeded")
        assert older.id in event.message
        (said,) = installation.events(cluster, "repository.damaged")
        assert damaged[0] in said.message
        installation.wait_for_head(cluster, HeadState.FOLLOWING)


@pytest.mark.parametrize("name", ["WiredTiger.turtle", "_mdb_catalog.wt"])
def test_files_that_cannot_be_read_are_replaced(installation: Any, lab: ReplicaSetLab, name: str) -> None:
    fill(lab, "before", 1)
    with installation.working():
        cluster = installation.register_and_follow(lab)
        installation.take_snapshot(cluster)
    # The worker stopped its head in order; now the disk goes bad.
    path = installation.context.head_directory(cluster) / "db" / name
    path.write_bytes(bytes(path.stat().st_size))
    with installation.working():
        installation.wait_until(lambda: "head.reseeded" in kinds(installation, cluster), what="a reseed")
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        assert_same_data(installation, cluster, lab)
    assert "head.files_damaged" in kinds(installation, cluster)


# --- off the oplog --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_oplog_lab(mongod_binary: Path) -> Iterator[ReplicaSetLab]:
    with ReplicaSetLab(binary=mongod_binary, members=1, oplog_size_mb=SMALL_OPLOG_MB) as lab:
        yield lab


def oplog_begins_after(lab: ReplicaSetLab, moment: Any) -> Callable[[], bool]:
    def begins_after() -> bool:
        fill(lab, "churn", 4)
        with lab.client() as client:
            oldest = client.local["oplog.rs"].find_one(sort=[("$natural", 1)])
        return bool(oldest["ts"] > moment)

    return begins_after


@pytest.mark.long
def test_a_head_that_fell_off_the_oplog_says_so_and_is_built_anew(
    installation: Any, small_oplog_lab: ReplicaSetLab, recorded_states: list[dict[str, Any]]
) -> None:
    lab = small_oplog_lab
    fill(lab, "before", 1)
    with installation.working():
        cluster = installation.register_and_follow(lab)
        installation.take_snapshot(cluster)
    with lab.client() as client:
        moment = client.admin.command("hello")["lastWrite"]["opTime"]["ts"]
        installation.wait_until(oplog_begins_after(lab, moment), what="a short oplog")
    with installation.working():
        installation.wait_until(
            lambda: kinds(installation, cluster).count("head.synced") == 2, what="a head that follows again"
        )
        assert_same_data(installation, cluster, lab)
    (stale,) = installation.events(cluster, "head.too_stale")
    assert stale.level is EventLevel.WARNING
    assert HeadState.TOO_STALE in [written.get("state") for written in recorded_states]
    # The snapshot is as old as the head was, so it is of no use.
    (event,) = installation.events(cluster, "head.initial_sync")
    assert "the set's oplog begins at" in event.message


def test_a_cluster_is_removed_while_its_head_is_built(
    installation: Any, lab: ReplicaSetLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lab, "before", 1)
    begun: list[str] = []

    def without_end(*_: Any, check_cancelled: Callable[[], None], **__: Any) -> None:
        begun.append("materialise")
        while True:
            check_cancelled()
            time.sleep(0.05)

    with installation.working():
        cluster = installation.register_and_follow(lab)
        installation.take_snapshot(cluster)
        monkeypatch.setattr(reseed, "materialise", without_end)
        lose_files(installation, cluster)
        installation.wait_until(lambda: begun, what="a reseed")
        assert installation.head(cluster).state is HeadState.RESEEDING
        installation.remove(cluster)
    assert not installation.context.head_directory(cluster).exists()
