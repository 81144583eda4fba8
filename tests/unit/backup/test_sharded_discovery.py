"""Which server leads to the whole of a sharded cluster, from replies as a router, a config server and shards give them.

No router is run anywhere: what it answers is recorded here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from ebbtide.backup import sharded_discovery, sharded_registration
from ebbtide.backup.registration_checks import RegistrationRequest
from ebbtide.domain.sharding import PartAddress, ShardedTopology
from ebbtide.errors import Unreachable
from ebbtide.mongod import deployment, sharding
from ebbtide.mongod.deployment import DeploymentError

REQUEST = RegistrationRequest(name="orders", uri="mongodb://given.example", keyfile="secret")
CONFIG = PartAddress(name="config", replica_set_name="cfg", hosts=("a.example:27019", "b.example:27019"))
SHARD = PartAddress(name="shard0", replica_set_name="rs0", hosts=("c.example:27018",))

ROUTER = {"isWritablePrimary": True, "msg": "isdbgrid", "maxWireVersion": 17, "ok": 1.0}
CONFIG_SERVER = {"setName": "cfg", "configsvr": 2, "isWritablePrimary": True, "ok": 1.0}
MEMBER = {"setName": "rs0", "isWritablePrimary": True, "ok": 1.0}
SHARD_MAP = {
    "map": {"config": "cfg/a.example:27019,b.example:27019", "shard0": "rs0/c.example:27018"},
    "hosts": {"a.example:27019": "config", "b.example:27019": "config", "c.example:27018": "shard0"},
    "connStrings": {"cfg/a.example:27019,b.example:27019": "config", "rs0/c.example:27018": "shard0"},
    "ok": 1.0,
}
SHARDS = [{"_id": "shard0", "host": "rs0/c.example:27018", "state": 1}]


class Recorded:
    """A client of one server, which answers as recorded."""

    def __init__(self, replies: Mapping[str, Any]) -> None:
        self.replies = replies

    def get_database(self, name: str, **_: Any) -> "Recorded":
        assert name == "config"
        return self

    @property
    def shards(self) -> "Recorded":
        return self

    def find(self) -> list[Any]:
        return list(self.replies["config.shards"])


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Replies by URI; an address that is not there does not answer."""
    known: dict[str, dict[str, Any]] = {}

    @contextmanager
    def connect(uri: str, *_: Any, **__: Any) -> Iterator[Recorded]:
        if uri not in known:
            raise Unreachable(f"nobody answers at {uri}")
        yield Recorded(known[uri])

    def run(client: Recorded, command: str, **_: Any) -> Any:
        reply = client.replies[command]
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr(deployment, "connect_to_set", connect)
    monkeypatch.setattr(deployment, "run_admin", run)
    monkeypatch.setattr(sharding, "run_admin", run)
    return known


@pytest.mark.parametrize("hello", [ROUTER, CONFIG_SERVER], ids=["router", "config server"])
def test_who_knows_the_whole_is_taken_as_it_was_named(
    servers: dict[str, dict[str, Any]], hello: dict[str, Any]
) -> None:
    servers[REQUEST.uri] = {"hello": hello}
    assert sharded_discovery.whole_cluster_request(REQUEST) == REQUEST


def test_a_shard_leads_to_its_config_server(servers: dict[str, dict[str, Any]]) -> None:
    servers[REQUEST.uri] = {"hello": MEMBER, "getShardMap": SHARD_MAP}
    found = sharded_discovery.whole_cluster_request(REQUEST)
    assert found is not None
    assert found.uri == "mongodb://a.example:27019,b.example:27019/?replicaSet=cfg"
    assert (found.name, found.keyfile) == (REQUEST.name, REQUEST.keyfile)


@pytest.mark.parametrize("code", [sharding.ILLEGAL_OPERATION, sharding.SHARDING_STATE_NOT_INITIALIZED, 13])
def test_a_set_of_no_cluster_and_one_that_does_not_say_are_replica_sets(
    servers: dict[str, dict[str, Any]], code: int
) -> None:
    servers[REQUEST.uri] = {"hello": MEMBER, "getShardMap": DeploymentError("no", code=code)}
    assert sharded_discovery.whole_cluster_request(REQUEST) is None


def test_nobody_who_answers_is_told_by_the_checks_of_a_replica_set(
    servers: dict[str, dict[str, Any]],
) -> None:
    assert servers == {}
    assert sharded_discovery.whole_cluster_request(REQUEST) is None


def test_a_router_tells_all_parts_and_each_tells_its_version(servers: dict[str, dict[str, Any]]) -> None:
    servers[REQUEST.uri] = {"getShardMap": SHARD_MAP, "config.shards": SHARDS}
    for part in (CONFIG, SHARD):
        servers[part.uri] = {"buildInfo": {"version": "6.0.5"}}
    assert sharded_registration.discover(REQUEST) == ShardedTopology(config=CONFIG, shards=(SHARD,))
