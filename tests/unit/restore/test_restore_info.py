"""`restoreInfo.txt`: the same text every time, with commands that are exactly right."""

import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ebbtide.domain.ids import BatchId, ClusterId, GroupId, RestoreJobId, SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import READY, RestoreJob
from ebbtide.errors import NotFound
from ebbtide.repository.manifest import Manifest, ManifestKind
from ebbtide.restore.archive_directory import parse_restore_info
from ebbtide.restore.links import open_download_key, seal_new_download_key
from ebbtide.restore.restore_info import plain_start_arguments, render_restore_info
from ebbtide.sealing import SealBroken, ServiceKey

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
JOB_ID = RestoreJobId("5f00000000000000000000d1")
SNAPSHOT_ID = SnapshotId("5f00000000000000000000e1")
NAME = f"rs0-1700000000-{JOB_ID}"
JOB = RestoreJob(
    id=JOB_ID,
    group_id=GroupId("5f0000000000000000000001"),
    cluster_id=ClusterId("5f00000000000000000000c1"),
    cluster_name="shop",
    replica_set_name="rs0",
    snapshot_id=SNAPSHOT_ID,
    created=NOW,
    status=READY[0],
    delivery_status=READY[1],
    timestamp=OplogTimestamp(1700000000, 3),
    expiration_hours=1,
    max_downloads=1,
    requested_by="abcdefgh",
    file_name=f"{NAME}.tar.gz",
)


def manifest(*, directory_per_db: bool = False) -> Manifest:
    values: dict[str, Any] = {
        "kind": ManifestKind.SNAPSHOT,
        "snapshot_id": SNAPSHOT_ID,
        "parent_id": None,
        "group_id": JOB.group_id,
        "group_name": "default",
        "cluster_id": JOB.cluster_id,
        "cluster_name": "shop",
        "replica_set_name": "rs0",
        "created": NOW,
        "completed": NOW,
        "stable_timestamp": OplogTimestamp(1700000000, 3),
        "applied_timestamp": OplogTimestamp(1700000007, 1),
        "mongod_version": "6.0.5",
        "fcv": "6.0",
        "head_address": "backup1:27200",
        "oplog_file": "collection-9--1.wt",
        "storage": {"engine": "wiredTiger", "directoryPerDB": directory_per_db},
        "data_size_bytes": 1,
        "storage_size_bytes": 1,
        "new_stored_bytes": 1,
        "last_full_read": NOW,
        "files": (),
    }
    return Manifest(**values)


PLAIN = [
    "mongod", "--dbpath", NAME, "--port", "27117", "--bind_ip", "127.0.0.1",
    "--setParameter", "ttlMonitorEnabled=false", "--setParameter", "disableLogicalSessionCacheRefresh=true",
]  # fmt: skip
ADVANCE = [
    "--setParameter", "recoverFromOplogAsStandalone=true",
    "--setParameter", "takeUnstableCheckpointOnShutdown=true",
]  # fmt: skip


def _commands(text: str) -> list[list[str]]:
    joined = text.replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line.startswith("    mongod ")]


@pytest.mark.parametrize(("directory_per_db", "extra"), [(False, []), (True, ["--directoryperdb"])])
def test_the_commands_can_be_pasted(directory_per_db: bool, extra: list[str]) -> None:
    text = render_restore_info(JOB, manifest(directory_per_db=directory_per_db))
    assert [[*PLAIN, *extra], [*PLAIN, *extra, *ADVANCE]] == _commands(text)


def test_the_text_says_what_the_download_is() -> None:
    text = render_restore_info(JOB, manifest())
    for part in (JOB_ID, SNAPSHOT_ID, "shop", "rs0", "6.0.5", "2023-11-14T22:13:20+00:00",
                 "(1700000000, 3)", "2023-11-14T22:13:27+00:00", "(1700000007, 1)"):  # fmt: skip
        assert part in text
    assert all(len(line) <= 200 for line in text.splitlines())
    assert text.isascii()


def result(**storage: str | int) -> Manifest:
    moment = OplogTimestamp(1700000005, 9)
    return replace(
        manifest(),
        kind=ManifestKind.DELIVER_ONLY,
        parent_id=SNAPSHOT_ID,
        stable_timestamp=moment,
        applied_timestamp=moment,
        storage={"engine": "wiredTiger", **storage},
    )


