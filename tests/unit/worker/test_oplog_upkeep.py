"""The upkeep of oplog archives, on a real catalog and a repository in memory: what goes, what is merged, what is told."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ebbtide.backup.archive_gaps import ask_for_base, record_gaps
from ebbtide.backup.archive_wait import ArchiveBehind, wait_until_archived
from ebbtide.catalog.catalog import Catalog
from ebbtide.domain.archive_state import ArchiveState
from ebbtide.domain.automated_restore import AutomatedRestore, RestoreScope, TargetState
from ebbtide.domain.cluster import Cluster, ClusterState, Head, HeadState
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId, new_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import NEW, RestoreJob
from ebbtide.domain.schedule import default_schedule
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.draft import SliceDraft
from ebbtide.repository.prune import inspect, plan_prune
from ebbtide.repository.repository import Repository
from ebbtide.settings import resolve_settings
from ebbtide.testing.oplog import archived_between, make_entry, make_optime
from ebbtide.testing.storage import MemoryStorage
from ebbtide.worker.oplog_upkeep import OplogUpkeep

BEGIN = datetime(2026, 5, 1, tzinfo=UTC)
BEGIN_SECONDS = int(BEGIN.timestamp())
CLUSTER = Cluster(
    id=ClusterId("5f0000000000000000000002"),
    group_id=GroupId("5f0000000000000000000001"),
    name="shop",
    replica_set_name="rs0",
    uri="mongodb://127.0.0.1:27017",
    username=None,
    auth_source="admin",
    password=None,
    keyfile=None,
    mongod_version="6.0.5",
    fcv="6.0",
    state=ClusterState.ACTIVE,
    created=BEGIN,
    head_host="127.0.0.1",
    head_port=27018,
)


class HandClock:
    """Time passes as the test says, and while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class Scene:
    """One cluster with an archive of an entry each second, ten to a slice."""

    def __init__(self, catalog: Catalog, **flags: Any) -> None:
        self.catalog = catalog
        self.clock = HandClock()
        self.storage = MemoryStorage()
        self.stopping = threading.Event()
        repository = Repository.create(self.storage, now=BEGIN)
        self.archive = OplogArchive(repository.replica_set(CLUSTER.id, CLUSTER.replica_set_name))
        settings = resolve_settings(
            flags={"oplog.merge_slices": 4, "oplog.merge_grace_minutes": 10, **flags},
            environment={},
            file=None,
        )
        self.context: Any = SimpleNamespace(
            catalog=catalog, clock=self.clock, repository=repository, settings=settings, worker_id="w"
        )
        self.upkeep = OplogUpkeep(self.context, self.stopping)
        catalog.clusters.insert(CLUSTER)
        self.state = catalog.archives.begin(ArchiveState(id=CLUSTER.id, observed=BEGIN))

    def write(self, first: int, last: int, *, begins: bool = False) -> None:
        """Slices of ten entries; seconds count from BEGIN."""
        for start in range(first, last, 10):
            before = None if begins and start == first else make_optime(BEGIN_SECONDS + start - 1)
            draft = SliceDraft(predecessor=before, opened=0.0)
            draft.add(b"".join(make_entry(BEGIN_SECONDS + second) for second in range(start, start + 10)))
            self.archive.put(*draft.compress())

    def snapshot(self, number: int, at: int, **changes: Any) -> Snapshot:
        found = Snapshot(
            id=SnapshotId(f"{number:024x}"),
            group_id=CLUSTER.group_id,
            cluster_id=CLUSTER.id,
            cluster_name="shop",
            replica_set_name="rs0",
            created=BEGIN + timedelta(seconds=at),
            state=SnapshotState.COMPLETE,
            stable_timestamp=OplogTimestamp(BEGIN_SECONDS + at, 1),
            applied_timestamp=OplogTimestamp(BEGIN_SECONDS + at, 1),
        )
        self.catalog.snapshots.insert(replace(found, **changes))
        return found

    def pin(self, base: SnapshotId) -> None:
        """A point-in-time restore job under way."""
        job = RestoreJob(
            id=RestoreJobId(new_id()),
            group_id=CLUSTER.group_id,
            cluster_id=CLUSTER.id,
            cluster_name="shop",
            replica_set_name="rs0",
            snapshot_id=base,
            created=BEGIN,
            status=NEW[0],
            delivery_status=NEW[1],
            timestamp=OplogTimestamp(BEGIN_SECONDS + 12, 1),
            expiration_hours=1,
            max_downloads=1,
            requested_by="test",
            point_in_time=True,
            limit=OplogTimestamp(BEGIN_SECONDS + 12, 1),
        )
        self.catalog.restore_jobs.insert(job)

    def keep_for(self, *, hours: int) -> None:
        schedule = default_schedule(cluster_id=CLUSTER.id, group_id=CLUSTER.group_id, registered=BEGIN)
        self.catalog.schedules.put(replace(schedule, point_in_time_window_hours=hours))

    def firsts(self) -> list[int]:
        """The first second of each slice, counted from BEGIN."""
        return [s.first.timestamp.seconds - BEGIN_SECONDS for s in self.archive.slices()]

    def event_kinds(self) -> list[str]:
        found = self.catalog.events.page(CLUSTER.group_id, cluster_id=CLUSTER.id, skip=0, limit=100)
        return [event.kind for event in reversed(found)]


