"""A sharded cluster under backup, whatever its worker dies of: what its archives need is kept all the same."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import requests
from bson import MaxKey
from requests.auth import HTTPDigestAuth

from ebbtide.catalog.catalog import Catalog
from ebbtide.cli.api_errors import ApiRefusal
from ebbtide.cli.client import EbbtideClient
from ebbtide.clock import SystemClock
from ebbtide.crash_points import CRASH_POINTS
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.cluster_snapshot import ClusterSnapshot
from ebbtide.domain.ids import BatchId, GroupId, SnapshotId, new_id
from ebbtide.domain.restore_job import RestoreStatus
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import Unreachable
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.open_work import OpenWorkStore
from ebbtide.repository.repository import Repository
from ebbtide.sealing import ServiceKey
from ebbtide.settings import resolve_settings
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.testing.running_service import RunningService
from ebbtide.testing.sharded_lab import CONFIG, ShardedLab
from ebbtide.testing.sharded_registration import lab_request, register_lab

OPEN_WORK_POINTS = ["open_work.recorded"]
CHECKPOINT_POINTS = ["checkpoint.recorded", "checkpoint.noted"]
CLUSTER_SNAPSHOT_POINTS = [name for name in CRASH_POINTS if name.startswith("cluster_snapshot.")]


class ShardedOwner:
    """A running service with the lab registered in it."""

    def __init__(self, service: RunningService, lab: ShardedLab) -> None:
        self.service = service
        self.lab = lab

    def register(self, name: str = "bank") -> Cluster:
        settings = resolve_settings(flags={}, environment={}, file=None)
        directory = DataDirectory.at(self.service.data)
        with self.service.catalog() as catalog:
            return register_lab(
                lab_request(self.lab, name),
                catalog=catalog,
                settings=settings,
                service_key=ServiceKey.load_or_create(directory.service_key_file(settings)),
                group_id=GroupId(self.service.group_id),
                data_dir=self.service.data,
            )

    def parts(self, catalog: Catalog, cluster: Cluster) -> list[Cluster]:
        return catalog.clusters.list_parts(cluster.id)

    def wait_until_following(self, cluster: Cluster) -> None:
        with self.service.catalog() as catalog:

            def following() -> bool:
                heads = [catalog.heads.find(part.id) for part in self.parts(catalog, cluster)]
                return all(head is not None and head.state is HeadState.FOLLOWING for head in heads)

            self.service.wait_until(following, f"the heads of {cluster.name} to follow")

    def archive(self, part: Cluster) -> OplogArchive:
        repository = Repository.open(DirectoryStorage(self.service.data / "repository"))
        return OplogArchive(repository.replica_set(part.id, part.replica_set_name))

    def find_cluster(self, name: str = "bank") -> Cluster:
        with self.service.catalog() as catalog:
            found = catalog.clusters.find_by_name(GroupId(self.service.group_id), name)
        return found or self.register(name)

    def ask_for_cluster_snapshot(self, cluster: Cluster) -> SnapshotId:
        """As an API that dies between the record and its job: the worker finds the one, and makes the other."""
        asked = ClusterSnapshot(
            id=SnapshotId(new_id()),
            group_id=cluster.group_id,
            cluster_id=cluster.id,
            cluster_name=cluster.name,
            created=SystemClock().now(),
            state=SnapshotState.IN_PROGRESS,
        )
        with self.service.catalog() as catalog:
            assert catalog.cluster_snapshots.insert(asked)
        return asked.id

    def take_cluster_snapshot_once(self, cluster: Cluster) -> None:
        """Have a complete snapshot of the cluster; one is taken where there is none."""
        with self.service.catalog() as catalog:
            complete = catalog.cluster_snapshots.list_in_state(cluster.id, SnapshotState.COMPLETE)
        if not complete:
            self.wait_for_cluster_snapshot(self.ask_for_cluster_snapshot(cluster))

    def let_schedule_rest(self, cluster: Cluster) -> None:
        """Nothing is taken but what is asked for."""
        with self.service.catalog() as catalog:
            schedule = catalog.schedules.get(cluster)
            catalog.schedules.put(replace(schedule, counts_from=SystemClock().now() + timedelta(days=1)))

    def wait_for_cluster_snapshot(self, snapshot_id: SnapshotId) -> ClusterSnapshot:
        """The snapshot once it is complete, and nobody holds the balancer."""
        with self.service.catalog() as catalog:

            def look() -> ClusterSnapshot | None:
                found = catalog.cluster_snapshots.find(snapshot_id)
                assert found is not None
                assert found.state is not SnapshotState.FAILED, found.message
                held = catalog.balancer_holds.find(found.cluster_id)
                return found if found.state is SnapshotState.COMPLETE and held is None else None

            return self.service.wait_until(look, "the cluster's snapshot")


@pytest.fixture(scope="module")
def owner(
    new_service: Callable[..., RunningService], shared_sharded_lab: ShardedLab
) -> Iterator[ShardedOwner]:
    shared_sharded_lab.reset()
    service = new_service(environment={"EBBTIDE_OPLOG_UPKEEP_SECONDS": "1"}).start()
    yield ShardedOwner(service, shared_sharded_lab)
    service.stop()
    shared_sharded_lab.reset()


def test_open_work_is_kept_for_every_part_though_the_worker_dies(owner: ShardedOwner) -> None:
    owner.service.arm_crash(*OPEN_WORK_POINTS)
    cluster = owner.register()
    owner.service.wait_until(owner.service.has_crashed, "a worker that recorded open work to die")

    owner.wait_until_following(cluster)
    with owner.service.catalog() as catalog:
        parts = owner.parts(catalog, cluster)
    for part in parts:
        archive = owner.archive(part)
        records = OpenWorkStore(archive.store)
        first, *_ = owner.service.wait_until(records.moments, f"a record of {part.name}")
        assert archive.slices()[0].starts_after == first
        assert records.load(first).transactions == ()


@pytest.mark.parametrize("point", CLUSTER_SNAPSHOT_POINTS)
def test_the_balancer_is_on_again_though_the_worker_dies(owner: ShardedOwner, point: str) -> None:
    cluster = owner.find_cluster()
    owner.wait_until_following(cluster)
    owner.service.arm_crash(point)

    asked = owner.ask_for_cluster_snapshot(cluster)
    owner.service.wait_until(owner.service.has_crashed, f"crash point {point}")
    done = owner.wait_for_cluster_snapshot(asked)

    assert owner.lab.balancer_status()["mode"] == "full"
    assert len(done.parts) == 3
    assert done.cluster_time is not None
    assert not done.is_possibly_inconsistent, "the balancer rested from the first attempt to the last"


def test_a_checkpoint_is_taken_though_api_and_worker_die(owner: ShardedOwner) -> None:
    cluster = owner.find_cluster()
    owner.wait_until_following(cluster)
    owner.take_cluster_snapshot_once(cluster)
    owner.let_schedule_rest(cluster)
    owner.service.arm_crash(*CHECKPOINT_POINTS)
    with owner.service.client() as client:
        # The api dies after the checkpoint is recorded, the worker after it is noted on every part.
        with pytest.raises(Unreachable):
            client.create_checkpoint(owner.service.group_id, cluster.name)
        owner.service.wait_until(owner.service.has_crashed, f"crash points {CHECKPOINT_POINTS}")

        def restorable() -> Any:
            (found,) = client.list_checkpoints(owner.service.group_id, cluster.name)
            assert found["state"] != "FAILED", found
            return found if found["restorable"] else None

        shown = owner.service.wait_until(restorable, "the checkpoint to be restorable")
    assert [part["tokenDiscovered"] for part in shown["parts"]] == [True] * 3
    assert shown["restoresTo"]["date"] <= shown["clusterTime"]["date"]
    check_hosted_families(owner, cluster, shown)


def check_hosted_families(owner: ShardedOwner, cluster: Cluster, shown: dict[str, Any]) -> None:
    """Both hosted families list and show the checkpoint as the contract has it."""
    group = f"groups/{owner.service.group_id}/clusters"
    atlas = f"{owner.service.base_url}/api/atlas/v1.0/{group}/{cluster.name}/backupCheckpoints"
    cloud = f"{owner.service.base_url}/api/public/v1.0/{group}/{cluster.id}/checkpoints"
    with requests.Session() as session:
        session.auth = HTTPDigestAuth(
            owner.service.connection.public_key, owner.service.connection.private_key
        )
        for address in (atlas, cloud):
            (listed,) = session.get(address, timeout=60).json()["results"]
            found = session.get(f"{address}/{shown['id']}", timeout=60).json()
            assert {"rel": "self", "href": f"{address}/{shown['id']}"} == listed["links"][0]
            assert {**found, "links": listed["links"]} == listed
            assert (found["timestamp"], found["restorable"]) == (shown["restoresTo"]["date"], True)
            assert found["started"] <= found["completed"]
            assert [(part["typeName"], part.get("shardName")) for part in found["parts"]] == [
                ("CONFIG_SERVER_REPLICA_SET", None),
                ("REPLICA_SET", "shard0"),
                ("REPLICA_SET", "shard1"),
            ]
        missing = session.get(f"{atlas}/{'0' * 24}", timeout=60).json()
        assert missing["errorCode"] == "CHECKPOINT_NOT_FOUND"
        schedule = f"{owner.service.base_url}/api/atlas/v1.0/{group}/{cluster.name}/snapshotSchedule"
        change = {"clusterCheckpointIntervalMin": 15}
        assert session.patch(schedule, json=change, timeout=60).json()["clusterCheckpointIntervalMin"] == 15
        refused = session.patch(schedule, json={"clusterCheckpointIntervalMin": 20}, timeout=60).json()
        assert refused["errorCode"] == "INVALID_CLUSTER_CHECKPOINT_INTERVAL"


RESTORE_POINTS = ["automated.write_blocked", "automated.removed", "automated.compared"]


@pytest.mark.long
def test_a_restore_outlives_its_worker_and_nobody_is_kept_from_anything(owner: ShardedOwner) -> None:
    """Asked for as scripts do, killed in turn before anything went, when all was gone, and when all was back."""
    cluster = owner.find_cluster()
    owner.wait_until_following(cluster)
    shards = {name: owner.lab.admin_client(name) for name in owner.lab.shards}
    for entry in list(
        owner.lab.admin_client(CONFIG).config.databases.find({"_id": {"$in": ["kept", "late"]}})
    ):
        owner.lab.drop_database(entry["_id"])
    owner.lab.create_sharded("kept.things", {"_id": 1}, "shard0")
    owner.lab.split("kept.things", {"_id": 50})
    owner.lab.move_range("kept.things", {"_id": 50}, {"_id": MaxKey()}, "shard1")
    for shard, ids in (("shard0", range(50)), ("shard1", range(50, 100))):
        shards[shard].kept.things.insert_many([{"_id": number} for number in ids])
    snapshot = owner.wait_for_cluster_snapshot(owner.ask_for_cluster_snapshot(cluster))
    shards["shard1"].kept.things.delete_many({})
    owner.lab.create_database("late", primary="shard1")
    shards["shard1"].late.arrival.insert_one({})
    group = owner.service.group_id
    body = {"snapshotId": snapshot.id, "targetClusterName": cluster.name}

    with owner.service.client() as client:
        with pytest.raises(ApiRefusal, match="has not made it a target"):
            client.create_automated_restore(group, cluster.name, body)
        client.set_restore_target(group, cluster.name, {"enabled": True})
        plan = owner.service.wait_until(
            lambda: archived_plan(client, group, cluster.name, body), "an archive that reaches the snapshot"
        )
        assert plan["ok"]
        assert not plan["withUndo"]
        assert {"kept.things", "late.arrival"} <= {gone["namespace"] for gone in plan["removed"]}
        owner.service.arm_crash(*RESTORE_POINTS)
        job = client.create_automated_restore(group, cluster.name, body)
        owner.service.wait_until(owner.service.has_crashed, f"crash points {RESTORE_POINTS}")
        with owner.service.catalog() as catalog:
            batch = BatchId(job["batchId"])
            owner.service.wait_until(
                lambda: all(
                    part.status is RestoreStatus.FINISHED for part in catalog.restore_jobs.list_batch(batch)
                ),
                "every job of the batch",
            )
            assert len(catalog.restore_jobs.list_batch(batch)) == 3
            owner.service.wait_until(
                lambda: catalog.balancer_holds.find(cluster.id) is None, "the balancer to be let go"
            )

    assert [list(range(50)), list(range(50, 100))] == [
        sorted(found["_id"] for found in shard.kept.things.find()) for shard in shards.values()
    ]
    assert all("late" not in shard.list_database_names() for shard in shards.values())
    assert owner.lab.balancer_status()["mode"] == "full"
    for shard in shards.values():
        assert shard.admin.command("serverStatus")["repl"]["userWriteBlockMode"] == 1


def archived_plan(client: EbbtideClient, group: str, name: str, body: dict[str, str]) -> Any:
    """The plan, once every part's archive has reached the snapshot's time; None before."""
    try:
        return client.create_automated_restore(group, name, {**body, "dryRun": True})
    except ApiRefusal as error:
        if "have reached" in str(error):
            return None
        raise
