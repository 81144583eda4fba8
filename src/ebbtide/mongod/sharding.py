"""Asking the parts of a sharded cluster what only a router asks: who belongs to it, its balancer, its cluster time.

Clients are of one part's set each. Reading the topology needs a user with clusterMonitor; the rest needs the server's
own user `__system`, by the keyfile, as no role allows the commands between parts. Before any of these the version
must be on the tested list (`domain.sharding.check_versions`). Nothing here writes `config.*`.

Crash: a balancer that was stopped stays off until somebody starts it; whoever stops it writes down before what it
found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bson import Timestamp
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from ebbtide.clock import Clock
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.sharding import (
    BalancerMode,
    PartAddress,
    ShardedTopology,
    config_server_in,
    parse_topology,
)
from ebbtide.mongod.deployment import DeploymentError, run_admin, translated_errors

Document = dict[str, Any]
Client = MongoClient[Document]

MAX_TIME_EXPIRED = 50
ILLEGAL_OPERATION = 20
SHARDING_STATE_NOT_INITIALIZED = 203

ONE_WAIT_SECONDS = 10.0
"""How long the server itself may wait in one command: shorter than the socket's timeout."""

LOOK_SECONDS = 0.2

_NOTE_CONCERN = {"w": "majority", "wtimeout": 30_000}


@dataclass(frozen=True, kw_only=True)
class BalancerStatus:
    """`in_round`: it is deciding on or moving chunks now."""

    mode: BalancerMode
    in_round: bool


def find_config_server(client: Client) -> PartAddress | None:
    """The config server of the cluster that a part or a router belongs to; None for a set that belongs to none.

    Raises DeploymentError, Unreachable, and Refused where the server has not heard of it yet.
    """
    try:
        return config_server_in(run_admin(client, "getShardMap"))
    except DeploymentError as error:
        if error.code in (ILLEGAL_OPERATION, SHARDING_STATE_NOT_INITIALIZED):
            return None
        raise


def read_topology(client: Client) -> ShardedTopology:
    """All parts, as the config server knows them now. `client` is of the config server, or of a router.

    Raises Refused for a cluster that cannot be backed up, DeploymentError, Unreachable.
    """
    shard_map = run_admin(client, "getShardMap")
    with translated_errors("reading config.shards"):
        config = client.get_database("config", read_concern=ReadConcern("majority"))
        shards = list(config.shards.find())
    return parse_topology(shard_map, shards)


def read_versions(clients: Mapping[str, Client]) -> dict[str, str]:
    """The server version of each part's primary, by the part's name."""
    return {name: str(run_admin(client, "buildInfo")["version"]) for name, client in clients.items()}


def balancer_status(config: Client) -> BalancerStatus:
    """What the balancer does now."""
    reply = run_admin(config, "_configsvrBalancerStatus", maxTimeMS=_millis(ONE_WAIT_SECONDS))
    return BalancerStatus(mode=BalancerMode(reply["mode"]), in_round=bool(reply["inBalancerRound"]))


def stop_balancer(config: Client, *, clock: Clock, timeout_seconds: float) -> bool:
    """Stop the balancer; whether its last round ended in time. It is off in either case. Harmless where it is off."""
    deadline = clock.monotonic() + timeout_seconds
    while True:
        left = max(LOOK_SECONDS, deadline - clock.monotonic())
        try:
            run_admin(config, "_configsvrBalancerStop", maxTimeMS=_millis(min(ONE_WAIT_SECONDS, left)))
            return True
        except DeploymentError as error:
            # It is switched off first, and then waited for.
            if error.code != MAX_TIME_EXPIRED:
                raise
        if clock.monotonic() >= deadline:
            return False


def restore_balancer(config: Client, found: BalancerMode) -> None:
    """Put the balancer back as it was found. Harmless where it is so already.

    One that was not moving chunks was not stopped by us, and is left alone.
    """
    if found.moves_chunks and balancer_status(config).mode is not found:
        run_admin(config, "_configsvrBalancerStart", maxTimeMS=_millis(ONE_WAIT_SECONDS))


def migrating_shards(shards: Mapping[str, Client]) -> list[str]:
    """The shards that are giving away a range now, or have not finished one that was interrupted."""
    moving = []
    for name, client in shards.items():
        with translated_errors(f"asking {name} for migrations"):
            if client.config.migrationCoordinators.find_one({}, {"_id": 1}) is not None:
                moving.append(name)
    return moving


def wait_for_migrations(shards: Mapping[str, Client], *, clock: Clock, timeout_seconds: float) -> list[str]:
    """Wait until no shard gives away a range; the shards that still do at the deadline."""
    deadline = clock.monotonic() + timeout_seconds
    while True:
        moving = migrating_shards(shards)
        if not moving or clock.monotonic() >= deadline:
            return moving
        clock.sleep(LOOK_SECONDS)


def note_cluster_time(parts: Mapping[str, Client], *, note: str) -> OplogTimestamp:
    """Write a no-op into every part's oplog, each at or after one cluster time; that time. As `note_tokens`."""
    return note_tokens(parts, note=note)[0]


def note_tokens(
    parts: Mapping[str, Client], *, note: str
) -> tuple[OplogTimestamp, dict[str, OplogTimestamp]]:
    """The same; the cluster time, and for each part a moment that its oplog has reached with its no-op.

    Every part's oplog then reaches the time, and all that any part had acknowledged before the call lies before it or
    at it. Raises DeploymentError where a part's entry lies earlier, which no server should do; Unreachable.
    """
    times = [_cluster_time(name, client) for name, client in parts.items()]
    highest = max(times, key=lambda time: time["clusterTime"])
    tokens = {}
    for name, client in parts.items():
        written = _append_note(name, client, highest, note)
        if written < highest["clusterTime"]:
            raise DeploymentError(f"{name} noted a time before the cluster time that it was told")
        tokens[name] = OplogTimestamp.from_bson(written)
    return OplogTimestamp.from_bson(highest["clusterTime"]), tokens


def _cluster_time(name: str, client: Client) -> Document:
    with translated_errors(f"asking {name} for its cluster time"), client.start_session() as session:
        client.admin.command("ping", session=session)
        return dict(session.cluster_time or {})


def _append_note(name: str, client: Client, highest: Document, note: str) -> Timestamp:
    with translated_errors(f"noting a time on {name}"), client.start_session() as session:
        session.advance_cluster_time(highest)
        reply = client.admin.command(
            "appendOplogNote", 1, data={"ebbtide": note}, session=session, writeConcern=_NOTE_CONCERN
        )
        written: Timestamp = reply["operationTime"]
        return written


def _millis(seconds: float) -> int:
    return max(1, int(seconds * 1000))