@pytest.fixture
def scene(catalog: Catalog) -> Any:
    yield Scene(catalog)
    catalog.close()


def test_what_lies_before_the_window_goes_and_its_base_keeps_the_rest(scene: Scene) -> None:
    scene.write(0, 30, begins=True)
    scene.snapshot(1, 15)
    scene.keep_for(hours=0)
    scene.clock.seconds = 25.0
    scene.upkeep.run()
    assert scene.firsts() == [10, 20]
    # Again: there is nothing more to do.
    scene.upkeep.run()
    assert scene.firsts() == [10, 20]
    found = scene.catalog.archives.find(CLUSTER.id)
    assert found is not None
    assert found.oldest == make_optime(BEGIN_SECONDS + 10)


def test_a_restore_job_under_way_keeps_what_it_needs(scene: Scene) -> None:
    scene.write(0, 30, begins=True)
    base = scene.snapshot(1, 5)
    scene.snapshot(2, 25)
    scene.keep_for(hours=0)
    scene.clock.seconds = 29.0
    scene.pin(base.id)
    scene.upkeep.run()
    assert scene.firsts() == [0, 10, 20]


def test_a_restore_job_on_a_base_that_nobody_knows_keeps_everything(scene: Scene) -> None:
    scene.write(0, 30, begins=True)
    scene.snapshot(2, 25)
    scene.keep_for(hours=0)
    scene.clock.seconds = 29.0
    scene.pin(SnapshotId("f" * 24))
    scene.upkeep.run()
    assert scene.firsts() == [0, 10, 20]


@pytest.mark.parametrize("is_active", [True, False])
def test_what_undoing_a_restore_takes_stays_until_its_time(scene: Scene, is_active: bool) -> None:
    scene.write(0, 40, begins=True)
    base = scene.snapshot(1, 15)
    scene.snapshot(2, 35)
    scene.keep_for(hours=0)
    restore = AutomatedRestore(
        id=RestoreJobId(new_id()),
        target_group_id=CLUSTER.group_id,
        target_cluster_id=CLUSTER.id,
        target_name=CLUSTER.name,
        scope=RestoreScope(),
        requested=BEGIN,
        is_active=is_active,
        target_state=TargetState.LOADING,
        undo_point=OplogTimestamp(BEGIN_SECONDS + 20, 1),
        undo_base_id=base.id,
        undo_until=BEGIN + timedelta(hours=72),
    )
    scene.catalog.automated_restores.insert(restore)
    scene.clock.seconds = 72 * 3600 - 1.0
    scene.upkeep.run()
    assert scene.firsts() == [10, 20, 30]
    scene.clock.seconds += 1.0
    scene.upkeep.run()
    # A restore that is still under way may touch its target at any moment.
    assert scene.firsts() == ([10, 20, 30] if is_active else [30])


def test_small_slices_are_merged_and_their_parts_go_after_the_grace(scene: Scene) -> None:
    scene.write(0, 50, begins=True)
    (covered,) = scene.archive.ranges()
    entries = archived_between(scene.archive, covered)
    scene.upkeep.run()
    assert len(scene.archive.slices()) == 6
    scene.clock.seconds = 599.0
    scene.upkeep.run()
    assert len(scene.archive.slices()) == 6
    scene.clock.seconds = 601.0
    scene.upkeep.run()
    assert scene.firsts() == [0]
    assert scene.archive.ranges() == (covered,)
    assert archived_between(scene.archive, covered) == entries


def test_a_damaged_slice_is_told_once_and_nothing_is_lost_by_it(scene: Scene) -> None:
    scene.write(0, 50, begins=True)
    name = scene.archive.object_name(scene.archive.slices()[2])
    scene.storage.objects[name] = scene.storage.objects[name][:-1] + b"\0"
    for _ in range(3):
        scene.upkeep.run()
    assert scene.event_kinds() == ["oplog.damaged"]
    assert len(scene.archive.slices()) == 5


