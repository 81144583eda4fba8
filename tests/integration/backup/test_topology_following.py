"""A sharded cluster gets a shard and loses one: the catalog follows, on a real cluster."""

from dataclasses import replace
from typing import Any

from ebbtide.backup.topology_following import TopologyFollower
from ebbtide.domain.cluster import ClusterState
from ebbtide.testing.sharded_lab import CONFIG, MAJORITY, ShardedLab
from ebbtide.testing.sharded_registration import lab_request


def _remove_shard(lab: ShardedLab, name: str) -> None:
    admin = lab.admin_client(CONFIG).admin
    while admin.command("_configsvrRemoveShard", name, writeConcern=MAJORITY)["state"] != "completed":
        pass


def test_a_shard_that_is_not_registered_yet_is(installation: Any, sharded_lab: ShardedLab) -> None:
    report = installation.check_sharded(lab_request(sharded_lab, "bank"))
    cluster = installation.register_sharded(sharded_lab, report=replace(report, parts=report.parts[:-1]))
    try:
        follower = TopologyFollower(installation.context)
        follower.look()
        parts = installation.catalog.clusters.list_parts(cluster.id)
        assert [part.shard_name for part in parts] == [None, "shard0", "shard1"]
        assert parts[2].head_host == parts[1].head_host
        follower.look()
        assert installation.catalog.clusters.list_parts(cluster.id) == parts
    finally:
        installation.remove_sharded(cluster)


def test_a_shard_that_leaves_keeps_its_record_and_comes_back_with_a_new_one(
    installation: Any, sharded_lab: ShardedLab
) -> None:
    cluster = installation.register_sharded(sharded_lab)
    clusters = installation.catalog.clusters
    follower = TopologyFollower(installation.context)

    def states() -> dict[str | None, ClusterState]:
        return {part.shard_name: part.state for part in clusters.list_parts(cluster.id)}

    try:
        old = clusters.list_parts(cluster.id)[2]
        _remove_shard(sharded_lab, "shard1")
        try:
            follower.look()
            assert states()["shard1"] is ClusterState.ACTIVE, "one look is not enough"
            follower.look()
            assert states() == {
                None: ClusterState.ACTIVE,
                "shard0": ClusterState.ACTIVE,
                "shard1": ClusterState.REMOVING,
            }
        finally:
            sharded_lab.add_shard("shard1")
        follower.look()
        assert clusters.list_parts(cluster.id)[2].id == old.id, "its head is not gone yet"
        clusters.set_state(old.id, ClusterState.REMOVED)
        follower.look()
        new = clusters.list_parts(cluster.id)[2]
        assert (new.name, new.state) == (old.name, ClusterState.ACTIVE)
        assert new.id != old.id
        kinds = [
            event.kind
            for event in installation.catalog.events.page(
                cluster.group_id, cluster_id=cluster.id, skip=0, limit=50
            )
        ]
        assert {"cluster.shard_removed", "cluster.shard_added"} <= set(kinds)
    finally:
        installation.remove_sharded(cluster)
