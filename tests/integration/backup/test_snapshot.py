"""Snapshots of a live set: what is in them, what they store, and what happens when luck is bad."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from bson import Timestamp
from pymongo.errors import PyMongoError

from ebbtide.backup import snapshot_run
from ebbtide.backup.reflink import CLONES_NAME
from ebbtide.backup.requesting import SnapshotInProgress
from ebbtide.demo.copies import hash_advanced
from ebbtide.domain.capture import BACKUP_METADATA, parse_stable_timestamp
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.testing import workload
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.worker.worker import LOOK_SECONDS

AtPoint = Callable[[str, Callable[[], None]], None]

SMALL_COLLECTIONS = 300
PAUSE_SECONDS_MAX = 30.0
"""Far above what it takes (1,000 collections: 1.6 s, and 0.7 s once there is a parent); far below a mistake."""


def is_locked(installation: Any, cluster: Cluster) -> bool:
    with installation.head_client(cluster) as client:
        return bool(client.admin.command("currentOp", 1, **{"$ownOps": True}).get("fsyncLock", False))


SLOW = {"snapshot.long_lock", "snapshot.lock_held"}
"""What a busy machine may add to the events of any snapshot."""


def kinds_of(installation: Any, cluster: Cluster, subject_id: str) -> list[str]:
    return [e.kind for e in installation.events(cluster) if e.subject_id == subject_id]


def newest_write(lab: ReplicaSetLab) -> OplogTimestamp:
    with lab.client() as client:
        newest: Timestamp = client.admin.command("hello")["lastWrite"]["opTime"]["ts"]
        return OplogTimestamp.from_bson(newest)


def test_what_was_written_before_the_request_is_in_it(
    shared_installation: Any, shared_lab: ReplicaSetLab, followed: Cluster
) -> None:
    for concern in (1, "majority"):
        with shared_lab.client(w=concern) as client:
            client.shop.last.insert_one({"concern": concern})
        written = newest_write(shared_lab)
        snapshot = shared_installation.take_snapshot(followed)
        assert written <= snapshot.stable_timestamp <= snapshot.applied_timestamp
        kinds = kinds_of(shared_installation, followed, snapshot.id)
        assert [kind for kind in kinds if kind not in SLOW] == ["snapshot.requested", "snapshot.complete"]
    assert not is_locked(shared_installation, followed)
    assert shared_installation.head(followed).lock_job_id is None


def test_the_timestamp_is_that_of_the_stored_metadata(
    shared_installation: Any, followed: Cluster, tmp_path: Any
) -> None:
    snapshot = shared_installation.take_snapshot(followed)
    shared_installation.materialise(snapshot, tmp_path / "db")
    metadata = (tmp_path / "db" / BACKUP_METADATA).read_text(errors="replace")
    assert parse_stable_timestamp(metadata) == snapshot.stable_timestamp
    manifest = shared_installation.manifest(snapshot)
    assert manifest.stable_timestamp == snapshot.stable_timestamp
    assert manifest.mongod_version == "6.0.5"
    assert not manifest.storage["directoryPerDB"]


def test_the_next_snapshot_stores_little_and_names_its_parent(
    shared_installation: Any, followed: Cluster
) -> None:
    first = shared_installation.take_snapshot(followed)
    second = shared_installation.take_snapshot(followed)
    assert first.id == second.parent_id
    assert second.new_stored_bytes < second.stored_bytes / 10
    assert second.data_size_bytes > 0
    assert second.lock_seconds is not None
    assert second.lock_seconds > 0


def test_one_snapshot_at_a_time(shared_installation: Any, followed: Cluster, at_point: AtPoint) -> None:
    refused: list[Exception] = []

    def ask_again() -> None:
        with pytest.raises(SnapshotInProgress) as error:
            shared_installation.request_snapshot(followed)
        refused.append(error.value)

    at_point("snapshot.locked", ask_again)
    shared_installation.take_snapshot(followed)
    assert len(refused) == 1


def test_the_primary_steps_down_during_it(
    shared_installation: Any, shared_lab: ReplicaSetLab, followed: Cluster, at_point: AtPoint
) -> None:
    at_point("snapshot.locked", lambda: shared_lab.step_down() and None)
    with workload.BackgroundWorkload(shared_lab.client, seed=5) as running:
        running.wait_for_operations(50)
        snapshot = shared_installation.take_snapshot(followed)
        running.wait_for_operations(running.operations + 50)
    assert snapshot.stable_timestamp <= snapshot.applied_timestamp
    head = shared_installation.wait_for_head(followed, HeadState.FOLLOWING)
    assert head.restarts == 0


def test_a_long_lock_is_an_event(shared_installation: Any, followed: Cluster, at_point: AtPoint) -> None:
    limit = shared_installation.context.settings.number("snapshot.lock_warn_seconds")
    at_point("snapshot.locked", lambda: time.sleep(limit))
    snapshot = shared_installation.take_snapshot(followed)
    assert "snapshot.long_lock" in kinds_of(shared_installation, followed, snapshot.id)
    assert snapshot.lock_seconds > limit


def test_a_lock_of_someone_else_is_an_event_and_stays_theirs(
    shared_installation: Any, shared_lab: ReplicaSetLab, followed: Cluster
) -> None:
    with shared_installation.head_client(followed) as client:
        client.admin.command({"fsync": 1, "lock": True})
        try:
            with shared_lab.client() as writer:
                writer.shop.last.insert_one({"after": "the lock"})
            snapshot = shared_installation.take_snapshot(followed)
            assert is_locked(shared_installation, followed)
        finally:
            client.admin.command("fsyncUnlock")
    assert "snapshot.foreign_lock" in kinds_of(shared_installation, followed, snapshot.id)
    assert snapshot.stable_timestamp < newest_write(shared_lab)
    assert not is_locked(shared_installation, followed)


def test_a_head_killed_under_the_lock_gives_no_wrong_snapshot(
    shared_installation: Any, shared_lab: ReplicaSetLab, followed: Cluster, at_point: AtPoint
) -> None:
    restarts = shared_installation.head(followed).restarts
    at_point("snapshot.locked", lambda: shared_installation.head_process(followed).kill())
    with shared_lab.client(w="majority") as client:
        client.shop.last.insert_one({"before": "the kill"})
    written = newest_write(shared_lab)
    snapshot = shared_installation.take_snapshot(followed)
    assert written <= snapshot.stable_timestamp
    job = shared_installation.catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))
    assert job.failures > 0
    assert restarts + 1 == shared_installation.head(followed).restarts
    assert {"head.down", "head.restarted"} <= {e.kind for e in shared_installation.events(followed)}
    assert not is_locked(shared_installation, followed)


def test_who_lost_the_job_while_it_was_stopped_commits_nothing(
    shared_installation: Any, followed: Cluster, at_point: AtPoint
) -> None:
    """As a worker that was paused for longer than its lease: it hears of that only when it asks."""
    locked: list[str] = []
    committed: list[str] = []
    holders: list[str] = []

    def lose() -> None:
        """To another worker, whose lease ends at once; the worker here looks for jobs before the run goes on."""
        shared_installation.catalog._database.jobs.update_one(
            {"cluster_id": followed.id, "state": JobState.RUNNING.value},
            {"$set": {"lease_worker_id": "another", "lease_until": shared_installation.context.clock.now()}},
        )
        time.sleep(2 * LOOK_SECONDS)
        snapshot = shared_installation.catalog.snapshots.list_in_progress()[0]
        job = shared_installation.catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))
        holders.append(job.lease_worker_id)

    at_point("snapshot.unlocked", lose)
    for _ in range(2):
        at_point("snapshot.locked", lambda: locked.append("locked"))
        at_point("snapshot.manifest_written", lambda: committed.append("committed"))
    shared_installation.take_snapshot(followed)
    assert (len(locked), len(committed)) == (2, 1)
    assert holders == ["another"]


def test_what_is_read_is_copied_and_the_head_goes_on(
    shared_installation: Any,
    shared_lab: ReplicaSetLab,
    followed: Cluster,
    at_point: AtPoint,
    mongod_binary: Path,
    tmp_path: Path,
    socket_directory: Path,
) -> None:
    copies = shared_installation.context.head_directory(followed) / CLONES_NAME
    hashes: list[Any] = []

    def hash_head() -> None:
        with shared_installation.head_client(followed) as client:
            hashes.append(database_hashes(client))

    def write_on() -> None:
        """Between the unlock and the first byte that is compressed: the head changes its files as it likes."""
        assert (copies / BACKUP_METADATA).exists()
        assert not is_locked(shared_installation, followed)
        with shared_lab.client(w=4) as client:
            client.shop.orders.update_many({}, {"$set": {"after": "the unlock"}})
        with shared_installation.head_client(followed) as client:
            client.admin.command("fsync")

    at_point("snapshot.locked", hash_head)
    at_point("snapshot.unlocked", write_on)
    snapshot = shared_installation.take_snapshot(followed)
    assert not copies.exists()
    shared_installation.materialise(snapshot, tmp_path / "db")
    assert hashes[0] == hash_advanced(
        mongod_binary, tmp_path / "db", socket_directory=socket_directory, hash_databases=database_hashes
    )


def test_a_head_killed_while_it_is_read_under_the_lock_is_noticed(
    shared_installation: Any, followed: Cluster, at_point: AtPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It restarts by itself meanwhile; what was read under the lost lock is not committed."""

    def kill_and_wait() -> None:
        process = shared_installation.head_process(followed)
        process.kill()

        def is_back() -> bool:
            again = shared_installation.head_process(followed)
            if again is None or again.pid == process.pid:
                return False
            try:
                with shared_installation.head_client(followed) as client:
                    return bool(client.admin.command("hello")["secondary"])
            except PyMongoError:
                return False

        shared_installation.wait_until(is_back, what="the head's return")

    monkeypatch.setattr(snapshot_run, "copy_to_read", lambda *_, **__: None)
    at_point("snapshot.recipes_written", kill_and_wait)
    snapshot = shared_installation.take_snapshot(followed)
    job = shared_installation.catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))
    assert job.failures > 0
    assert not is_locked(shared_installation, followed)


