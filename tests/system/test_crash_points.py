"""Kill the process that reaches each crash point, once each, and require that everything comes right by itself.

One service and one replica set for all. The service is started anew now and then: the supervisor waits longer
before each restart of a child that keeps dying, and those waits are not what is tested here.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from ebbtide.backup.snapshot_changes import delete_snapshot
from ebbtide.clock import SystemClock
from ebbtide.crash_points import CRASH_POINTS
from ebbtide.domain.ids import ClusterId, SnapshotId, new_id
from ebbtide.domain.prune_run import PruneRun, PruneState
from ebbtide.domain.replica_set import plan_remove_head
from ebbtide.errors import EbbtideError
from ebbtide.testing.oplog import archived_between
from ebbtide.testing.running_service import RunningService
from ebbtide.testing.service import Owner

CLUSTER_POINTS = ["cluster.recorded", "head.left", "head.files_removed", "head.started", "head.joined"]
CLUSTER_POINTS += ["head.rejoining"]
SNAPSHOT_POINTS = [name for name in CRASH_POINTS if name.startswith("snapshot.")]
PRUNE_POINTS = [name for name in CRASH_POINTS if name.startswith("prune.")]
REPLAY_POINTS = [name for name in CRASH_POINTS if name.startswith("replay.")]
RESTORE_POINTS = [name for name in CRASH_POINTS if name.startswith("restore.")]
OPLOG_POINTS = [name for name in CRASH_POINTS if name.startswith("oplog.")]
ARCHIVING_POINTS = ["oplog.slice_put", "oplog.state_recorded"]
# Visited in test_automated_restore.py, by a set that can keep writers off.
AUTOMATED_POINTS = [name for name in CRASH_POINTS if name.startswith("automated.")]
# Visited in test_hosts.py, on a mongod by itself.
HOST_POINTS = [name for name in CRASH_POINTS if name.startswith("host.")]
# Visited in test_sharded_crashes.py, by the parts of a sharded cluster.
OPEN_WORK_POINTS = [name for name in CRASH_POINTS if name.startswith("open_work.")]
CLUSTER_SNAPSHOT_POINTS = [name for name in CRASH_POINTS if name.startswith("cluster_snapshot.")]
CHECKPOINT_POINTS = [name for name in CRASH_POINTS if name.startswith("checkpoint.")]
DEATHS_MAX = 3
MERGE_SLICES = 4


class Shop:
    """The one replica set under backup, and the killing of what backs it up."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.service = owner.service
        self._deaths = 0

    def crash(self, *points: str, act: Callable[[], object]) -> None:
        """Arm `points`, `act`, and wait until a process died of each. What `act` was answered is then not known."""
        self.service.arm_crash(*points)
        try:
            act()
        except EbbtideError:
            # The api itself may have died before it answered.
            if not self.service.has_crashed():
                raise
        self.service.wait_until(self.service.has_crashed, f"crash points {points}")
        self._deaths += len(points)

    def calm_down(self) -> None:
        """Start the service anew where its children died so often that the supervisor begins to wait."""
        if self._deaths >= DEATHS_MAX:
            self.service.terminate()
            self.service.start()
            self._deaths = 0
        self.owner.wait_until_following()

    def newest_snapshot(self) -> str:
        return str(self.owner.client.list_snapshots(self.owner.group_id, self.owner.name)[0]["id"])

    def any_snapshot(self) -> str:
        """The newest snapshot; one is taken where there is none."""
        listed = self.owner.client.list_snapshots(self.owner.group_id, self.owner.name)
        return str((listed[0] if listed else self.owner.take_snapshot())["id"])

    def newest_restore(self) -> str:
        return str(self.owner.client.list_restore_jobs(self.owner.group_id, self.owner.name)[0]["id"])

    def check_head_follows(self) -> None:
        """The head is not locked, and what is written to the set reaches it."""
        assert not self.owner.is_head_locked()
        self.owner.wait_until_written_to_head()
        with self.service.catalog() as catalog:
            assert [head.lock_job_id for head in catalog.heads.list_all() if head.state != "GONE"] == [None]

    def delete_snapshot(self, snapshot_id: str) -> None:
        with self.service.catalog() as catalog:
            found = catalog.snapshots.find(SnapshotId(snapshot_id))
            if found is None:
                raise LookupError(snapshot_id)
            delete_snapshot(found, catalog=catalog, clock=SystemClock(), actor="test", delay=timedelta(0))

    def ask_for_prune(self) -> None:
        """Two runs: the first marks, the second sweeps."""
        with self.service.catalog() as catalog:
            for _ in range(2):
                catalog.prune_runs.insert(
                    PruneRun(
                        id=new_id(),
                        requested=SystemClock().now(),
                        requested_by="test",
                        dry_run=False,
                        state=PruneState.QUEUED,
                    )
                )

    def wait_until_pruned(self) -> None:
        with self.service.catalog() as catalog:
            self.service.wait_until(
                lambda: catalog.prune_runs.next_unfinished() is None, "prune to come to its end"
            )

    def keep_oplog_for(self, *, hours: int) -> None:
        with self.service.catalog() as catalog:
            cluster = catalog.clusters.find(ClusterId(self.owner.cluster()["id"]))
            if cluster is None:
                raise LookupError(self.owner.name)
            schedule = catalog.schedules.get(cluster)
            catalog.schedules.put(replace(schedule, point_in_time_window_hours=hours))

    def drop_head(self) -> None:
        """Somebody else takes the head out of the set."""
        head = self.owner.cluster()["head"]
        with self.owner.lab.client() as client:
            config = client.admin.command("replSetGetConfig")["config"]
            reduced = plan_remove_head(config, host=head["host"], port=head["port"])
            client.admin.command("replSetReconfig", reduced)

    def addresses(self) -> list[str]:
        with self.owner.lab.client() as client:
            return [m["host"] for m in client.admin.command("replSetGetConfig")["config"]["members"]]