def test_a_replayed_result_is_described_as_one_that_cannot_be_advanced() -> None:
    job = replace(JOB, point_in_time=True, limit=OplogTimestamp(1700000006, 0))
    text = render_restore_info(job, result())
    assert _commands(text) == [PLAIN]
    assert "asked up to      oplog timestamp (1700000006, 0)" in text
    assert f"base snapshot    {SNAPSHOT_ID}" in text
    assert "prepared" not in text
    assert all(len(line) <= 200 for line in text.splitlines())
    info = parse_restore_info(text)
    assert info is not None
    assert (info.stable, info.newest) == (OplogTimestamp(1700000005, 9), OplogTimestamp(1700000005, 9))


def test_what_was_half_done_at_that_moment_is_told() -> None:
    text = render_restore_info(JOB, result(preparedTransactions=2, droppedIndexes="by key of shop.stock"))
    assert "prepared at that moment, and not committed: 2." in text
    assert "not there: by key of shop.stock." in text


def test_the_text_is_the_same_every_time() -> None:
    assert render_restore_info(JOB, manifest()) == render_restore_info(JOB, manifest())


def test_arguments_listen_on_loopback_and_let_nothing_expire() -> None:
    arguments = plain_start_arguments("d", port=5, directory_per_db=False)
    assert ["--dbpath", "d", "--port", "5", "--bind_ip", "127.0.0.1", *PLAIN[7:]] == arguments


SERVICE_KEY = ServiceKey(bytes(32))


def test_a_download_key_is_random_and_opens_for_its_job_alone() -> None:
    sealed = seal_new_download_key(JOB, SERVICE_KEY)
    key = open_download_key(replace(JOB, download_key=sealed), SERVICE_KEY)
    assert len(bytes.fromhex(key)) == 16
    other = open_download_key(replace(JOB, download_key=seal_new_download_key(JOB, SERVICE_KEY)), SERVICE_KEY)
    assert key != other
    moved = replace(JOB, id=RestoreJobId("5f00000000000000000000d2"), download_key=sealed)
    with pytest.raises(SealBroken):
        open_download_key(moved, SERVICE_KEY)


def test_a_job_without_a_link_has_no_key() -> None:
    with pytest.raises(NotFound):
        open_download_key(JOB, SERVICE_KEY)


def part(name: str, **changes: Any) -> Manifest:
    storage = {"engine": "wiredTiger", "part": name, "shardedClusterId": "6f00000000000000000000aa"}
    return replace(result(), storage={**storage, **changes})


@pytest.mark.parametrize(("name", "role"), [("config", "configsvr"), ("shard0", "shardsvr")])
def test_a_part_of_a_sharded_cluster_tells_how_the_cluster_is_brought_up(name: str, role: str) -> None:
    batch = BatchId("5f00000000000000000000b1")
    job = replace(JOB, point_in_time=True, limit=OplogTimestamp(1700000006, 0), batch_id=batch)
    text = render_restore_info(job, part(name, preparedTransactions=2))
    assert _commands(text) == [PLAIN]
    assert f"restores prepare {NAME} DIR..." in text
    assert "not run against a real mongos" in text
    assert f"--{role} --replSet NAME" in text
    assert ("config.shards.updateOne" in text) == ("configsvr: true" in text) == (name == "config")
    assert ("configsvrConnectionString" in text) == (name != "config")
    assert "prepared at that moment, and not committed: 2." in text
    assert all(len(line) <= 200 for line in text.splitlines())
    assert text.isascii()
    info = parse_restore_info(text)
    assert info is not None
    assert (name, "6f00000000000000000000aa", job.limit) == (info.part, info.sharded_cluster, info.limit)
    assert batch == info.batch
    assert (OplogTimestamp(1700000005, 9),) * 2 == (info.stable, info.newest)


def test_a_snapshot_of_one_part_alone_says_that_it_makes_no_cluster() -> None:
    alone = replace(manifest(), storage=part("shard0").storage)
    text = render_restore_info(JOB, alone)
    assert "restores prepare" not in text
    assert "a snapshot of one part alone" in text
    assert f"base snapshot    {SNAPSHOT_ID}" in text
    info = parse_restore_info(text)
    assert info is not None
    assert (info.part, info.limit) == ("shard0", None)
    assert (OplogTimestamp(1700000000, 3), OplogTimestamp(1700000007, 1)) == (info.stable, info.newest)