def test_a_full_read_tells_of_changes_that_the_times_did_not_show(
    shared_installation: Any, followed: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing writes to these files; their stats must be older than the grain of timestamps.
    time.sleep(2.5)
    parent = shared_installation.manifest(shared_installation.take_snapshot(followed))
    changed = next(
        entry.path
        for entry in parent.files
        if entry.path.startswith("collection-")
        and entry.plain_bytes
        and entry.path != parent.oplog_file
        and entry.stat.stated_at_ns - entry.stat.mtime_ns > 2_000_000_000
    )
    # Instead of the head's file, which must stay sound, the record of it is changed: that is the same difference.
    forged = replace(parent, last_full_read=parent.last_full_read.replace(year=2000))
    store = type(shared_installation.context.repository.replica_set(followed.id, "x"))
    monkeypatch.setattr(store, "load_manifest", lambda *_: with_other_content(forged, changed))
    snapshot = shared_installation.take_snapshot(followed)
    events = [e for e in shared_installation.events(followed) if e.subject_id == snapshot.id]
    told = [e for e in events if e.kind == "snapshot.unexpected_changes"]
    assert [e.level for e in told] == [EventLevel.ERROR]
    assert changed in told[0].message


def with_other_content(manifest: Any, path: str) -> Any:
    """The manifest, with another file's blocks in place of those of `path`."""
    donor = next(e for e in manifest.files if e.path != path and e.plain_bytes and e.stretches)
    files = [replace(e, stretches=donor.stretches) if e.path == path else e for e in manifest.files]
    return replace(manifest, files=tuple(files))


def test_many_small_collections(
    shared_installation: Any, shared_lab: ReplicaSetLab, followed: Cluster
) -> None:
    with shared_lab.client(w=1) as client, ThreadPoolExecutor(8) as pool:
        names = [f"c{number}" for number in range(SMALL_COLLECTIONS)]
        list(pool.map(lambda name: client.many[name].insert_one({"name": name}), names))
    first = shared_installation.take_snapshot(followed)
    second = shared_installation.take_snapshot(followed)
    structlog.get_logger().info("test.pause", first=first.lock_seconds, second=second.lock_seconds)
    assert first.lock_seconds < PAUSE_SECONDS_MAX
    assert second.lock_seconds < PAUSE_SECONDS_MAX
    assert len(shared_installation.manifest(second).files) > 2 * SMALL_COLLECTIONS
