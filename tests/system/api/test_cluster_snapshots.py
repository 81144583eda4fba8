"""Snapshots of a sharded cluster in every family: one entry with its parts, changed and deleted as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ebbtide.backup.cluster_snapshot_tidying import settle_cluster_snapshots
from ebbtide.backup.context import BackupContext
from ebbtide.backup.sharded_registration import remove_sharded_cluster
from ebbtide.backup.snapshot_changes import claim_removal
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.balancer_hold import BalancerHold
from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState, Head, HeadState
from ebbtide.domain.cluster_snapshot import ClusterSnapshot, PartSnapshot
from ebbtide.domain.ids import SnapshotId, new_id
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.sharding import BalancerMode
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.repository.repository import Repository
from ebbtide.settings import resolve_settings
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.worker.housekeeping import Housekeeping
from ebbtide.worker.scheduler import Scheduler

DAY = timedelta(days=1)
TIME = OplogTimestamp(1516661094, 9)
COMPLETE, DELETED = SnapshotState.COMPLETE, SnapshotState.DELETED


@dataclass
class Bank:
    """A sharded cluster in the catalog alone, behind a running API."""

    service: Any
    parent: Cluster
    parts: list[Cluster]

    def url(self, family: str, snapshot: Any = None) -> str:
        group = f"{self.service.url}/api/{family}/groups/{self.service.group.id}"
        segment = self.parent.id if family == "public/v1.0" else self.parent.name
        return f"{group}/clusters/{segment}/snapshots" + (f"/{snapshot.id}" if snapshot else "")

    def call(self, method: str, snapshot: Any = None, family: str = "atlas/v1.0", **options: Any) -> Any:
        return self.service.call(method, self.url(family, snapshot), **options)

    def add_heads(self, state: HeadState = HeadState.FOLLOWING) -> None:
        now = self.service.clock.now()
        for part in self.parts:
            head = Head(id=part.id, state=state, state_since=now, host="h", port=1, dbpath="x", updated=now)
            self.service.catalog.heads.insert(head)

    def add(self, **changes: Any) -> ClusterSnapshot:
        """A complete snapshot, with those of its parts."""
        catalog, now = self.service.catalog, self.service.clock.now()
        whole_id = SnapshotId(new_id())
        taken: list[PartSnapshot] = []
        for part in self.parts:
            snapshot = self.service.new_snapshot(
                cluster_id=part.id,
                cluster_name=part.name,
                replica_set_name=part.replica_set_name,
                cluster_snapshot_id=whole_id,
                expires=now + DAY,
            )
            taken.append(
                PartSnapshot(
                    cluster_id=part.id,
                    snapshot_id=snapshot.id,
                    shard_name=part.shard_name,
                    is_config_server=part.is_config_server,
                    replica_set_name=part.replica_set_name,
                )
            )
        whole = ClusterSnapshot(
            id=whole_id,
            group_id=self.parent.group_id,
            cluster_id=self.parent.id,
            cluster_name=self.parent.name,
            created=now,
            state=COMPLETE,
            completed=now,
            parts=tuple(taken),
            cluster_time=TIME,
            expires=now + DAY,
        )
        whole = replace(whole, **changes)
        catalog.cluster_snapshots.insert(whole)
        return whole

    def whole(self, whole: ClusterSnapshot) -> ClusterSnapshot:
        found: ClusterSnapshot = self.service.catalog.cluster_snapshots.find(whole.id)
        return found

    def part_snapshots(self, whole: ClusterSnapshot) -> list[Snapshot]:
        found = self.service.catalog.snapshots.find_many(part.snapshot_id for part in whole.parts)
        return [found[part.snapshot_id] for part in whole.parts]

    def states(self, whole: ClusterSnapshot) -> list[SnapshotState]:
        return [self.whole(whole).state, *(part.state for part in self.part_snapshots(whole))]


def code(answer: Any) -> tuple[int, Any]:
    return answer.status_code, answer.json().get("errorCode")


@pytest.fixture
def bank(service: Any) -> Iterator[Bank]:
    name = f"bank{new_id()}"
    parent = service.new_cluster(name)
    # Records made anew: what stands in the catalog is what matters here.
    collection = service.catalog.clusters._clusters
    collection.update_one({"_id": parent.id}, {"$set": {"kind": ClusterKind.SHARDED.value}})
    parts = []
    for shard in (None, "shard0", "shard1"):
        part = service.new_cluster(f"{name}-{shard or 'config'}")
        changes = {"parent_id": parent.id, "shard_name": shard, "is_config_server": shard is None}
        changes["replica_set_name"] = shard or "config"
        collection.update_one({"_id": part.id}, {"$set": changes})
        parts.append(service.catalog.clusters.find(part.id))
    yield Bank(service, service.catalog.clusters.find(parent.id), parts)
    service.clock.ahead = timedelta(0)
    collection.update_many({"_id": {"$in": [parent.id, *(p.id for p in parts)]}}, {"$set": {"live": False}})


@pytest.fixture
def context(service: Any, tmp_path: Path) -> BackupContext:
    return BackupContext(
        settings=resolve_settings(
            flags={"repository.delete_delay_hours": 24.0, "repository.prune_every_hours": 0.0},
            environment={},
            file=None,
        ),
        directory=DataDirectory(tmp_path),
        catalog=service.catalog,
        service_key=service.service_key,
        clock=service.clock,
        repository=Repository.open(DirectoryStorage(service.repository_path)),
        worker_id="one",
    )


# --- shown ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["atlas/v1.0", "atlas/v2", "public/v1.0"])
def test_a_snapshot_is_listed_once_with_its_parts(bank: Bank, family: str) -> None:
    bank.add()
    whole = bank.add()

    shown = bank.call("GET", whole, family).json()
    listed = bank.call("GET", family=family).json()["results"]

    assert [entity["id"] for entity in listed] == [whole.id, listed[1]["id"]]
    assert listed[0]["parts"] == shown["parts"]
    assert (shown["clusterId"], shown["clusterName"]) == (bank.parent.id, bank.parent.name)
    assert (shown["complete"], shown["incremental"]) == (True, False)
    assert shown["lastOplogAppliedTimestamp"] == {"date": "2018-01-22T22:44:54Z", "increment": 9}
    types = [(part["typeName"], part["clusterId"], part["replicaSetName"]) for part in shown["parts"]]
    assert types == [
        ("CONFIG_SERVER_REPLICA_SET", bank.parts[0].id, "config"),
        ("REPLICA_SET", bank.parts[1].id, "shard0"),
        ("REPLICA_SET", bank.parts[2].id, "shard1"),
    ]
    assert [part["dataSizeBytes"] for part in shown["parts"]] == [4502] * 3
    is_cloud = family == "public/v1.0"
    assert is_cloud is ("isPossiblyInconsistent" in shown) is ("missingShards" in shown)


def test_our_own_api_shows_the_parts_ids_and_all_sizes_together(bank: Bank) -> None:
    whole = bank.add(is_possibly_inconsistent=True)

    shown = bank.call("GET", whole, "ebbtide/v1").json()

    assert [part["snapshotId"] for part in shown["parts"]] == [part.snapshot_id for part in whole.parts]
    assert [part.get("shardName") for part in shown["parts"]] == [None, "shard0", "shard1"]
    assert (shown["fileSizeBytes"], shown["storedBytes"]) == (3 * 324760, 3000)
    assert shown["isPossiblyInconsistent"] is True
    assert [whole.id] == [entity["id"] for entity in bank.call("GET", family="ebbtide/v1").json()["results"]]


def test_a_part_is_a_snapshot_of_its_own_cluster_too(bank: Bank) -> None:
    whole = bank.add()
    base = f"{bank.service.url}/api/atlas/v1.0/groups/{bank.parent.group_id}/clusters"

    shown = bank.service.call(
        "GET", f"{base}/{bank.parts[0].name}/snapshots/{whole.parts[0].snapshot_id}"
    ).json()

    assert shown["clusterId"] == bank.parts[0].id
    assert [part["typeName"] for part in shown["parts"]] == ["CONFIG_SERVER_REPLICA_SET"]


def test_ids_that_name_no_snapshot_of_the_cluster(bank: Bank) -> None:
    foreign = bank.service.new_snapshot()
    assert code(bank.service.call("GET", f"{bank.url('atlas/v1.0')}/nonsense")) == (
        404,
        "INVALID_SNAPSHOT_ID",
    )
    assert code(bank.call("GET", foreign)) == (404, "SNAPSHOT_NOT_FOUND")
    failed = bank.add(state=SnapshotState.FAILED, message="why")
    assert code(bank.call("GET", failed)) == (404, "SNAPSHOT_NOT_FOUND")
    assert bank.call("GET", failed, "ebbtide/v1").json()["error"] == "why"


# --- asked for ------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_asked_for_once_at_a_time(bank: Bank) -> None:
    assert code(bank.call("POST", family="ebbtide/v1", json={})) == (409, "HEAD_NOT_READY")
    bank.add_heads()
    asked = bank.call("POST", family="ebbtide/v1", json={})
    assert asked.status_code == 200
    assert asked.json()["state"] == "IN_PROGRESS"
    assert asked.json()["job"]["state"] == "QUEUED"
    assert code(bank.call("POST", family="ebbtide/v1", json={})) == (409, "SNAPSHOT_IN_PROGRESS")
    shown = bank.call("GET", family="atlas/v1.0", params={"completed": "false"}).json()["results"]
    assert [(entity["id"], entity["complete"], entity["parts"]) for entity in shown] == [
        (asked.json()["id"], False, [])
    ]
    found = bank.service.catalog.cluster_snapshots.find(asked.json()["id"])
    assert code(bank.call("DELETE", found)) == (409, "SNAPSHOT_IN_PROGRESS")
    assert bank.call("PATCH", found, json={"doNotDelete": True}).json()["doNotDelete"] is True


def test_the_schedule_asks_for_the_whole_and_not_for_its_parts(bank: Bank) -> None:
    bank.add_heads()
    bank.service.clock.ahead = timedelta(hours=7)
    scheduler = Scheduler(bank.service.catalog, bank.service.clock)
    scheduler.look()
    scheduler.look()

    found = bank.service.catalog.cluster_snapshots.list_in_state(bank.parent.id, SnapshotState.IN_PROGRESS)
    assert [snapshot.scheduled_for is not None for snapshot in found] == [True]
    for part in bank.parts:
        assert bank.service.catalog.snapshots.list_in_state(part.id, *SnapshotState) == []


def test_parts_have_the_schedule_of_the_whole_and_none_of_their_own(bank: Bank) -> None:
    base = f"{bank.service.url}/api/atlas/v1.0/groups/{bank.parent.group_id}/clusters"
    for name, expected in ((bank.parts[1].name, 409), (bank.parent.name, 200)):
        answer = bank.service.call(
            "PATCH", f"{base}/{name}/snapshotSchedule", json={"snapshotRetentionDays": 5}
        )
        assert answer.status_code == expected
    assert code(bank.service.call("PATCH", f"{base}/{bank.parts[1].name}/snapshotSchedule", json={})) == (
        409,
        "CANNOT_MODIFY_SHARD_BACKUP_CONFIG",
    )
    for part in bank.parts:
        assert bank.service.catalog.schedules.get(part).retention_days == 5


# --- changed and deleted --------------------------------------------------------------------------------------------


def test_a_whole_is_kept_and_its_parts_cannot_be_changed_alone(bank: Bank) -> None:
    whole = bank.add()
    part = bank.part_snapshots(whole)[1]
    base = f"{bank.service.url}/api/atlas/v1.0/groups/{bank.parent.group_id}/clusters"
    of_part = f"{base}/{bank.parts[1].name}/snapshots/{part.id}"

    assert bank.call("PATCH", whole, json={"doNotDelete": True}).json()["doNotDelete"] is True
    assert bank.whole(whole).expires is None
    assert code(bank.service.call("PATCH", of_part, json={"doNotDelete": True})) == (409, "REFUSED")
    assert code(bank.service.call("DELETE", of_part)) == (403, "CANNOT_DELETE_FROM_CLUSTER_SNAPSHOT")
    assert bank.states(whole) == [COMPLETE] * 4


def test_a_whole_is_deleted_and_brought_back_with_its_parts(bank: Bank) -> None:
    whole = bank.add()

    assert bank.call("DELETE", whole).status_code == 204
    assert bank.states(whole) == [DELETED] * 4
    assert code(bank.call("GET", whole)) == (404, "SNAPSHOT_NOT_FOUND")
    (listed,) = bank.call("GET", family="ebbtide/v1", params={"deleted": "true"}).json()["results"]
    assert (listed["id"], "pruneAfter" in listed, "removed" in listed) == (whole.id, True, False)
    alone = f"{bank.service.own_base}/clusters/{bank.parts[0].name}/snapshots/{whole.parts[0].snapshot_id}/undelete"
    assert code(bank.service.call("POST", alone, json={})) == (409, "SNAPSHOT_NOT_UNDELETABLE")

    back = bank.service.call("POST", f"{bank.url('ebbtide/v1', whole)}/undelete", json={})
    assert (back.status_code, back.json()["state"]) == (200, "COMPLETE")
    assert bank.states(whole) == [COMPLETE] * 4


def test_what_died_half_deleted_or_half_brought_back_is_finished(bank: Bank, context: BackupContext) -> None:
    whole, kept = bank.add(), bank.add()
    catalog, now = bank.service.catalog, bank.service.clock.now()
    # The whole is deleted, and a death came before its parts.
    catalog.cluster_snapshots.change(
        whole.id, only=COMPLETE, state=DELETED, deleted=now, prune_after=now + DAY
    )
    Housekeeping(context).look()
    assert bank.states(whole) == [DELETED] * 4
    assert {part.prune_after for part in bank.part_snapshots(whole)} != {None}
    assert bank.states(kept) == [COMPLETE] * 4

    # The whole is back, and a death came before its parts.
    catalog.cluster_snapshots.change(whole.id, only=DELETED, state=COMPLETE)
    for part in bank.part_snapshots(whole):
        assert not claim_removal(part, catalog=catalog, now=now), "prune leaves what is listed alone"
    assert bank.service.call("POST", f"{bank.url('ebbtide/v1', whole)}/undelete", json={}).status_code == 200
    assert bank.states(whole) == [COMPLETE] * 4


def test_a_whole_whose_part_prune_has_begun_to_remove_does_not_come_back(bank: Bank) -> None:
    whole = bank.add()
    bank.call("DELETE", whole)
    part = bank.part_snapshots(whole)[2]
    assert claim_removal(part, catalog=bank.service.catalog, now=bank.service.clock.now())

    answer = bank.service.call("POST", f"{bank.url('ebbtide/v1', whole)}/undelete", json={})

    assert code(answer) == (409, "SNAPSHOT_NOT_UNDELETABLE")
    assert bank.states(whole) == [DELETED] * 4


def test_retention_deletes_wholes_past_their_time_and_no_part_before(
    bank: Bank, context: BackupContext
) -> None:
    old = bank.add()
    new = bank.add(expires=bank.service.clock.now() + 10 * DAY)
    newest = bank.add(expires=bank.service.clock.now() + DAY)
    bank.service.clock.ahead = 2 * DAY
    Housekeeping(context).look()

    # Of all three the parts are past their own time.
    assert bank.states(old) == [DELETED] * 4
    assert bank.states(new) == [COMPLETE] * 4, "its time has not come"
    assert bank.states(newest) == [COMPLETE] * 4, "the last good one stays"


def claim_job(bank: Bank, wanted: str) -> None:
    """As a worker `one` that takes every job before it as well."""
    now = bank.service.clock.now()
    while True:
        claimed = bank.service.catalog.jobs.claim(
            worker_id="one", now=now, until=now + DAY, snapshot_cluster_ids=[], kinds=list(JobKind)
        )
        assert claimed is not None
        if claimed.id == wanted:
            return


# --- tidying --------------------------------------------------------------------------------------------------------


def test_a_snapshot_whose_job_ended_without_a_word_is_given_up_with_its_parts(
    bank: Bank, context: BackupContext
) -> None:
    bank.add_heads()
    asked = bank.call("POST", family="ebbtide/v1", json={}).json()
    catalog = bank.service.catalog
    part = bank.service.new_snapshot(
        cluster_id=bank.parts[1].id, state=SnapshotState.IN_PROGRESS, cluster_snapshot_id=asked["id"]
    )
    planned = PartSnapshot(
        cluster_id=bank.parts[1].id,
        snapshot_id=part.id,
        shard_name="shard0",
        is_config_server=False,
        replica_set_name="shard0",
    )
    catalog.cluster_snapshots.update(asked["id"], parts=(planned,))
    job = job_id(JobKind.CLUSTER_SNAPSHOT, asked["id"])
    claim_job(bank, job)
    assert catalog.jobs.finish(job, worker_id="one", state=JobState.FAILED, error="no key")

    settle_cluster_snapshots(context)

    found = catalog.cluster_snapshots.find(asked["id"])
    assert (found.state, found.message) == (SnapshotState.FAILED, "no key")
    assert catalog.snapshots.find(part.id).state is SnapshotState.FAILED
    assert bank.call("POST", family="ebbtide/v1", json={}).status_code == 200, "another one can be taken"


def test_a_cluster_is_not_forgotten_while_its_balancer_is_to_be_put_back(
    bank: Bank, context: BackupContext
) -> None:
    catalog = bank.service.catalog
    hold = BalancerHold(
        id=bank.parent.id,
        holder="CLUSTER_SNAPSHOT:x",
        found=BalancerMode.FULL,
        since=bank.service.clock.now(),
    )
    catalog.balancer_holds.take(hold)

    remove_sharded_cluster(bank.parent, catalog=catalog, clock=bank.service.clock, actor="test")
    assert catalog.clusters.find(bank.parent.id).state is ClusterState.REMOVING

    # This one has no keyfile, so nobody can put anything back: that is said, and it is let go.
    settle_cluster_snapshots(context)
    assert catalog.clusters.find(bank.parent.id).state is ClusterState.REMOVED
    events = catalog.events.page(bank.parent.group_id, cluster_id=bank.parent.id, skip=0, limit=10)
    assert "balancer.left_off" in {event.kind for event in events}
