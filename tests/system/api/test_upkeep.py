"""What happens by itself, on a real catalog and a real repository: schedule, retention, prune, and who gives way."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ebbtide.backup.context import BackupContext
from ebbtide.backup.prune_guard import PruneGuard, PruneInterrupted, wait_until_not_pruned
from ebbtide.backup.requesting import enqueue_snapshot
from ebbtide.backup.snapshot_changes import (
    CannotUndelete,
    UndoTakesIt,
    delete_snapshot,
    undelete_snapshot,
)
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.automated_restore import AutomatedRestore, RestoreScope, TargetState
from ebbtide.domain.cluster import ClusterState, Head, HeadState
from ebbtide.domain.download import Transfer
from ebbtide.domain.ids import RestoreJobId, new_id
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.progress import NoProgress
from ebbtide.domain.prune_run import PruneRun, PruneState
from ebbtide.domain.restore_job import DeliveryStatus
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import LeaseLost
from ebbtide.repository.repository import Repository, never_cancelled
from ebbtide.repository.verify import verify_snapshot
from ebbtide.settings import resolve_settings
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.worker.housekeeping import Housekeeping
from ebbtide.worker.pruning import Pruning
from ebbtide.worker.scheduler import Scheduler

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SETTINGS = {
    "repository.delete_delay_hours": 24.0,
    "repository.prune_grace_hours": 0.0,
    "repository.prune_every_hours": 0.0,
}


@pytest.fixture
def upkeep(start_service: Callable[..., Any]) -> Iterator[Any]:
    """A service of its own for each test: these move its clock by days."""
    service = start_service()
    yield service
    service.clock.ahead = timedelta(0)


@pytest.fixture
def context(upkeep: Any, tmp_path: Path) -> BackupContext:
    return make_context(upkeep, tmp_path, worker_id="one")


def make_context(service: Any, directory: Path, *, worker_id: str) -> BackupContext:
    return BackupContext(
        settings=resolve_settings(flags=SETTINGS, environment={}, file=None),
        directory=DataDirectory(directory),
        catalog=service.catalog,
        service_key=service.service_key,
        clock=service.clock,
        repository=Repository.open(DirectoryStorage(service.repository_path)),
        worker_id=worker_id,
    )


def insert_head(service: Any, state: HeadState = HeadState.FOLLOWING) -> None:
    now = service.clock.now()
    service.catalog.heads.insert(
        Head(
            id=service.cluster.id,
            state=state,
            state_since=now,
            host="h",
            port=1,
            dbpath="x",
            updated=now,
            lease_worker_id="one",
        )
    )


def set_head(service: Any, state: HeadState) -> None:
    service.catalog.heads.update(service.cluster.id, worker_id="one", now=service.clock.now(), state=state)


def in_progress(service: Any) -> list[Snapshot]:
    found: list[Snapshot] = service.catalog.snapshots.list_in_progress()
    return found


def complete(service: Any, snapshot: Snapshot) -> None:
    service.catalog.snapshots.update(snapshot.id, state=SnapshotState.COMPLETE)


def kinds(service: Any) -> list[str]:
    events = service.catalog.events.page(service.group.id, cluster_id=None, skip=0, limit=500)
    return [event.kind for event in events]


def state_of(service: Any, snapshot: Snapshot) -> SnapshotState:
    found: SnapshotState = service.catalog.snapshots.find(snapshot.id).state
    return found


# --- schedule -------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_asked_for_at_each_slot_and_once(upkeep: Any) -> None:
    insert_head(upkeep)
    scheduler = Scheduler(upkeep.catalog, upkeep.clock)
    scheduler.look()
    assert in_progress(upkeep) == []
    for slot in range(1, 4):
        upkeep.clock.ahead = slot * 6 * HOUR
        for _ in range(3):
            # Another worker, or this one after a restart, remembers nothing else.
            Scheduler(upkeep.catalog, upkeep.clock).look()
        (snapshot,) = in_progress(upkeep)
        assert snapshot.scheduled_for is not None
        assert timedelta(0) <= snapshot.created - snapshot.scheduled_for < timedelta(minutes=2)
        assert upkeep.catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id)) is not None
        complete(upkeep, snapshot)
        scheduler.look()
        assert in_progress(upkeep) == []


def test_what_was_missed_is_told_once_and_made_up_once(upkeep: Any) -> None:
    insert_head(upkeep, HeadState.SYNCING)
    scheduler = Scheduler(upkeep.catalog, upkeep.clock)
    upkeep.clock.ahead = 6 * HOUR + timedelta(minutes=1)
    scheduler.look()
    assert "schedule.missed" not in kinds(upkeep)
    upkeep.clock.ahead = 3 * DAY + HOUR
    scheduler.look()
    scheduler.look()
    assert kinds(upkeep).count("schedule.missed") == 1
    assert in_progress(upkeep) == []
    set_head(upkeep, HeadState.FOLLOWING)
    scheduler.look()
    (snapshot,) = in_progress(upkeep)
    complete(upkeep, snapshot)
    scheduler.look()
    assert in_progress(upkeep) == []


def test_a_paused_cluster_misses_nothing(upkeep: Any) -> None:
    insert_head(upkeep, HeadState.SYNCING)
    upkeep.catalog._database.clusters.update_one({"_id": upkeep.cluster.id}, {"$set": {"is_paused": True}})
    upkeep.clock.ahead = DAY
    Scheduler(upkeep.catalog, upkeep.clock).look()
    assert "schedule.missed" not in kinds(upkeep)


def test_a_removed_cluster_gets_no_snapshots(upkeep: Any) -> None:
    insert_head(upkeep)
    upkeep.catalog.clusters.set_state(upkeep.cluster.id, ClusterState.REMOVING)
    upkeep.clock.ahead = DAY
    Scheduler(upkeep.catalog, upkeep.clock).look()
    assert in_progress(upkeep) == []


# --- retention ------------------------------------------------------------------------------------------------------


def test_retention_deletes_what_is_past_its_time_but_the_last_good_one(
    upkeep: Any, context: BackupContext
) -> None:
    now = upkeep.clock.now()
    old = upkeep.new_snapshot(expires=now - HOUR)
    kept = upkeep.new_snapshot(do_not_delete=True)
    needed = upkeep.new_snapshot(expires=now - HOUR)
    upkeep.ready_job(needed, archive_bytes=1000)
    last = upkeep.new_snapshot(expires=now - HOUR)
    Housekeeping(context).look()
    assert [state_of(upkeep, s) for s in (old, kept, needed, last)] == [SnapshotState.DELETED] + [
        SnapshotState.COMPLETE
    ] * 3
    assert kinds(upkeep).count("snapshot.expired") == 1
    # Once its link is over, it goes too.
    upkeep.clock.ahead = 2 * HOUR
    Housekeeping(context).look()
    assert state_of(upkeep, needed) is SnapshotState.DELETED
    # The last good one stays also when the cluster is not backed up any more: a person deletes it, or nobody.
    upkeep.catalog.clusters.set_state(upkeep.cluster.id, ClusterState.REMOVED)
    Housekeeping(context).look()
    assert [state_of(upkeep, s) for s in (kept, last)] == [SnapshotState.COMPLETE] * 2


def restored_into(service: Any, base: Snapshot, *, until: datetime) -> AutomatedRestore:
    """A restore into the cluster that is over, and can be undone on that base until then."""
    restore = AutomatedRestore(
        id=RestoreJobId(new_id()),
        target_group_id=service.group.id,
        target_cluster_id=service.cluster.id,
        target_name=service.cluster.name,
        scope=RestoreScope(),
        requested=service.clock.now(),
        is_active=False,
        target_state=TargetState.RESTORED,
        undo_point=base.applied_timestamp,
        undo_base_id=base.id,
        undo_until=until,
    )
    service.catalog.automated_restores.insert(restore)
    return restore


def test_the_base_of_an_undo_point_outlives_its_time(upkeep: Any, context: BackupContext) -> None:
    now = upkeep.clock.now()
    base, other = upkeep.new_snapshot(expires=now), upkeep.new_snapshot(expires=now)
    upkeep.new_snapshot()
    restored_into(upkeep, base, until=now + 3 * DAY)
    Housekeeping(context).look()
    assert [state_of(upkeep, s) for s in (base, other)] == [SnapshotState.COMPLETE, SnapshotState.DELETED]
    upkeep.clock.ahead = 3 * DAY
    Housekeeping(context).look()
    assert state_of(upkeep, base) is SnapshotState.DELETED


def test_what_is_long_past_is_forgotten(upkeep: Any, context: BackupContext) -> None:
    job = upkeep.new_job(upkeep.new_snapshot())
    ended = make_transfer(upkeep, job, ended=upkeep.clock.now())
    running = make_transfer(upkeep, job, ended=None)
    before = len(upkeep.catalog.events.page_of_all(skip=0, limit=100))
    assert before > 0  # that of the restore job's request

    upkeep.clock.ahead = 399 * DAY
    Housekeeping(context).look()
    assert len(upkeep.catalog.events.page_of_all(skip=0, limit=100)) >= before
    assert len(upkeep.catalog.transfers.list_for_job(job.id)) == 2

    upkeep.clock.ahead = 401 * DAY
    Housekeeping(context).look()
    times = [event.time for event in upkeep.catalog.events.page_of_all(skip=0, limit=100)]
    assert [time for time in times if time < upkeep.clock.now() - 400 * DAY] == []
    assert [running.id] == [transfer.id for transfer in upkeep.catalog.transfers.list_for_job(job.id)]
    assert ended.id != running.id


def make_transfer(service: Any, job: Any, *, ended: datetime | None) -> Transfer:
    now = service.clock.now()
    transfer = Transfer(
        id=new_id(), job_id=job.id, first=0, end=10, sent_bytes=1, started=now, updated=now, ended=ended
    )
    service.catalog.transfers.insert(transfer)
    return transfer


def test_one_worker_keeps_house(upkeep: Any, context: BackupContext, tmp_path: Path) -> None:
    Housekeeping(context).look()
    old = upkeep.new_snapshot(expires=upkeep.clock.now())
    upkeep.new_snapshot()
    other = make_context(upkeep, tmp_path, worker_id="two")
    Housekeeping(other).look()
    assert state_of(upkeep, old) is SnapshotState.COMPLETE
    upkeep.catalog.leases.release_all("one")
    Housekeeping(other).look()
    assert state_of(upkeep, old) is SnapshotState.DELETED


def test_the_base_of_an_undo_point_is_not_deleted_by_anybody_before_its_time(upkeep: Any) -> None:
    base = stored(upkeep, 1)
    stored(upkeep, 2)
    until = upkeep.clock.now() + 3 * DAY
    restore = restored_into(upkeep, base, until=until)
    with pytest.raises(UndoTakesIt, match=restore.id) as refused:
        delete(upkeep, base)
    assert f"snapshots expire {base.cluster_name} {base.id} --at" in str(refused.value)
    answer = upkeep.call("DELETE", f"{upkeep.base}/snapshots/{base.id}")
    assert (answer.status_code, answer.json()["errorCode"]) == (409, "SNAPSHOT_NEEDED_TO_UNDO")
    assert state_of(upkeep, base) is SnapshotState.COMPLETE
    upkeep.clock.ahead = 3 * DAY
    delete(upkeep, base)
    assert state_of(upkeep, base) is SnapshotState.DELETED


# --- prune ----------------------------------------------------------------------------------------------------------


def prune(service: Any, context: BackupContext, *, dry_run: bool = False) -> PruneRun:
    run = PruneRun(
        id=new_id(),
        requested=service.clock.now(),
        requested_by="test",
        dry_run=dry_run,
        state=PruneState.QUEUED,
    )
    service.catalog.prune_runs.insert(run)
    Pruning(context, threading.Event()).run(run)
    found: PruneRun = service.catalog.prune_runs.find(run.id)
    return found


def delete(service: Any, snapshot: Snapshot) -> None:
    delete_snapshot(snapshot, delay=DAY, catalog=service.catalog, clock=service.clock, actor="test")


def stored(service: Any, seed: int) -> Snapshot:
    snapshot: Snapshot = service.stored_snapshot({"a.wt": bytes([seed]) * 400_000, "b.wt": b"same" * 9000})
    return snapshot


def has_manifest(context: BackupContext, snapshot: Snapshot) -> bool:
    store = context.repository.replica_set(snapshot.cluster_id, snapshot.replica_set_name)
    return store.has_snapshot(snapshot.id)


def require_sound(context: BackupContext, snapshot: Snapshot) -> None:
    store = context.repository.replica_set(snapshot.cluster_id, snapshot.replica_set_name)
    damage = verify_snapshot(
        store,
        store.load_manifest(snapshot.id),
        threads=1,
        progress=NoProgress(),
        check_cancelled=never_cancelled,
    )
    assert damage == []


def test_prune_keeps_the_base_of_an_undo_point_that_was_deleted_while_that_was_recorded(
    upkeep: Any, context: BackupContext
) -> None:
    base = stored(upkeep, 1)
    stored(upkeep, 2)
    delete(upkeep, base)
    restored_into(upkeep, base, until=upkeep.clock.now() + 3 * DAY)
    upkeep.clock.ahead = 2 * DAY
    assert prune(upkeep, context).reports[0].removed_manifests == 0
    require_sound(context, base)
    upkeep.clock.ahead = 3 * DAY
    assert prune(upkeep, context).reports[0].removed_manifests == 1


def test_prune_waits_for_the_delay_and_then_nothing_comes_back(upkeep: Any, context: BackupContext) -> None:
    doomed, kept = stored(upkeep, 1), stored(upkeep, 2)
    delete(upkeep, doomed)
    upkeep.clock.ahead = DAY - HOUR
    early = prune(upkeep, context)
    assert (early.state, early.reports[0].removed_bytes) == (PruneState.DONE, 0)
    undelete_snapshot(
        upkeep.catalog.snapshots.find(doomed.id), catalog=upkeep.catalog, clock=upkeep.clock, actor="test"
    )
    delete(upkeep, doomed)
    upkeep.clock.ahead = 2 * DAY
    dry = prune(upkeep, context, dry_run=True)
    assert has_manifest(context, doomed)
    done = prune(upkeep, context)
    assert (done.state, done.reports[0].snapshots) == (PruneState.DONE, 1)
    assert done.reports[0].removed_manifests == 1
    assert done.reports[0].removed_packs > 0
    # What a dry run foretold is what came.
    assert dry.reports == done.reports
    assert not has_manifest(context, doomed)
    require_sound(context, kept)
    with pytest.raises(CannotUndelete):
        undelete_snapshot(doomed, catalog=upkeep.catalog, clock=upkeep.clock, actor="test")
    assert "prune.done" in kinds(upkeep)
    assert prune(upkeep, context).reports[0].removed_bytes == 0


def test_a_snapshot_that_is_being_taken_goes_first(upkeep: Any, context: BackupContext) -> None:
    doomed = stored(upkeep, 1)
    delete(upkeep, doomed)
    upkeep.clock.ahead = 2 * DAY
    taking = upkeep.new_snapshot(state=SnapshotState.IN_PROGRESS)
    start_job(upkeep, taking)
    run = prune(upkeep, context)
    assert (run.state, run.reports[0].interrupted) == (PruneState.DONE, True)
    assert has_manifest(context, doomed)
    upkeep.catalog.jobs.finish(job_id(JobKind.SNAPSHOT, taking.id), worker_id="two", state=JobState.DONE)
    assert prune(upkeep, context).reports[0].removed_manifests == 1


def start_job(service: Any, snapshot: Snapshot) -> None:
    enqueue_snapshot(snapshot, catalog=service.catalog, clock=service.clock)
    now = service.clock.now()
    job = service.catalog.jobs.claim(
        worker_id="two", now=now, until=now + HOUR, snapshot_cluster_ids=[service.cluster.id]
    )
    assert job is not None


def test_restores_and_downloads_in_flight_pin_their_snapshot(upkeep: Any, context: BackupContext) -> None:
    preparing, sending, broken = stored(upkeep, 1), stored(upkeep, 2), stored(upkeep, 3)
    upkeep.new_job(preparing)
    links = [upkeep.ready_job(s, hours=100) for s in (sending, broken)]
    for snapshot in (preparing, sending, broken):
        delete(upkeep, snapshot)
    assert {upkeep.job(job.id).delivery_status for job in links} == {DeliveryStatus.EXPIRED}
    upkeep.clock.ahead = 2 * DAY
    now = upkeep.clock.now()
    transfer = Transfer(
        id=new_id(), job_id=links[0].id, first=0, end=1000, sent_bytes=10, started=now, updated=now
    )
    upkeep.catalog.transfers.insert(transfer)
    prune(upkeep, context)
    # The third was broken off, and its hour for resuming is over.
    assert [has_manifest(context, s) for s in (preparing, sending, broken)] == [True, True, False]
    for snapshot in (preparing, sending):
        require_sound(context, snapshot)
    upkeep.catalog.transfers.record_progress(transfer.id, sent_bytes=1000, now=now, ended=now)
    prune(upkeep, context)
    assert not has_manifest(context, sending)


def test_damage_that_hides_references_stops_the_sweep_and_is_told(
    upkeep: Any, context: BackupContext
) -> None:
    doomed, damaged = stored(upkeep, 1), stored(upkeep, 2)
    store = context.repository.replica_set(damaged.cluster_id, damaged.replica_set_name)
    store.storage.put(store.manifest_name(damaged.id), [b"rubbish"])
    delete(upkeep, doomed)
    upkeep.clock.ahead = 2 * DAY
    report = prune(upkeep, context).reports[0]
    assert (report.removed_manifests, report.removed_packs) == (1, 0)
    assert damaged.id in report.problem
    assert "prune.blocked" in kinds(upkeep)


def test_prune_runs_by_itself_and_a_run_that_was_left_is_begun_anew(
    upkeep: Any, context: BackupContext
) -> None:
    doomed = stored(upkeep, 1)
    delete(upkeep, doomed)
    upkeep.clock.ahead = 2 * DAY
    left = PruneRun(
        id=new_id(),
        requested=upkeep.clock.now(),
        requested_by="test",
        dry_run=False,
        state=PruneState.RUNNING,
    )
    upkeep.catalog.prune_runs.insert(left)
    house = Housekeeping(context)
    house.look()
    upkeep.wait_until(lambda: upkeep.catalog.prune_runs.next_unfinished() is None)
    house.stop(seconds=60)
    assert upkeep.catalog.prune_runs.find(left.id).state is PruneState.DONE
    assert not has_manifest(context, doomed)


def test_a_worker_that_stops_leaves_the_run_to_the_next(upkeep: Any, context: BackupContext) -> None:
    doomed = stored(upkeep, 1)
    delete(upkeep, doomed)
    upkeep.clock.ahead = 2 * DAY
    run = PruneRun(
        id=new_id(),
        requested=upkeep.clock.now(),
        requested_by="test",
        dry_run=False,
        state=PruneState.QUEUED,
    )
    upkeep.catalog.prune_runs.insert(run)
    stopping = threading.Event()
    stopping.set()
    Pruning(context, stopping).run(run)
    assert upkeep.catalog.prune_runs.next_unfinished() == upkeep.catalog.prune_runs.find(run.id)
    assert has_manifest(context, doomed)


# --- giving way -----------------------------------------------------------------------------------------------------


def guard_of(service: Any, worker_id: str = "one") -> PruneGuard:
    return PruneGuard(
        service.cluster.id,
        catalog=service.catalog,
        clock=service.clock,
        worker_id=worker_id,
        stopping=threading.Event(),
    )


def test_prune_gives_way_to_a_snapshot_that_begins(upkeep: Any) -> None:
    guard = guard_of(upkeep)
    guard.enter()
    guard.check()
    start_job(upkeep, upkeep.new_snapshot(state=SnapshotState.IN_PROGRESS))
    waiting = threading.Thread(
        target=wait_until_not_pruned,
        args=(upkeep.cluster.id,),
        kwargs={"catalog": upkeep.catalog, "clock": upkeep.clock, "check_cancelled": never_cancelled},
    )
    waiting.start()

    def has_given_way() -> bool:
        try:
            guard.check()
        except PruneInterrupted:
            return True
        return False

    upkeep.wait_until(has_given_way)
    assert waiting.is_alive()
    guard.leave()
    waiting.join(60)
    assert not waiting.is_alive()
    with pytest.raises(PruneInterrupted):
        guard.enter()


def test_nothing_is_removed_under_a_lease_that_ran_out(upkeep: Any) -> None:
    guard = guard_of(upkeep)
    guard.enter()
    upkeep.clock.ahead = timedelta(minutes=1)
    other = guard_of(upkeep, "two")
    other.enter()

    def is_lost() -> bool:
        try:
            guard.check()
        except LeaseLost:
            return True
        return False

    upkeep.wait_until(is_lost)
    other.check()
    with pytest.raises(PruneInterrupted):
        guard.enter()
    other.leave()
