"""Which parts a snapshot of a sharded cluster is made of, and when they are complete."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.cluster_snapshot import (
    ClusterSnapshot,
    PartsComplete,
    PartsFailed,
    PartSnapshot,
    PartsWait,
    judge_parts,
    match_parts,
)
from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId
from ebbtide.domain.retention import follows_whole
from ebbtide.domain.sharding import CONFIG_PART, PartAddress, ShardedTopology
from ebbtide.domain.snapshot import Snapshot, SnapshotState

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def address(name: str, replica_set_name: str | None = None) -> PartAddress:
    return PartAddress(name=name, replica_set_name=replica_set_name or name, hosts=("h:1",))


def topology(*shards: PartAddress) -> ShardedTopology:
    return ShardedTopology(config=address(CONFIG_PART), shards=shards)


def part(name: str, replica_set_name: str | None = None, **changes: Any) -> Cluster:
    is_config = name == CONFIG_PART
    return replace(
        Cluster(
            id=ClusterId(f"id of {name}"),
            group_id=GroupId("g"),
            name=f"bank-{name}",
            replica_set_name=replica_set_name or name,
            uri="",
            username=None,
            auth_source="admin",
            password=None,
            keyfile=None,
            mongod_version="6.0.5",
            fcv="6.0",
            state=ClusterState.ACTIVE,
            created=NOW,
            head_host="h",
            head_port=1,
            shard_name=None if is_config else name,
            is_config_server=is_config,
        ),
        **changes,
    )


@pytest.mark.parametrize(
    ("shards", "registered", "present", "missing"),
    [
        pytest.param(["a", "b"], ["config", "a", "b"], ["config", "a", "b"], [], id="all are registered"),
        pytest.param(["a", "b"], ["b", "config", "a"], ["config", "a", "b"], [], id="in any order"),
        pytest.param(["a", "b"], ["config", "a"], ["config", "a"], ["b"], id="a shard that was added"),
        pytest.param(["a"], ["config", "a", "b"], ["config", "a"], [], id="a shard that left"),
        pytest.param(["a"], ["a"], ["a"], ["config"], id="no config server"),
    ],
)
def test_parts_are_those_that_the_cluster_has_now(
    shards: list[str], registered: list[str], present: list[str], missing: list[str]
) -> None:
    matched = match_parts(topology(*map(address, shards)), [part(name) for name in registered])

    assert [f"bank-{name}" for name in present] == [found.name for found in matched.present]
    assert tuple(missing) == matched.missing


def test_a_shard_that_came_back_under_its_name_as_another_set_is_not_the_one_that_left() -> None:
    matched = match_parts(topology(address("a", "new")), [part("config"), part("a", "old")])

    assert matched.missing == ("a",)


PARTS = tuple(
    PartSnapshot(
        cluster_id=ClusterId(name),
        snapshot_id=SnapshotId(name),
        shard_name=None if name == "config" else name,
        is_config_server=name == "config",
        replica_set_name=name,
    )
    for name in ("config", "a")
)


def snapshots(**states: SnapshotState) -> Mapping[SnapshotId, Snapshot]:
    return {
        SnapshotId(name): Snapshot(
            id=SnapshotId(name),
            group_id=GroupId("g"),
            cluster_id=ClusterId(name),
            cluster_name=name,
            replica_set_name=name,
            created=NOW,
            state=state,
            error="no head" if state is SnapshotState.FAILED else "",
        )
        for name, state in states.items()
    }


IN_PROGRESS, COMPLETE = SnapshotState.IN_PROGRESS, SnapshotState.COMPLETE
FAILED, DELETED = SnapshotState.FAILED, SnapshotState.DELETED


@pytest.mark.parametrize(
    ("states", "judged"),
    [
        ({}, PartsWait(0)),
        ({"config": IN_PROGRESS}, PartsWait(0)),
        ({"config": COMPLETE}, PartsWait(1)),
        ({"config": COMPLETE, "a": IN_PROGRESS}, PartsWait(1)),
        ({"config": COMPLETE, "a": COMPLETE}, PartsComplete()),
        ({"config": COMPLETE, "a": FAILED}, PartsFailed("the snapshot of shard a failed: no head")),
        ({"config": FAILED}, PartsFailed("the snapshot of the config server failed: no head")),
        (
            {"config": DELETED, "a": COMPLETE},
            PartsFailed("the snapshot of the config server was deleted meanwhile"),
        ),
    ],
)
def test_the_whole_is_complete_when_all_parts_are(states: dict[str, SnapshotState], judged: object) -> None:
    assert judged == judge_parts(PARTS, snapshots(**states))


def test_a_whole_without_parts_is_not_complete() -> None:
    assert PartsWait(0) == judge_parts((), {})


@pytest.mark.parametrize(
    ("state", "follows"), [(IN_PROGRESS, True), (COMPLETE, True), (DELETED, True), (FAILED, False)]
)
def test_a_part_follows_its_whole_unless_that_failed(state: SnapshotState, follows: bool) -> None:
    whole = ClusterSnapshot(
        id=SnapshotId("w"),
        group_id=GroupId("g"),
        cluster_id=ClusterId("p"),
        cluster_name="bank",
        created=NOW,
        state=state,
    )
    own = replace(snapshots(a=COMPLETE)[SnapshotId("a")], cluster_snapshot_id=whole.id)
    other = replace(own, cluster_snapshot_id=SnapshotId("another"))

    assert follows is follows_whole(own, whole)
    assert not follows_whole(other, whole)
    assert not follows_whole(own, None)
