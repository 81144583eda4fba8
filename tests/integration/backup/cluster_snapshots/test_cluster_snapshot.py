"""Snapshots of a real sharded cluster: its parts, the common time, and a balancer that is always put back."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ebbtide.backup import balancer_hold
from ebbtide.backup.consistent_points import find_consistent_point
from ebbtide.backup.requesting import SnapshotInProgress
from ebbtide.catalog.codec import to_document
from ebbtide.clock import SystemClock
from ebbtide.domain.balancer_hold import BalancerHold
from ebbtide.domain.consistent_point import ConsistentPoint
from ebbtide.domain.job import ATTEMPTS_MAX, JobKind, JobState, job_id
from ebbtide.domain.sharding import BalancerMode
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import Unreachable
from ebbtide.oplog.archive import OplogArchive
from ebbtide.testing.bank import DATABASE as BANK
from ebbtide.testing.bank import BackgroundBank, Bank
from ebbtide.testing.sharded_lab import CONFIG

WAIT_SECONDS = 120.0
COMPLETE, FAILED, IN_PROGRESS = SnapshotState.COMPLETE, SnapshotState.FAILED, SnapshotState.IN_PROGRESS

AtPoint = Callable[[str, Callable[[], None]], None]


@contextmanager
def one_part_held_up(at_point: AtPoint) -> Iterator[None]:
    """The first part that locks its head stays there until the block ends."""
    go_on = threading.Event()
    at_point("snapshot.locked", lambda: require(go_on.wait(WAIT_SECONDS)))
    try:
        yield
    finally:
        go_on.set()


def require(found: bool) -> None:
    if not found:
        raise AssertionError("nobody let it go on")


def test_all_parts_are_taken_and_have_a_common_time(sharded: Any) -> None:
    done = sharded.take()

    assert [part.is_config_server for part in done.parts] == [True, False, False]
    assert [part.shard_name for part in done.parts] == [None, "shard0", "shard1"]
    assert {part.cluster_id for part in done.parts} == {part.id for part in sharded.parts}
    snapshots = sharded.part_snapshots(done)
    assert {snapshot.state for snapshot in snapshots} == {COMPLETE}
    assert {snapshot.cluster_snapshot_id for snapshot in snapshots} == {done.id}
    assert all(snapshot.stable_timestamp <= done.cluster_time for snapshot in snapshots)
    assert not done.is_possibly_inconsistent
    assert done.expires is not None
    assert {"snapshot.requested", "snapshot.complete"} == sharded.kinds(done)
    assert sharded.balancer_mode() == "full"
    assert sharded.catalog.balancer_holds.find(sharded.cluster.id) is None
    for part in sharded.parts:
        client = sharded.lab.admin_client(part.shard_name or CONFIG)
        note = client.local["oplog.rs"].find_one({"op": "n", "o.ebbtide": f"snapshot {done.id}"})
        assert note["ts"] >= done.cluster_time.to_bson()


@pytest.mark.parametrize("mode", ["off", "autoSplitOnly"])
def test_a_balancer_that_moved_no_chunks_is_left_as_it_was(
    sharded: Any, at_point: AtPoint, mode: str
) -> None:
    sharded.set_balancer(mode)
    seen: list[str] = []
    at_point("cluster_snapshot.parts_requested", lambda: seen.append(sharded.balancer_mode()))

    done = sharded.take()

    assert seen == [mode]
    assert sharded.balancer_mode() == mode
    assert not done.is_possibly_inconsistent


def test_the_balancer_rests_while_parts_are_taken_and_no_second_snapshot_begins(
    sharded: Any, at_point: AtPoint
) -> None:
    with one_part_held_up(at_point):
        asked = sharded.request()
        sharded.installation.wait_until(lambda: len(sharded.part_snapshots(asked)) == 3)
        assert sharded.balancer_mode() == "off"
        assert sharded.catalog.balancer_holds.find(sharded.cluster.id).found is BalancerMode.FULL
        with pytest.raises(SnapshotInProgress, match=str(asked.id)):
            sharded.request()
    sharded.wait_for(asked)
    sharded.wait_until_put_back()


def test_a_part_that_is_being_snapshotted_already_is_waited_for_and_not_adopted(
    sharded: Any, at_point: AtPoint
) -> None:
    part = sharded.part("shard0")
    with one_part_held_up(at_point):
        before = sharded.installation.request_snapshot(part)
        job = job_id(JobKind.SNAPSHOT, before.id)
        sharded.installation.wait_until(lambda: sharded.catalog.jobs.find(job).step == "lock")
        asked = sharded.request()
        sharded.installation.wait_until(lambda: len(sharded.part_snapshots(asked)) == 2)
        assert part.id not in {snapshot.cluster_id for snapshot in sharded.part_snapshots(asked)}
    done = sharded.wait_for(asked)

    assert before.id not in {taken.snapshot_id for taken in done.parts}
    (own,) = [snapshot for snapshot in sharded.part_snapshots(done) if snapshot.cluster_id == part.id]
    assert own.created > before.created
    assert sharded.catalog.snapshots.find(before.id).cluster_snapshot_id is None


def test_a_migration_that_does_not_end_is_waited_for_and_then_told(
    sharded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sharded.settings, "cluster_snapshot.migration_wait_seconds", 0.5)
    # What a shard writes there while it gives a range away.
    coordinators = sharded.lab.admin_client("shard1").config.migrationCoordinators
    coordinators.insert_one({"_id": "a move under way", "donorShardId": "shard1"})
    try:
        done = sharded.take()
    finally:
        coordinators.delete_one({"_id": "a move under way"})

    assert done.is_possibly_inconsistent
    assert "snapshot.migration_running" in sharded.kinds(done)
    sharded.wait_until_put_back()


def test_a_part_that_fails_fails_the_whole_and_the_others_are_let_go(sharded: Any, at_point: AtPoint) -> None:
    with one_part_held_up(at_point):
        asked = sharded.request()
        sharded.installation.wait_until(lambda: len(sharded.part_snapshots(asked)) == 3)
        held_up = sharded.installation.wait_until(
            lambda: [s for s in sharded.part_snapshots(asked) if is_at_lock(sharded, s)]
        )[0]
        sharded.catalog.snapshots.update(held_up.id, state=FAILED, error="its head is gone")
        failed = sharded.wait_for(asked, FAILED)

    assert failed.message.endswith("failed: its head is gone")
    assert "snapshot.failed" in sharded.kinds(asked)
    sharded.wait_until_put_back()
    sharded.installation.wait_until(
        lambda: all(snapshot.state is not IN_PROGRESS for snapshot in sharded.part_snapshots(asked))
    )
    assert sharded.take().state is COMPLETE


def is_at_lock(sharded: Any, snapshot: Any) -> bool:
    job = sharded.catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))
    return job is not None and job.step == "lock"


def test_parts_that_do_not_go_on_do_not_keep_the_balancer_off_for_ever(
    sharded: Any, at_point: AtPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sharded.settings, "cluster_snapshot.wait_minutes", 0.03)
    with one_part_held_up(at_point):
        asked = sharded.request()
        failed = sharded.wait_for(asked, FAILED)
        assert "no part's snapshot went on" in failed.message
        sharded.wait_until_put_back()
    sharded.installation.wait_until(
        lambda: all(snapshot.state is not IN_PROGRESS for snapshot in sharded.part_snapshots(asked))
    )


def test_an_attempt_that_failed_put_the_balancer_back_so_the_next_one_says_what_may_have_moved(
    sharded: Any, at_point: AtPoint
) -> None:
    seen: list[str] = []

    def fail() -> None:
        raise Unreachable("a server did not answer")

    at_point("cluster_snapshot.parts_requested", fail)
    at_point("cluster_snapshot.balancer_restored", lambda: seen.append(sharded.balancer_mode()))
    done = sharded.take()

    assert seen == ["full"]
    assert done.is_possibly_inconsistent
    assert len(sharded.part_snapshots(done)) == 3
    sharded.wait_until_put_back()


def test_a_balancer_that_could_not_be_put_back_is_as_soon_as_it_can(
    sharded: Any, at_point: AtPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_reachable = threading.Event()
    restore = balancer_hold.sharding.restore_balancer

    def fail_at_first(config: Any, found: BalancerMode) -> None:
        if not is_reachable.is_set():
            raise Unreachable("the config server did not answer")
        restore(config, found)

    monkeypatch.setattr(balancer_hold.sharding, "restore_balancer", fail_at_first)
    asked: list[Any] = []
    at_point(
        "cluster_snapshot.time_noted", lambda: sharded.catalog.jobs.request_cancel(sharded.job(asked[0]))
    )
    with one_part_held_up(at_point):
        asked.append(sharded.request())
    sharded.wait_for(asked[0], FAILED)
    told = sharded.installation.events(sharded.cluster, "balancer.left_off")
    assert len(told) == 1
    assert sharded.balancer_mode() == "off"

    is_reachable.set()
    sharded.wait_until_put_back()
    sharded.installation.wait_until(
        lambda: sharded.installation.events(sharded.cluster, "balancer.put_back"), what="the event"
    )


def test_a_worker_that_lost_its_lease_leaves_the_balancer_to_the_next_one(
    sharded: Any, at_point: AtPoint
) -> None:
    jobs = sharded.catalog.jobs._jobs
    asked: list[Any] = []
    lost = threading.Event()

    def lose() -> None:
        stolen = {"lease_worker_id": "another", "lease_until": SystemClock().now() + timedelta(hours=1)}
        jobs.update_one({"_id": sharded.job(asked[0])}, {"$set": stolen})
        lost.set()

    at_point("cluster_snapshot.time_noted", lose)
    with one_part_held_up(at_point):
        asked.append(sharded.request())
    require(lost.wait(WAIT_SECONDS))
    # The thread of the run that lost it is over once its name is gone.
    sharded.installation.wait_until(
        lambda: sharded.job(asked[0]) not in {thread.name for thread in threading.enumerate()}
    )
    mode = sharded.balancer_mode()
    jobs.update_one(
        {"_id": sharded.job(asked[0])},
        {"$set": {"state": JobState.QUEUED.value, "lease_worker_id": None, "lease_until": None}},
    )
    done = sharded.wait_for(asked[0])

    assert mode == "off"
    assert not done.is_possibly_inconsistent
    sharded.wait_until_put_back()


def test_a_job_that_ended_its_worker_too_often_is_given_up_with_the_balancer_put_back(
    sharded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = sharded.catalog

    def enqueue(job: Any) -> None:
        """As after the last death: the job waits, the balancer is off, and the hold tells how it was found."""
        found = BalancerHold(
            id=job.cluster_id, holder=job.id, found=BalancerMode.FULL, since=SystemClock().now()
        )
        if catalog.balancer_holds.take(found):
            sharded.lab.stop_balancer()
            catalog.jobs._jobs.insert_one(to_document(replace(job, attempts=ATTEMPTS_MAX)))

    monkeypatch.setattr(catalog.jobs, "enqueue", enqueue)
    failed = sharded.wait_for(sharded.request(), FAILED)

    assert "workers ended" in failed.message
    sharded.wait_until_put_back()


def test_under_transfers_and_migrations_a_snapshot_has_a_consistent_point_that_every_part_reaches(
    sharded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is open where an archive begins is looked up by its upkeep.
    monkeypatch.setitem(sharded.settings, "oplog.upkeep_seconds", 1.0)
    context = sharded.installation.context
    bank = Bank(sharded.lab)
    try:
        with bank, BackgroundBank(bank) as running:
            running.wait_for(transfers=5, moves=1)
            done = sharded.take()
            running.wait_for(transfers=running.transfers + 5)
        sharded.installation.wait_until(
            lambda: all(archived(context, part) >= done.cluster_time for part in sharded.parts),
            what="all archives to cover the cluster time",
        )
        point = sharded.installation.wait_until(
            lambda: found_point(
                find_consistent_point(sharded.parts, at_most=done.cluster_time, context=context)
            ),
            what="a consistent point",
        )
    finally:
        sharded.lab.drop_database(BANK)

    assert not done.is_possibly_inconsistent
    bases = [snapshot.stable_timestamp for snapshot in sharded.part_snapshots(done)]
    assert max(bases) <= point.timestamp <= done.cluster_time


def found_point(found: Any) -> ConsistentPoint | None:
    return found if isinstance(found, ConsistentPoint) else None


def archived(context: Any, part: Any) -> Any:
    store = context.repository.replica_set(part.id, part.replica_set_name)
    return OplogArchive(store).newest().last.timestamp
