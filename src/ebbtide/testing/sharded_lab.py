"""A throwaway sharded cluster of real mongods on loopback: a config server set and shards, and no router.

Every part is a `ReplicaSetLab` with a directory of its own; all share one keyfile and the passwords of its
two users. What a router would ask for is asked of the config server and the shards by the commands that a
router uses, as the server's own user `__system`. Those commands and their fields are of server 6.0. Reads and
writes of documents go straight to the shard that owns the range: nothing here routes them.

Shards forget what they gave away at once (`orphanCleanupDelaySecs` 0), so that a range may come back the
moment it left.

Crash: as for each part, see `ebbtide.testing.lab`.

One thread uses a sharded lab; `admin_client` gives clients that may be used anywhere while the lab lives.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bson import Timestamp
from pymongo import MongoClient

from ebbtide.errors import Refused
from ebbtide.mongod.options import ClusterRole, ParameterValue
from ebbtide.testing.lab import SERVER_DATABASES, WAIT_SECONDS, ReplicaSetLab

Document = dict[str, Any]
Client = MongoClient[Document]

CONFIG = "config"
"""The config server's name among the parts."""

MAJORITY = {"w": "majority", "wtimeout": int(WAIT_SECONDS * 1000)}
_WAIT_MILLIS = int(WAIT_SECONDS * 1000)
_SHARD_PARAMETERS: Mapping[str, ParameterValue] = {"orphanCleanupDelaySecs": 0}


