"""A download of any second: from a live set's archive and snapshots to files that mongod starts on."""

import random
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from ebbtide.backup.archive_wait import newest_committed
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.ids import ClusterId, new_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.prune_run import PruneRun, PruneState
from ebbtide.domain.restore_job import DeliveryStatus, RestoreJob, RestoreStatus
from ebbtide.domain.restore_point import AtNow, AtOplog, Refusal
from ebbtide.domain.result import result_id_of
from ebbtide.repository.repository import never_cancelled
from ebbtide.restore.requesting import cancel_restore_job
from ebbtide.restore.scratch_mongod import running
from ebbtide.testing import workload
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.worker.pruning import Pruning

Hashes = dict[str, dict[str, str]]


def now_of(installation: Any, cluster: Cluster) -> OplogTimestamp:
    newest = newest_committed(installation.context.access(installation.cluster(cluster)))
    return newest.timestamp


def user_hashes(client: Any) -> Hashes:
    return {
        name: hashes for name, hashes in database_hashes(client).items() if name not in ("config", "admin")
    }


def require_holds(
    installation: Any, job: RestoreJob, expected: Hashes, directory: Path, binary: Path
) -> None:
    done = installation.wait_for_restore(job)
    assert done.state == (RestoreStatus.FINISHED, DeliveryStatus.READY), done.reason
    files = installation.extract(done, directory, binary)
    with running(files, "serve", check=never_cancelled) as client:
        assert expected == user_hashes(client)
    info = (files.dbpath / "restoreInfo.txt").read_text()
    assert str(done.timestamp) in info
    shutil.rmtree(files.dbpath)


@pytest.fixture(scope="module")
def base(followed: Cluster, shared_installation: Any) -> Cluster:
    """The cluster, with a snapshot to begin from."""
    shared_installation.take_snapshot(followed)
    return followed


def test_now_and_a_moment_before_a_drop(
    base: Cluster,
    shared_installation: Any,
    shared_lab: ReplicaSetLab,
    socket_directory: Path,
    mongod_binary: Path,
) -> None:
    with shared_lab.client(w="majority") as client, shared_lab.member_client(0) as member:
        client.shop.gone.insert_many([{"_id": n} for n in range(50)])
        before_hashes, before = user_hashes(member), now_of(shared_installation, base)
        client.shop.drop_collection("gone")
        now_hashes = user_hashes(member)

    now = shared_installation.ask_for_download(base, AtNow())
    earlier = shared_installation.ask_for_download(base, AtOplog(before.seconds, before.increment))
    require_holds(shared_installation, now, now_hashes, socket_directory, mongod_binary)
    require_holds(shared_installation, earlier, before_hashes, socket_directory, mongod_binary)

    done = shared_installation.catalog.restore_jobs.find(earlier.id)
    assert before == done.timestamp
    assert done.result_id == done.id
    assert list(shared_installation.context.directory.scratch.iterdir()) == []
    store = shared_installation.context.repository.replica_set(base.id, base.replica_set_name)
    assert done.id not in list(store.iter_snapshot_ids())
    result = store.load_result(done.result_id)
    assert result.new_stored_bytes < result.stored_bytes
    require_pruned_once_over(shared_installation, earlier, kept=now)


def require_pruned_once_over(installation: Any, over: RestoreJob, *, kept: RestoreJob) -> None:
    """Prune removes a result when its job is over; one that can be downloaded still stays."""
    context = installation.context
    cancel_restore_job(over, catalog=context.catalog, clock=context.clock, actor="test")
    run = PruneRun(
        id=new_id(),
        requested=context.clock.now(),
        requested_by="test",
        dry_run=False,
        state=PruneState.RUNNING,
    )

    def is_done() -> bool:
        # A result that is just being hashed, and prune by itself, go first.
        Pruning(context, threading.Event()).run(run)
        store = context.repository.replica_set(over.cluster_id, over.replica_set_name)
        assert store.has_result(result_id_of(kept))
        return not store.has_result(result_id_of(over))

    installation.wait_until(is_done, seconds=60, what="the result to be pruned")


def test_a_damaged_base_is_passed_over(
    base: Cluster,
    shared_installation: Any,
    shared_lab: ReplicaSetLab,
    socket_directory: Path,
    mongod_binary: Path,
) -> None:
    with shared_lab.client(w="majority") as client, shared_lab.member_client(0) as member:
        workload.churn(client, rng=random.Random(3), operations=30)
        snapshot = shared_installation.take_snapshot(base)
        client.shop.after.insert_one({"_id": 1})
        hashes = user_hashes(member)
    store = shared_installation.context.repository.replica_set(base.id, base.replica_set_name)
    shared_installation.damage_snapshot(snapshot)

    job = shared_installation.ask_for_download(base, AtNow())
    assert snapshot.id == job.snapshot_id
    require_holds(shared_installation, job, hashes, socket_directory, mongod_binary)
    done = shared_installation.catalog.restore_jobs.find(job.id)
    assert snapshot.id != done.snapshot_id
    assert store.has_snapshot(done.snapshot_id)


def test_a_cancelled_job_leaves_nothing(base: Cluster, shared_installation: Any, at_point: Any) -> None:
    job = shared_installation.ask_for_download(base, AtNow())
    cancelled = []

    def cancel() -> None:
        cancelled.append(
            cancel_restore_job(
                job, catalog=shared_installation.catalog, clock=shared_installation.context.clock, actor="t"
            )
        )

    at_point("replay.applied", cancel)
    done = shared_installation.wait_for_restore(job)
    assert done.status is RestoreStatus.KILLED
    scratch = shared_installation.context.directory.scratch
    shared_installation.wait_until(lambda: not list(scratch.iterdir()), what="scratch to be wiped")
    assert cancelled


def test_the_future_is_refused(base: Cluster, shared_installation: Any) -> None:
    refusal = shared_installation.resolve(base, AtOplog(2**32 - 1, 1))
    assert isinstance(refusal, Refusal)
    assert "future" in refusal.message
    assert ClusterId(base.id)
