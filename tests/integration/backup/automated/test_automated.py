"""Restores into a running set, by a worker in this process: in parts, disturbed, cancelled, with users."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ebbtide.domain.automated_restore import RestoreScope, TargetState, WriteBlock
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.restore_job import RestoreStatus
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.restore.automated_request import RestoreInProgress
from ebbtide.restore.requesting import cancel_restore_job
from ebbtide.restore.settle import Settled, UnfinishedIndex
from ebbtide.testing.lab import ReplicaSetLab

AtPoint = Callable[[str, Callable[[], None]], None]


@pytest.fixture
def snapshot(restoring: Any) -> Any:
    """Of the workload, with `kept.things` beside it."""
    with restoring.client(w="majority") as client:
        client.drop_database("kept")
        client.kept.things.insert_many([{"_id": number} for number in range(20)])
    return restoring.installation.take_snapshot(restoring.cluster)


def is_blocked(restoring: Any) -> bool:
    with restoring.client() as client:
        return bool(client.admin.command("serverStatus")["repl"]["userWriteBlockMode"] == 2)


def test_one_collection_comes_back_under_a_new_name_with_the_users_of_that_time(
    restoring: Any, snapshot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_done = tuple(
        UnfinishedIndex(namespace=name, name="slow", specification={})
        for name in ("kept.things", "shop.orders")
    )
    monkeypatch.setattr(
        "ebbtide.restore.source._settle_plain", lambda *_, **__: Settled(unfinished_indexes=half_done)
    )
    with restoring.client(w="majority") as client:
        client.admin.command("createUser", "latecomer", pwd="x", roles=["read"])
        client.kept.things.insert_one({"_id": "later"})
        before = client.kept.things.count_documents({})

    scope = RestoreScope(namespaces=("kept.things",), rename_to="kept.then")
    job = restoring.wait(restoring.request(snapshot, scope=scope, with_users_and_roles=True))

    record = restoring.record(job)
    assert (record.target_state, record.write_block) == (TargetState.RESTORED, WriteBlock.OFF)
    with restoring.client() as client:
        assert client.kept.things.count_documents({}) == before == 21
        assert client.kept.then.count_documents({}) == 20
        users = {user["user"] for user in client.admin.command("usersInfo", 1)["users"]}
    assert users == {"root", "backup", "restorer"}
    events = restoring.installation.catalog.events.page_of_all(skip=0, limit=100)
    told = [e.message for e in events if e.kind == "restore.index_unfinished" and e.subject_id == job.id]
    assert len(told) == 1
    assert "index slow of kept.things was still being built" in told[0]


def test_what_others_change_while_it_runs_is_a_difference_that_is_named(
    restoring: Any, snapshot: Any, at_point: AtPoint
) -> None:
    def meddle() -> None:
        # As root, who is let through.
        with restoring.client(w="majority") as client:
            client.kept.things.insert_one({"_id": "meddled"})

    at_point("automated.collection_loaded", meddle)
    job = restoring.request(snapshot, scope=RestoreScope(namespaces=("kept.things",)))
    broken = restoring.wait(job, RestoreStatus.BROKEN)

    assert "kept.things: 21 documents instead of 20" in broken.reason
    assert f"ebbtide restores undo {job.id}" in broken.reason
    assert restoring.record(job).target_state is TargetState.DIFFERENT
    assert not is_blocked(restoring)
    restoring.wait(restoring.request(snapshot, scope=RestoreScope(namespaces=("kept.things",))))


@pytest.mark.long
@pytest.mark.parametrize("point", ["automated.removed", "automated.collection_loaded"])
def test_an_election_on_the_target_costs_time_and_nothing_else(
    restoring: Any, snapshot: Any, at_point: AtPoint, point: str
) -> None:
    elected = threading.Event()

    def elect() -> None:
        if not elected.is_set():
            elected.set()
            restoring.lab.step_down()

    at_point(point, elect)
    job = restoring.request(snapshot, scope=RestoreScope(namespaces=("kept.things",)))
    restoring.wait(job)

    assert elected.is_set()
    assert restoring.record(job).target_state is TargetState.RESTORED
    assert not is_blocked(restoring)
    with restoring.client() as client:
        assert client.kept.things.count_documents({}) == 20


def test_a_cancelled_restore_lets_writers_go_and_says_how_the_target_is(
    restoring: Any, snapshot: Any, at_point: AtPoint
) -> None:
    installation, seen = restoring.installation, threading.Event()
    asked: dict[str, Any] = {}

    def cancel() -> None:
        assert is_blocked(restoring)
        with pytest.raises(RestoreInProgress):
            restoring.request(snapshot)
        found = restoring.job(asked["job"])
        cancel_restore_job(
            found, catalog=installation.catalog, clock=installation.context.clock, actor="test"
        )
        seen.set()

    at_point("automated.removed", cancel)
    asked["job"] = restoring.request(snapshot, scope=RestoreScope(namespaces=("kept.things",)))
    restoring.wait(asked["job"], RestoreStatus.KILLED)
    installation.wait_until(
        lambda: installation.catalog.automated_restores.list_active() == [], what="the target to be let go of"
    )

    assert seen.is_set()
    assert not is_blocked(restoring)
    assert restoring.record(asked["job"]).target_state is TargetState.LOADING
    again = restoring.request(snapshot, scope=RestoreScope(namespaces=("kept.things",)))
    restoring.wait(again)
    with restoring.client() as client:
        assert client.kept.things.count_documents({}) == 20


def test_a_damaged_snapshot_is_restored_from_an_older_one_and_the_archive(
    restoring: Any, snapshot: Any
) -> None:
    with restoring.client(w="majority") as client:
        client.kept.things.insert_one({"_id": "of the newer snapshot"})
        newer = restoring.installation.take_snapshot(restoring.cluster)
        client.kept.things.insert_one({"_id": "later"})
    restoring.installation.damage_snapshot(newer)

    job = restoring.request(newer, scope=RestoreScope(namespaces=("kept.things",)))
    done = restoring.wait(job)

    assert (done.snapshot_id, done.limit) == (snapshot.id, newer.stable_timestamp)
    assert restoring.record(job).target_state is TargetState.RESTORED
    with restoring.client() as client:
        assert client.kept.things.count_documents({}) == 21
        assert client.kept.things.find_one({"_id": "later"}) is None
    (told,) = restoring.installation.events(restoring.cluster, "restore.base_passed_over")
    assert snapshot.id in told.message
    assert newer.id in told.message


@pytest.fixture
def elsewhere(
    restoring: Any, shared_lab: ReplicaSetLab, make_target: Callable[..., Cluster]
) -> Iterator[Cluster]:
    """Another cluster as the target: one that asks nobody for a login, and of which there is no snapshot."""
    shared_lab.reset()
    with shared_lab.client(w="majority") as client:
        client.kept.things.insert_one({"_id": "of the other cluster"})
    cluster = make_target(restoring.installation, shared_lab, "elsewhere")
    yield cluster
    restoring.installation.remove(cluster)
    shared_lab.reset()


@pytest.mark.long
def test_another_cluster_without_logins_and_snapshots_is_a_target_too(
    restoring: Any, snapshot: Any, elsewhere: Cluster, shared_lab: ReplicaSetLab, at_point: AtPoint
) -> None:
    def write_as_a_driver_does() -> None:
        with shared_lab.client(w="majority") as client:
            client.kept.things.insert_one({"_id": "by somebody else"})

    at_point("automated.collection_loaded", write_as_a_driver_does)
    scope = RestoreScope(namespaces=("kept.things",))
    job = restoring.request(snapshot, target=elsewhere, scope=scope)
    broken = restoring.wait(job, RestoreStatus.BROKEN)

    record = restoring.record(job)
    assert record.foreign_writes == ("kept.things",)
    assert record.undo_snapshot_id is not None
    assert "21 documents instead of 20" in broken.reason

    everything = restoring.wait(restoring.request(snapshot, target=elsewhere))
    assert restoring.record(everything).foreign_writes == ()
    with shared_lab.client() as client:
        assert client.kept.things.count_documents({}) == 20
        assert client.shop.orders.estimated_document_count() > 0

    undo_point = record.undo_point
    (base,) = restoring.installation.catalog.snapshots.list_in_state(elsewhere.id, SnapshotState.COMPLETE)
    undo = restoring.request(
        base, undo_point, source=elsewhere, target=elsewhere, undoes=everything.id, wants_undo=False
    )
    restoring.wait(undo)
    with shared_lab.client() as client:
        assert [d["_id"] for d in client.kept.things.find()] == ["of the other cluster"]
        assert "shop" not in client.list_database_names()