def test_prune_knows_nothing_of_slices(scene: Scene) -> None:
    scene.write(0, 50, begins=True)
    inspection = inspect(scene.archive.store, remove=(), check=lambda: None)
    plan = plan_prune(inspection, now=BEGIN, grace=timedelta(0))
    assert (plan.removals, plan.waiting_objects) == ((), 0)


def test_a_stop_ends_the_upkeep_between_two_objects(scene: Scene) -> None:
    scene.write(0, 50, begins=True)
    scene.stopping.set()
    scene.upkeep.run()
    assert len(scene.archive.slices()) == 5


def follow(scene: Scene) -> None:
    scene.catalog.heads.insert(
        Head(
            id=CLUSTER.id,
            state=HeadState.FOLLOWING,
            state_since=BEGIN,
            host="127.0.0.1",
            port=27018,
            dbpath="x",
            updated=BEGIN,
        )
    )


def test_a_gap_is_told_once_and_has_one_snapshot_taken(scene: Scene) -> None:
    scene.write(0, 20, begins=True)
    scene.write(40, 60)
    follow(scene)
    scene.snapshot(1, 5)
    scene.clock.seconds = 60.0
    state = record_gaps(CLUSTER, scene.state, scene.archive, reason="because", context=scene.context)
    assert state == record_gaps(CLUSTER, state, scene.archive, reason="other", context=scene.context)
    (gap,) = state.gaps
    assert (gap.after, gap.before) == (make_optime(BEGIN_SECONDS + 19), make_optime(BEGIN_SECONDS + 40))
    assert gap.reason == "because"
    scene.clock.seconds = 61.0
    for _ in range(3):
        ask_for_base(CLUSTER, state, scene.context)
    assert scene.event_kinds() == ["oplog.gap", "snapshot.requested"]


@pytest.mark.parametrize("at", [45, 40])
def test_a_snapshot_behind_the_gap_is_base_enough(scene: Scene, at: int) -> None:
    scene.write(0, 20, begins=True)
    scene.write(40, 60)
    follow(scene)
    scene.snapshot(1, at)
    scene.clock.seconds = 60.0
    state = record_gaps(CLUSTER, scene.state, scene.archive, reason="", context=scene.context)
    ask_for_base(CLUSTER, state, scene.context)
    assert scene.event_kinds() == ["oplog.gap"]


def test_a_base_that_failed_is_asked_for_again(scene: Scene) -> None:
    scene.write(0, 20, begins=True)
    scene.write(40, 60)
    follow(scene)
    scene.clock.seconds = 60.0
    state = record_gaps(CLUSTER, scene.state, scene.archive, reason="", context=scene.context)
    scene.clock.seconds = 61.0
    ask_for_base(CLUSTER, state, scene.context)
    (first,) = scene.catalog.snapshots.list_in_progress()
    scene.catalog.snapshots.update(first.id, state=SnapshotState.FAILED)
    ask_for_base(CLUSTER, state, scene.context)
    assert scene.catalog.snapshots.list_in_progress() == []
    scene.clock.seconds = 61.0 + 15 * 60
    ask_for_base(CLUSTER, state, scene.context)
    (second,) = scene.catalog.snapshots.list_in_progress()
    assert second.id != first.id


def test_without_a_head_the_base_waits(scene: Scene) -> None:
    scene.write(0, 20, begins=True)
    scene.write(40, 60)
    state = record_gaps(CLUSTER, scene.state, scene.archive, reason="", context=scene.context)
    ask_for_base(CLUSTER, state, scene.context)
    assert scene.event_kinds() == ["oplog.gap"]


def test_waiting_for_the_archive_ends_once_it_is_there_or_time_is_over(scene: Scene) -> None:
    wanted = OplogTimestamp(BEGIN_SECONDS + 50, 1)
    reached = make_optime(BEGIN_SECONDS + 51)

    def archive_then() -> None:
        """Somebody archives while we wait."""
        if scene.clock.seconds > 5.0:
            scene.catalog.archives.update(CLUSTER.id, archived_to=reached)

    found = wait_until_archived(
        scene.catalog, CLUSTER.id, wanted, clock=scene.clock, check=archive_then, seconds=30.0
    )
    assert found == reached
    state = scene.catalog.archives.find(CLUSTER.id)
    assert state is not None
    assert state.wanted == wanted

    later = OplogTimestamp(BEGIN_SECONDS + 99, 1)
    scene.catalog.archives.update(CLUSTER.id, message="the repository is full")
    with pytest.raises(ArchiveBehind, match="the repository is full"):
        wait_until_archived(
            scene.catalog, CLUSTER.id, later, clock=scene.clock, check=lambda: None, seconds=30.0
        )
