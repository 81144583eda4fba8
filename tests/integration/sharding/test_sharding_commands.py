"""What is asked of the parts of a real sharded cluster: topology, balancer, migrations, cluster time."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pymongo import MongoClient

from ebbtide.clock import SystemClock
from ebbtide.domain.sharding import BalancerMode, check_versions
from ebbtide.mongod import sharding
from ebbtide.mongod.deployment import DeploymentError
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.sharded_lab import CONFIG, ShardedLab

Clients = dict[str, MongoClient[dict[str, Any]]]


@pytest.fixture
def clients(sharded_lab: ShardedLab) -> Clients:
    return {name: sharded_lab.admin_client(name) for name in sharded_lab.parts}


@pytest.fixture
def user_clients(sharded_lab: ShardedLab) -> Iterator[Clients]:
    """The parts as the user that a cluster is registered with."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                part.client(username=part.backup_username, password=part.backup_password)
            )
            for name, part in sharded_lab.parts.items()
        }


def test_the_topology_is_read_with_the_roles_that_are_asked_for(
    sharded_lab: ShardedLab, user_clients: Clients
) -> None:
    topology = sharding.read_topology(user_clients[CONFIG])

    found = {part.name: part.hosts for part in topology.parts}
    assert found == {
        name: tuple(member.address for member in part.members) for name, part in sharded_lab.parts.items()
    }
    for client in user_clients.values():
        assert sharding.find_config_server(client) == topology.config


def test_each_part_tells_its_version(user_clients: Clients) -> None:
    versions = sharding.read_versions(user_clients)

    assert set(versions) == set(user_clients)
    check_versions(versions)


def test_a_set_of_its_own_belongs_to_no_cluster(lab: ReplicaSetLab) -> None:
    with lab.client() as client:
        assert sharding.find_config_server(client) is None


def test_the_balancer_is_stopped_and_put_back(clients: Clients) -> None:
    config = clients[CONFIG]
    found = sharding.balancer_status(config)

    assert found.mode is BalancerMode.FULL
    for _ in range(2):
        assert sharding.stop_balancer(config, clock=SystemClock(), timeout_seconds=60)
        assert sharding.balancer_status(config) == sharding.BalancerStatus(
            mode=BalancerMode.OFF, in_round=False
        )
    for _ in range(2):
        sharding.restore_balancer(config, found.mode)
        assert sharding.balancer_status(config).mode is BalancerMode.FULL


def test_a_balancer_that_was_off_stays_off(sharded_lab: ShardedLab, clients: Clients) -> None:
    sharded_lab.stop_balancer()

    sharding.restore_balancer(clients[CONFIG], BalancerMode.OFF)

    assert sharding.balancer_status(clients[CONFIG]).mode is BalancerMode.OFF


def test_the_balancer_is_not_for_the_user_of_a_backup(user_clients: Clients) -> None:
    with pytest.raises(DeploymentError) as refused:
        sharding.stop_balancer(user_clients[CONFIG], clock=SystemClock(), timeout_seconds=1)

    assert refused.value.code == 13


def test_a_shard_that_gives_away_a_range_is_seen_until_it_has(
    sharded_lab: ShardedLab, clients: Clients
) -> None:
    shards = {name: clients[name] for name in sharded_lab.shards}
    clock = SystemClock()

    assert sharding.wait_for_migrations(shards, clock=clock, timeout_seconds=60) == []

    # What the shard itself writes there while it donates; a real move may be over before one can look.
    coordinators = clients["shard1"].config.migrationCoordinators
    coordinators.insert_one({"_id": "a move under way", "donorShardId": "shard1"})
    try:
        assert sharding.wait_for_migrations(shards, clock=clock, timeout_seconds=0) == ["shard1"]
    finally:
        coordinators.delete_one({"_id": "a move under way"})


def test_every_part_notes_a_time_after_what_any_of_them_had(
    sharded_lab: ShardedLab, clients: Clients
) -> None:
    sharded_lab.create_sharded("shop.orders", {"_id": 1}, "shard0")
    clients["shard0"].shop.orders.insert_one({"_id": 1})
    before = clients["shard0"].local["oplog.rs"].find_one({"ns": "shop.orders", "op": "i"})

    noted = sharding.note_cluster_time(clients, note="a snapshot")

    assert before is not None
    assert noted.to_bson() >= before["ts"]
    for name, client in clients.items():
        note = client.local["oplog.rs"].find_one({"op": "n", "o.ebbtide": "a snapshot"})
        assert note is not None, name
        assert note["ts"] >= noted.to_bson()