class ShardedLab:
    """A config server set and `shards` shards `shard0`, `shard1` …, each a set of `members` mongods."""

    def __init__(self, binary: Path, *, shards: int = 2, members: int = 1) -> None:
        self.config = _part(binary, CONFIG, ClusterRole.CONFIG, members=members)
        names = [f"shard{index}" for index in range(shards)]
        self.shards = {name: _part(binary, name, ClusterRole.SHARD, members=members) for name in names}
        self._clients: dict[str, Client] = {}
        for shard in self.shards.values():
            shard.keyfile_text = self.config.keyfile_text
            shard.root_password = self.config.root_password
            shard.backup_password = self.config.backup_password

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start all parts and make them a cluster.

        Raises MongodStartFailed or MongodError, and then leaves nothing behind.
        """
        try:
            with ThreadPoolExecutor() as executor:
                for started in [executor.submit(part.start) for part in self.parts.values()]:
                    started.result()
            for name in self.parts:
                self._clients[name] = self._open_client(name)
            for name in self.shards:
                self.add_shard(name)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill the parts and remove everything. Harmless if the lab is not running."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        for part in self.parts.values():
            part.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- reaching it ----------------------------------------------------------------------------------------------

    @property
    def parts(self) -> dict[str, ReplicaSetLab]:
        """The shards and then the config server, by name."""
        return {**self.shards, CONFIG: self.config}

    @property
    def seed(self) -> str:
        """The addresses of the config server's members, with commas."""
        return ",".join(member.address for member in self.config.members)

    def admin_client(self, part: str) -> Client:
        """The lab's own client to a part's set, as `__system`; the lab closes it. Refused before start."""
        if part not in self._clients:
            raise Refused(f"the lab reaches no part {part}", hint="start it")
        return self._clients[part]

    def primary_shard(self, database: str) -> str:
        """The primary shard of a database. Raises Refused if the cluster has no such database."""
        return str(self._database(database)["primary"])

    # --- databases, collections, chunks, zones --------------------------------------------------------------------

    def create_database(self, name: str, *, primary: str) -> None:
        """Make a database with `primary` as its primary shard, if there is none of that name."""
        self._config_command("_configsvrCreateDatabase", name, primaryShardId=primary)

    def create_sharded(self, namespace: str, shard_key: Document, primary: str) -> None:
        """Make an empty sharded collection, with one chunk on `primary`, and its database if it lacks."""
        database, _, collection = namespace.partition(".")
        self.create_database(database, primary=primary)
        found = self._database(database)
        self.admin_client(found["primary"])[database].command(
            "_shardsvrCreateCollection",
            collection,
            shardKey=shard_key,
            databaseVersion=found["version"],
            writeConcern=MAJORITY,
        )

    def collection_entry(self, namespace: str) -> Document:
        """The document of a sharded collection in `config.collections`. Raises Refused if there is none."""
        found = self.admin_client(CONFIG).config.collections.find_one({"_id": namespace})
        if found is None:
            raise Refused(f"{namespace} is not sharded", hint="create it with create_sharded")
        return found

    def chunks(self, namespace: str) -> list[Document]:
        """The chunks of a collection in the order of their ranges: with `min`, `max`, `shard`."""
        uuid = self.collection_entry(namespace)["uuid"]
        return list(self.admin_client(CONFIG).config.chunks.find({"uuid": uuid}).sort("min"))

    def split(self, namespace: str, *points: Document) -> None:
        """Split the chunks of a collection at each of `points`, full shard keys that bound no chunk yet."""
        for point in points:
            self._split_once(namespace, point)

    def move_range(self, namespace: str, low: Document, high: Document, to_shard: str) -> None:
        """Move the chunk that is exactly the range from `low` (within) to `high` (without)."""
        self._config_command(
            "_configsvrMoveRange", namespace, min=low, max=high, toShard=to_shard, waitForDelete=True
        )

    def add_zone(self, namespace: str, zone: str, *, shard: str, low: Document, high: Document) -> None:
        """Let a range of a collection belong to a zone of one shard."""
        self._config_command("_configsvrAddShardToZone", shard, zone=zone)
        self._config_command("_configsvrUpdateZoneKeyRange", namespace, min=low, max=high, zone=zone)

    def add_shard(self, name: str) -> None:
        """Make one of the lab's shards, which was removed, a shard of the cluster again."""
        hosts = ",".join(member.address for member in self.shards[name].members)
        self._config_command("_configsvrAddShard", f"{name}/{hosts}", name=name)

    # --- balancer and time ----------------------------------------------------------------------------------------

    def balancer_status(self) -> Document:
        """The server's answer: `mode` ("full" or "off") and `inBalancerRound` among its fields."""
        return self._balancer("_configsvrBalancerStatus")

    def stop_balancer(self) -> None:
        """Stop the balancer, waiting for a running round."""
        self._balancer("_configsvrBalancerStop")

    def start_balancer(self) -> None:
        self._balancer("_configsvrBalancerStart")

    def gossip_note(self) -> Timestamp:
        """Write a no-op into every part's oplog, at or after the highest cluster time of all; that time."""
        times = [self._cluster_time(name) for name in self.parts]
        highest: Document = max(times, key=lambda time: time["clusterTime"])
        for name in self.parts:
            client = self.admin_client(name)
            with client.start_session() as session:
                session.advance_cluster_time(highest)
                client.admin.command(
                    "appendOplogNote",
                    1,
                    data={"ebbtideLab": "gossip"},
                    writeConcern=MAJORITY,
                    session=session,
                )
        time: Timestamp = highest["clusterTime"]
        return time

    # --- between tests --------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Bring the lab back to how it was after its start, as far as another test could notice."""
        for part in self.parts.values():
            for member in part.members:
                if not member.process.is_running():
                    part.restart_member(member.index)
            part.remove_foreign_members()
            part.primary()
        for entry in list(self.admin_client(CONFIG).config.databases.find()):
            self.drop_database(entry["_id"])
        self._drop_left_databases()
        self._remove_zones()
        self.start_balancer()
        for part in self.parts.values():
            part.drop_foreign_users()
            part.wait_until_replicated()

    def drop_database(self, name: str) -> None:
        """Drop a database on all shards, and what the config server knows of it."""
        found = self._database(name)
        self.admin_client(found["primary"])[name].command(
            "_shardsvrDropDatabase", 1, databaseVersion=found["version"], writeConcern=MAJORITY
        )

    # --- inside ---------------------------------------------------------------------------------------------------

    def _open_client(self, name: str) -> Client:
        # The keyfile's own user: no role that a user of ours could have allows the commands between parts.
        return self.parts[name].client(
            username="__system",
            password=self.config.keyfile_text,
            authSource="local",
            authMechanism="SCRAM-SHA-256",
            w="majority",
            readConcernLevel="majority",
        )

    def _config_command(self, command: str, value: Any, **fields: Any) -> Document:
        return self.admin_client(CONFIG).admin.command(command, value, **fields, writeConcern=MAJORITY)

    def _balancer(self, command: str) -> Document:
        return self.admin_client(CONFIG).admin.command(command, maxTimeMS=_WAIT_MILLIS)

    def _database(self, name: str) -> Document:
        found = self.admin_client(CONFIG).config.databases.find_one({"_id": name})
        if found is None:
            raise Refused(f"the cluster has no database {name}", hint="create it with create_database")
        return found

    def _split_once(self, namespace: str, point: Document) -> None:
        entry = self.collection_entry(namespace)
        chunk = self.admin_client(CONFIG).config.chunks.find_one(
            {"uuid": entry["uuid"], "min": {"$lt": point}, "max": {"$gt": point}}
        )
        if chunk is None:
            raise Refused(f"no chunk of {namespace} has {point} inside")
        self._config_command(
            "_configsvrCommitChunkSplit",
            namespace,
            collEpoch=entry["lastmodEpoch"],
            collUUID=entry["uuid"],
            min=chunk["min"],
            max=chunk["max"],
            splitPoints=[point],
            shard=chunk["shard"],
        )

    def _cluster_time(self, name: str) -> Document:
        client = self.admin_client(name)
        with client.start_session() as session:
            client.admin.command("ping", session=session)
            return dict(session.cluster_time or {})

    def _drop_left_databases(self) -> None:
        """Databases that a shard was given directly, of which the config server does not know."""
        for name in self.shards:
            client = self.admin_client(name)
            for database in set(client.list_database_names()) - SERVER_DATABASES:
                client.drop_database(database)

    def _remove_zones(self) -> None:
        for entry in list(self.admin_client(CONFIG).config.shards.find({"tags.0": {"$exists": True}})):
            for zone in entry["tags"]:
                self._config_command("_configsvrRemoveShardFromZone", entry["_id"], zone=zone)


def _part(binary: Path, name: str, role: ClusterRole, *, members: int) -> ReplicaSetLab:
    return ReplicaSetLab(
        binary=binary,
        members=members,
        keyfile=True,
        replica_set_name=name,
        cluster_role=role,
        set_parameters={} if role is ClusterRole.CONFIG else _SHARD_PARAMETERS,
    )
