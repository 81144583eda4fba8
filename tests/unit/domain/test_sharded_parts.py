"""Which parts a sharded cluster had at a moment."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.sharded_parts import parts_at

BEGAN = datetime(2026, 5, 1, tzinfo=UTC)
START = int(BEGAN.timestamp())

CONFIG = Cluster(
    id=ClusterId("config"),
    group_id=GroupId("a" * 24),
    name="bank-config",
    replica_set_name="config",
    uri="mongodb://config.example",
    username=None,
    auth_source="admin",
    password=None,
    keyfile=None,
    mongod_version="6.0.5",
    fcv="6.0",
    state=ClusterState.ACTIVE,
    created=BEGAN,
    head_host="localhost",
    head_port=27117,
    is_config_server=True,
)


def shard(name: str, *, after: int = 0, state: ClusterState = ClusterState.ACTIVE) -> Cluster:
    return replace(
        CONFIG,
        id=ClusterId(name),
        name=f"bank-{name}",
        created=BEGAN + timedelta(seconds=after),
        state=state,
        is_config_server=False,
        shard_name=name,
    )


PARTS = [
    CONFIG,
    shard("old", state=ClusterState.REMOVED),
    shard("leaving", state=ClusterState.REMOVING),
    shard("same"),
    shard("new", after=100),
    shard("unarchived", state=ClusterState.REMOVED),
]
REACHED = {ClusterId("old"): OplogTimestamp(START + 50, 7), ClusterId("same"): OplogTimestamp(START + 500, 1)}


@pytest.mark.parametrize(
    ("seconds", "increment", "expected"),
    [
        (-1, 9, []),
        (0, 1, ["config", "old", "leaving", "same"]),
        (50, 7, ["config", "old", "leaving", "same"]),
        (50, 8, ["config", "leaving", "same"]),
        (99, 1, ["config", "leaving", "same"]),
        (100, 1, ["config", "leaving", "same", "new"]),
        (900, 1, ["config", "leaving", "same", "new"]),
    ],
)
def test_who_was_there(seconds: int, increment: int, expected: list[str]) -> None:
    at = OplogTimestamp(START + seconds, increment)
    assert [part.id for part in parts_at(PARTS, REACHED, at=at)] == expected
