"""What a sharded cluster is made of, and what its balancer may be asked: pure rules over the server's own answers.

The config server's `config.shards` is the truth about shards. `getShardMap` is what the answering server remembers:
right about the config server, but a shard may not have heard of its siblings yet.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ebbtide.domain.cluster import Cluster
from ebbtide.domain.replica_set import major_version
from ebbtide.errors import Refused

TESTED_VERSIONS = frozenset({"6.0"})
"""Major versions whose internal commands were run. They differ between versions, so no other one is sent any."""

CONFIG_PART = "config"
"""The config server's name among the parts. The server keeps it from being a shard's."""

PART_FACT, PARENT_FACT = "part", "shardedClusterId"
"""Among the engine's layout in a manifest: these files are that part (a shard's name, or `CONFIG_PART`) of that cluster."""


class BalancerMode(StrEnum):
    """What the balancer does; the server's own words."""

    FULL = "full"  # it splits and moves chunks
    SPLIT_ONLY = "autoSplitOnly"  # it splits them
    OFF = "off"

    @property
    def moves_chunks(self) -> bool:
        """Whether it has to be stopped for a snapshot, and started again afterwards."""
        return self is BalancerMode.FULL


@dataclass(frozen=True, kw_only=True)
class PartAddress:
    """One replica set of a sharded cluster: the shard's name, or `CONFIG_PART`, and where its members are."""

    name: str
    replica_set_name: str
    hosts: tuple[str, ...]

    @property
    def is_config_server(self) -> bool:
        return self.name == CONFIG_PART

    @property
    def uri(self) -> str:
        """The connection string of this part alone."""
        return f"mongodb://{','.join(self.hosts)}/?replicaSet={self.replica_set_name}"


@dataclass(frozen=True, kw_only=True)
class ShardedTopology:
    """A sharded cluster. `draining` are names of shards that are being removed from it."""

    config: PartAddress
    shards: tuple[PartAddress, ...]
    draining: frozenset[str] = frozenset()

    @property
    def parts(self) -> tuple[PartAddress, ...]:
        """Every part, the config server first."""
        return (self.config, *self.shards)


def may_name_the_whole(hello: Mapping[str, Any]) -> bool:
    """Whether who answers `hello` so knows the whole cluster: a router, or a member of the config server."""
    return hello.get("msg") == "isdbgrid" or "configsvr" in hello


def config_server_in(shard_map: Mapping[str, Any]) -> PartAddress:
    """The config server in a reply of `getShardMap`. Raises Refused where the server does not say it."""
    address = shard_map.get("map", {}).get(CONFIG_PART)
    if not isinstance(address, str):
        raise Refused(
            "the server does not know the config server of its cluster", hint="name the config server"
        )
    return parse_address(CONFIG_PART, address)


def parse_topology(shard_map: Mapping[str, Any], shards: Iterable[Mapping[str, Any]]) -> ShardedTopology:
    """The cluster in a reply of `getShardMap` and the documents of `config.shards`, shards in order of their names.

    Raises Refused for a cluster without shards, or with one that is no replica set.
    """
    entries = sorted(shards, key=lambda entry: str(entry["_id"]))
    if not entries:
        raise Refused("the sharded cluster has no shards", hint="add its shards first")
    return ShardedTopology(
        config=config_server_in(shard_map),
        shards=tuple(parse_address(str(entry["_id"]), str(entry["host"])) for entry in entries),
        draining=frozenset(str(entry["_id"]) for entry in entries if entry.get("draining")),
    )


@dataclass(frozen=True, kw_only=True)
class ShardsChange:
    """How a cluster differs from its registered shards. `absent` are those that it lacks now, for the next comparison."""

    added: tuple[PartAddress, ...]
    gone: frozenset[str]
    absent: frozenset[str]


def compare_shards(
    topology: ShardedTopology, registered: frozenset[str], *, absent_before: frozenset[str] | None
) -> ShardsChange:
    """What to register and what to let go: `registered` are names of shards.

    Only a shard that was absent at the look before too is gone: one answer may be of a server that was about to step
    down. A draining shard still belongs to the cluster.
    """
    present = {shard.name for shard in topology.shards}
    absent = frozenset(registered - present)
    return ShardsChange(
        added=tuple(shard for shard in topology.shards if shard.name not in registered),
        gone=absent & (absent_before or frozenset()),
        absent=absent,
    )


def parse_address(name: str, address: str) -> PartAddress:
    """A part's address as the server writes it, `set/host:port,host:port`. Raises Refused if it is another."""
    replica_set_name, slash, hosts = address.partition("/")
    if not slash or not replica_set_name or not all(hosts.split(",")):
        raise Refused(f"{name} is no replica set: its address is {address!r}")
    return PartAddress(name=name, replica_set_name=replica_set_name, hosts=tuple(hosts.split(",")))


def check_versions(versions: Mapping[str, str]) -> None:
    """Raise Refused where a part (by name) runs a server version whose internal commands were not tried."""
    others = [f"{name} {version}" for name, version in versions.items() if not _is_tested(version)]
    if others:
        raise Refused(
            f"sharded clusters are backed up on server {', '.join(sorted(TESTED_VERSIONS))}, not on {', '.join(others)}",
            hint="the commands between parts differ between versions",
        )


def part_facts(part: Cluster) -> dict[str, str]:
    """What the manifest of a part's snapshot says of where it belongs; nothing for a replica set of its own."""
    if part.parent_id is None:
        return {}
    name = CONFIG_PART if part.is_config_server else part.shard_name or ""
    return {PART_FACT: name, PARENT_FACT: part.parent_id}


def _is_tested(version: str) -> bool:
    return major_version(version) in TESTED_VERSIONS