@pytest.fixture(scope="module")
def shop(new_service: Callable[..., RunningService], new_owner: Callable[[RunningService], Owner]) -> Shop:
    # Prune shall remove what was deleted at once, and only when it is asked to.
    environment = {
        "EBBTIDE_REPOSITORY_DELETE_DELAY_HOURS": "0",
        "EBBTIDE_REPOSITORY_PRUNE_GRACE_HOURS": "0",
        "EBBTIDE_REPOSITORY_PRUNE_EVERY_HOURS": "0",
        "EBBTIDE_OPLOG_MERGE_SLICES": str(MERGE_SLICES),
        "EBBTIDE_OPLOG_MERGE_GRACE_MINUTES": "0",
        "EBBTIDE_OPLOG_UPKEEP_SECONDS": "1",
    }
    return Shop(new_owner(new_service(environment=environment).start()))


def test_every_crash_point_has_its_test() -> None:
    visited = [CLUSTER_POINTS, SNAPSHOT_POINTS, RESTORE_POINTS, REPLAY_POINTS, PRUNE_POINTS, OPLOG_POINTS]
    visited += [AUTOMATED_POINTS, HOST_POINTS, OPEN_WORK_POINTS, CLUSTER_SNAPSHOT_POINTS, CHECKPOINT_POINTS]
    assert sorted(CRASH_POINTS) == sorted(point for points in visited for point in points)


def test_registering_and_removing_go_on_after_a_crash(shop: Shop) -> None:
    owner = shop.owner
    shop.crash("cluster.recorded", act=lambda: owner.client.add_cluster(owner.group_id, owner.registration()))
    first = owner.wait_until_following()
    address = f"{first['head']['host']}:{first['head']['port']}"
    assert address in shop.addresses()

    shop.crash(
        "head.left",
        "head.files_removed",
        act=lambda: owner.client.remove_cluster(owner.group_id, owner.name),
    )
    owner.wait_until_removed()
    assert [m.address for m in owner.lab.members] == shop.addresses()
    assert list((shop.service.data / "heads").iterdir()) == []
    assert shop.service.process_ids()["head"] == []

    shop.crash(
        "head.started",
        "head.joined",
        act=lambda: owner.client.add_cluster(owner.group_id, owner.registration()),
    )
    second = owner.wait_until_following()
    assert second["id"] != first["id"]
    assert len(shop.service.process_ids()["head"]) == 1
    assert len(shop.addresses()) == 4
    shop.check_head_follows()


def test_a_head_is_put_back_after_a_crash(shop: Shop) -> None:
    shop.calm_down()

    shop.crash("head.rejoining", act=shop.drop_head)
    shop.service.wait_until(
        lambda: "head.rejoined" in {event["kind"] for event in shop.owner.events()}, "the head to be back"
    )
    shop.owner.wait_until_following()

    assert len(shop.addresses()) == 4
    shop.check_head_follows()
    with shop.service.catalog() as catalog:
        assert [head.rejoin_wanted for head in catalog.heads.list_all() if head.state != "GONE"] == [False]


