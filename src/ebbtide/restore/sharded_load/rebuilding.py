"""Wiping a running sharded cluster, and making its metadata anew: databases, empty sharded collections, ranges, zones.

All by the commands that a router sends to the config server and to primary shards (server 6.0). A sharded collection
begins as one range on its primary shard, is split where ranges of other shards begin, and these are moved while it is
empty. It is created as any collection is, with its options and the index on its shard key, and then sharded; shards
that get ranges copy both.

Whoever calls keeps the balancer off. Crash: any part of it may be done; doing it again completes it. A collection that
was not finished is dropped and made anew.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from bson import MaxKey

from ebbtide.domain.cluster_layout import Bound, ClusterLayout
from ebbtide.domain.sharded_restore import PlannedSharding, ShardedRestorePlan
from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.errors import Refused
from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.load.creation import create_anew
from ebbtide.restore.load.indexes import creatable
from ebbtide.restore.load.inventory import Client, Document, read_inventory
from ebbtide.restore.load.patience import MAJORITY, acknowledged, persist
from ebbtide.restore.load.plan import PlannedCollection
from ebbtide.restore.load.removal import drop_namespace
from ebbtide.restore.sharded_load.parts import key_index

SPLIT_POINTS_MAX = 500
"""In one command, which writes a document for each; each is at most a few kilobytes."""

_SERVER_DATABASES = frozenset({"admin", "config", "local"})


class Rebuild:
    """The metadata of one target. `clients` reach the primaries of its parts, by name, as the server's own user."""

    def __init__(self, clients: Mapping[str, Client], *, check: Callable[[], None]) -> None:
        self._clients = clients
        self._config = clients[CONFIG_PART]
        self._check = check

    # --- wiping ---------------------------------------------------------------------------------------------------

    def wipe(self, layout: ClusterLayout, *, on_removed: Callable[[str], None] = lambda _: None) -> None:
        """Remove everything of users from every part; `on_removed` gets each database.

        Raises Unreachable, DeploymentError, and what `check` raises.
        """
        with translated_errors("removing what is replaced"):
            for name in layout.databases:
                self._check()
                persist(lambda name=name: self._drop_database(name), check=self._check)  # type: ignore[misc]
                on_removed(name)
            for shard in layout.shards:
                self._drop_leftovers(self._clients[shard])
            for held in read_inventory(self._config).held.values():
                # What users keep in `admin`.
                persist(
                    lambda held=held: drop_namespace(self._config, held.database, held.name),  # type: ignore[misc]
                    check=self._check,
                )

    def _drop_database(self, name: str) -> None:
        found = self._find_database(name)
        if found is None:
            return
        answer = self._clients[found["primary"]][name].command(
            "_shardsvrDropDatabase", 1, databaseVersion=found["version"], writeConcern=MAJORITY
        )
        acknowledged(answer)

    def _drop_leftovers(self, shard: Client) -> None:
        """Databases that a shard was given directly, of which the config server does not know."""
        for name in set(shard.list_database_names()) - _SERVER_DATABASES:
            self._check()
            persist(
                lambda name=name: acknowledged(  # type: ignore[misc]
                    shard[name].command("dropDatabase", 1, writeConcern=MAJORITY)
                ),
                check=self._check,
            )

    # --- building -------------------------------------------------------------------------------------------------

    def build_databases(self, plan: ShardedRestorePlan) -> None:
        """Make the databases on their primary shards; harmless where they are there."""
        with translated_errors("creating databases"):
            for name, primary in plan.databases.items():
                self._check()
                self._config_command("_configsvrCreateDatabase", name, primaryShardId=primary)

    def build_collections(
        self,
        plan: ShardedRestorePlan,
        collections: Iterable[PlannedCollection],
        *,
        finished: Collection[str],
        on_moved: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Make the sharded collections that are not `finished`, empty, with their ranges in place, anew where they exist.

        `on_moved` gets how many more ranges were moved.
        """
        for planned in collections:
            if planned.namespace in finished:
                continue
            self._check()
            sharding = plan.collections[planned.held.namespace]
            with translated_errors(f"sharding {sharding.namespace}"):
                self._drop_collection(sharding)
                self._shard(sharding, planned)
                self._split(sharding)
                for owned in sharding.placement:
                    if owned.target != sharding.primary:
                        self._check()
                        self._move(sharding, owned.range.low, owned.range.high, owned.target)
                        on_moved(1)

    def _drop_collection(self, sharding: PlannedSharding) -> None:
        shard = self._clients[sharding.primary][sharding.database]

        def drop() -> None:
            # It answers well where there is none.
            version = self._database_version(sharding)
            acknowledged(
                shard.command(
                    "_shardsvrDropCollection", sharding.name, databaseVersion=version, writeConcern=MAJORITY
                )
            )

        persist(drop, check=self._check)

    def _shard(self, sharding: PlannedSharding, planned: PlannedCollection) -> None:
        shard = self._clients[sharding.primary]
        persist(lambda: create_anew(shard, planned), check=self._check)
        index = key_index(planned.held, sharding)
        if index is not None and not index.is_inherent:
            is_collated = "collation" in planned.held.options
            shard[sharding.database].command(
                "createIndexes",
                sharding.name,
                indexes=[creatable(index.specification, is_collated=is_collated)],
                writeConcern=MAJORITY,
            )
        persist(lambda: self._make_sharded(sharding), check=self._check)

    def _make_sharded(self, sharding: PlannedSharding) -> None:
        # A hashed key would have ranges on every shard at once, and taking them back means waiting for their cleaning.
        chunks: Document = {"numInitialChunks": 1} if "hashed" in sharding.key.values() else {}
        answer = self._clients[sharding.primary][sharding.database].command(
            "_shardsvrCreateCollection",
            sharding.name,
            shardKey=dict(sharding.key),
            unique=sharding.is_unique,
            # Shard keys compare bytes, whatever the collection's own collation is.
            collation={"locale": "simple"},
            **chunks,
            databaseVersion=self._database_version(sharding),
            writeConcern=MAJORITY,
        )
        acknowledged(answer)

    def _split(self, sharding: PlannedSharding) -> None:
        """Its last chunk again and again: it is on the primary shard, as all of them still are."""
        entry = self._entry(sharding.namespace)
        todo = sharding.split_points
        for first in range(0, len(todo), SPLIT_POINTS_MAX):
            self._check()
            last = self._config.config.chunks.find_one({"uuid": entry["uuid"]}, sort={"min": -1})
            if last is None or not all(isinstance(bound, MaxKey) for bound in last["max"].values()):
                raise Refused(f"somebody changed {sharding.namespace} of the target meanwhile")
            self._config_command(
                "_configsvrCommitChunkSplit",
                sharding.namespace,
                collEpoch=entry["lastmodEpoch"],
                collUUID=entry["uuid"],
                min=last["min"],
                max=last["max"],
                splitPoints=list(todo[first : first + SPLIT_POINTS_MAX]),
                shard=last["shard"],
            )

    def _move(self, sharding: PlannedSharding, low: Bound, high: Bound, target: str) -> None:
        # Asked for again, it finds the range where it is to be, and answers well.
        persist(
            lambda: self._config_command(
                "_configsvrMoveRange",
                sharding.namespace,
                min=low,
                max=high,
                toShard=target,
                waitForDelete=False,
            ),
            check=self._check,
        )

    # --- zones ----------------------------------------------------------------------------------------------------

    def build_zones(self, plan: ShardedRestorePlan) -> None:
        """Put shards into zones, and ranges; after the collections, whose zones go with them."""
        with translated_errors("setting zones"):
            for shard, zone in self._superfluous_zones(plan):
                self._config_command("_configsvrRemoveShardFromZone", shard, zone=zone)
            for shard, zones in plan.shard_zones.items():
                for zone in sorted(zones):
                    self._check()
                    self._config_command("_configsvrAddShardToZone", shard, zone=zone)
            for found in plan.zone_ranges:
                self._check()
                self._config_command(
                    "_configsvrUpdateZoneKeyRange",
                    found.namespace,
                    min=found.range.low,
                    max=found.range.high,
                    zone=found.zone,
                )

    def _superfluous_zones(self, plan: ShardedRestorePlan) -> Iterator[tuple[str, str]]:
        for entry in list(self._config.config.shards.find()):
            for zone in entry.get("tags", ()):
                if zone not in plan.shard_zones.get(entry["_id"], frozenset()):
                    yield entry["_id"], zone

    # --- asking ---------------------------------------------------------------------------------------------------

    def _config_command(self, command: str, value: Any, **fields: Any) -> None:
        acknowledged(self._config.admin.command(command, value, **fields, writeConcern=MAJORITY))

    def _find_database(self, name: str) -> Document | None:
        return self._config.config.databases.find_one({"_id": name})

    def _database_version(self, sharding: PlannedSharding) -> Document:
        found = self._find_database(sharding.database)
        if found is None or found["primary"] != sharding.primary:
            raise Refused(f"somebody removed or moved database {sharding.database} of the target meanwhile")
        version: Document = found["version"]
        return version

    def _entry(self, namespace: str) -> Document:
        found = self._config.config.collections.find_one({"_id": namespace})
        if found is None:
            raise Refused(f"somebody dropped {namespace} of the target meanwhile")
        return found
