"""What a sharded cluster is made of, from answers as a server 6.0.5 gave them."""

from typing import Any

import pytest

from ebbtide.domain.sharding import (
    BalancerMode,
    PartAddress,
    check_versions,
    compare_shards,
    config_server_in,
    may_name_the_whole,
    parse_address,
    parse_topology,
)
from ebbtide.errors import Refused

SHARDS: list[dict[str, Any]] = [
    {"_id": "shard1", "host": "shard1/c.example:27018,d.example:27018", "state": 1},
    {"_id": "shard0", "host": "shard0/b.example:27018", "state": 1},
]
# As the config server answers, as a shard that has not heard of the other answers, and as a router does.
FULL_MAP: dict[str, Any] = {
    "map": {
        "shard0": "shard0/b.example:27018",
        "shard1": "shard1/c.example:27018,d.example:27018",
        "config": "config/a.example:27019",
    },
    "hosts": {"b.example:27018": "shard0", "c.example:27018": "shard1", "d.example:27018": "shard1"},
    "connStrings": {"shard0/b.example:27018": "shard0", "": "config"},
    "ok": 1.0,
}
SHARD_MAP: dict[str, Any] = {
    "map": {"config": "config/a.example:27019"},
    "hosts": {"a.example:27019": "config"},
    "connStrings": {"config/a.example:27019": "config"},
    "ok": 1.0,
}
CONFIG = PartAddress(name="config", replica_set_name="config", hosts=("a.example:27019",))


@pytest.mark.parametrize("reply", [FULL_MAP, SHARD_MAP])
def test_each_part_names_the_config_server(reply: dict[str, Any]) -> None:
    assert config_server_in(reply) == CONFIG


@pytest.mark.parametrize("reply", [{}, {"map": {}}, {"map": {"config": 1}}])
def test_a_server_that_does_not_know_the_config_server_is_refused(reply: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="config server"):
        config_server_in(reply)


def test_shards_are_those_of_config_shards_by_name() -> None:
    topology = parse_topology(SHARD_MAP, SHARDS)

    assert [part.name for part in topology.parts] == ["config", "shard0", "shard1"]
    assert topology.config.is_config_server
    assert not topology.shards[1].is_config_server
    assert topology.shards[1].uri == "mongodb://c.example:27018,d.example:27018/?replicaSet=shard1"
    assert topology.draining == frozenset()


def test_a_shard_that_is_being_removed_is_told() -> None:
    leaving, staying = {**SHARDS[0], "draining": True}, SHARDS[1]

    assert parse_topology(FULL_MAP, [leaving, staying]).draining == {"shard1"}


def test_a_cluster_without_shards_is_refused() -> None:
    with pytest.raises(Refused, match="no shards"):
        parse_topology(FULL_MAP, [])


@pytest.mark.parametrize("address", ["a.example:27018", "set/", "set/a.example:1,", "/a.example:1", ""])
def test_a_shard_that_is_no_replica_set_is_refused(address: str) -> None:
    with pytest.raises(Refused, match="shard7 is no replica set"):
        parse_address("shard7", address)


def test_only_tried_versions_are_sent_internal_commands() -> None:
    check_versions({"config": "6.0.5", "shard0": "6.0.27"})

    with pytest.raises(Refused, match=r"not on shard0 7\.0\.2, shard1 5\.0\.4"):
        check_versions({"config": "6.0.5", "shard0": "7.0.2", "shard1": "5.0.4"})


def test_only_a_balancer_that_moves_chunks_has_to_be_stopped() -> None:
    assert [mode for mode in BalancerMode if mode.moves_chunks] == [BalancerMode.FULL]


# As a router, a member of a config server and a shard's primary answer; the fields that matter.
@pytest.mark.parametrize(
    ("hello", "expected"),
    [
        ({"isWritablePrimary": True, "msg": "isdbgrid", "maxWireVersion": 17, "ok": 1.0}, True),
        ({"setName": "config", "configsvr": 2, "isWritablePrimary": True, "ok": 1.0}, True),
        ({"setName": "shard0", "isWritablePrimary": True, "ok": 1.0}, False),
    ],
    ids=["router", "config server", "shard"],
)
def test_a_router_and_the_config_server_know_the_whole_cluster(hello: dict[str, Any], expected: bool) -> None:
    assert may_name_the_whole(hello) is expected


@pytest.mark.parametrize(
    ("registered", "absent_before", "added", "gone", "absent"),
    [
        ({"shard0", "shard1"}, None, [], set(), set()),
        ({"shard0"}, None, ["shard1"], set(), set()),
        (set(), None, ["shard0", "shard1"], set(), set()),
        ({"shard0", "shard1", "old"}, None, [], set(), {"old"}),
        ({"shard0", "shard1", "old"}, set(), [], set(), {"old"}),
        ({"shard0", "shard1", "old"}, {"old"}, [], {"old"}, {"old"}),
        ({"shard0", "shard1"}, {"shard1"}, [], set(), set()),
        ({"shard0", "old", "older"}, {"older"}, ["shard1"], {"older"}, {"old", "older"}),
    ],
)
def test_shards_come_at_once_and_go_at_the_second_look(
    registered: set[str], absent_before: set[str] | None, added: list[str], gone: set[str], absent: set[str]
) -> None:
    before = None if absent_before is None else frozenset(absent_before)
    change = compare_shards(parse_topology(FULL_MAP, SHARDS), frozenset(registered), absent_before=before)

    assert [shard.name for shard in change.added] == added
    assert change.gone == gone
    assert change.absent == absent