@pytest.mark.parametrize("point", SNAPSHOT_POINTS)
def test_a_snapshot_finishes_after_a_crash(shop: Shop, point: str) -> None:
    shop.calm_down()
    shop.owner.write()

    shop.crash(point, act=shop.owner.start_snapshot)
    snapshot_id = shop.service.wait_until(shop.newest_snapshot, "the snapshot to be listed")
    shop.owner.wait_for_snapshot(snapshot_id)

    shop.check_head_follows()
    assert shop.owner.damage() == []


@pytest.mark.parametrize("point", ARCHIVING_POINTS)
def test_archiving_goes_on_after_a_crash(shop: Shop, point: str) -> None:
    shop.calm_down()
    shop.owner.write()

    shop.crash(point, act=shop.owner.want_archive)
    shop.owner.write()
    archive = shop.owner.wait_until_archived()

    (covered,) = archive.ranges()
    assert shop.owner.oplog_between(covered) == archived_between(archive, covered)


def test_the_archive_is_whole_whenever_its_upkeep_is_killed(shop: Shop) -> None:
    shop.calm_down()
    for _ in range(MERGE_SLICES):
        shop.owner.wait_until_archived()
    shop.crash("oplog.merged", act=shop.owner.want_archive)
    shop.crash("oplog.part_removed", act=shop.owner.want_archive)
    archive = shop.owner.wait_until_archived()
    (covered,) = archive.ranges()
    assert shop.owner.oplog_between(covered) == archived_between(archive, covered)

    shop.calm_down()
    newest = shop.owner.take_snapshot()["appliedTimestamp"]
    shop.crash("oplog.trimmed", act=lambda: shop.keep_oplog_for(hours=0))
    shop.service.wait_until(
        lambda: shop.owner.archive().slices()[0].first > covered.first, "old slices to go"
    )
    (covered,) = shop.owner.wait_until_archived().ranges()
    assert covered.first.timestamp.date <= datetime.fromisoformat(newest["date"])
    shop.keep_oplog_for(hours=24)
    told = shop.owner.client.get_oplog_ranges(shop.owner.group_id, shop.owner.name)
    assert told["gaps"] == []
    assert told["restorable"][-1]["last"]["oplogTs"] >= covered.first.timestamp.seconds
    assert shop.owner.cluster()["archive"]["lagSeconds"] >= 0.0
    shop.keep_oplog_for(hours=24)


@pytest.mark.parametrize("point", RESTORE_POINTS)
def test_a_restore_job_finishes_after_a_crash(shop: Shop, point: str) -> None:
    shop.calm_down()
    snapshot_id = shop.any_snapshot()

    shop.crash(point, act=lambda: shop.owner.start_restore(snapshot_id))
    job_id = shop.service.wait_until(shop.newest_restore, "the restore job to be listed")
    job = shop.owner.wait_until_ready(job_id)
    archive = shop.owner.download(job)
    shop.owner.wait_until_hashed(job_id)

    assert len(archive) == shop.owner.restore_progress(job_id)["archiveBytes"]
    found = shop.owner.restore_job(job_id)
    assert found["statusName"] == "FINISHED"
    assert found["hashes"][0]["hash"]


def test_a_point_in_time_finishes_after_a_crash_at_each_of_its_points(shop: Shop) -> None:
    """One job, killed at each point in turn: whatever its worker left, the next one makes the same of it."""
    shop.calm_down()
    shop.any_snapshot()
    shop.owner.write()

    shop.crash(*REPLAY_POINTS, act=shop.owner.start_point_in_time_restore)
    job_id = shop.service.wait_until(shop.newest_restore, "the restore job to be listed")
    job = shop.owner.wait_until_ready(job_id)
    archive = shop.owner.download(job)

    assert job["pointInTime"] is True
    assert len(archive) == shop.owner.restore_progress(job_id)["archiveBytes"]
    scratch = shop.service.data / "scratch"
    shop.service.wait_until(lambda: not list(scratch.iterdir()), "what the killed workers left to be wiped")
    assert shop.owner.damage() == []


@pytest.mark.parametrize("point", PRUNE_POINTS)
def test_prune_goes_on_after_a_crash(shop: Shop, point: str) -> None:
    shop.calm_down()
    shop.owner.write()
    doomed = str(shop.owner.take_snapshot()["id"])
    shop.owner.write()
    kept = str(shop.owner.take_snapshot()["id"])
    shop.delete_snapshot(doomed)

    shop.crash(point, act=shop.ask_for_prune)
    shop.wait_until_pruned()

    store = shop.owner.store()
    assert store.has_snapshot(SnapshotId(kept))
    assert not store.has_snapshot(SnapshotId(doomed))
    assert shop.owner.damage() == []
