"""How a sharded cluster keeps its data: which shard has which database, which ranges of which collection, which zones.

Read from the documents of the config server's database `config`, as server 6.0 writes them. Ranges keep the bounds as
the server has them: documents of shard key values, whose types and order count. The system's own sharded collections,
those of the database `config`, belong to no layout.

Invariant: the chunks of a collection are in order and follow each other without a gap, from MinKey to MaxKey: whatever
is missed here would be missed by a restore.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bson import MaxKey, MinKey

from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.errors import Refused

Bound = Mapping[str, Any]
Raw = Mapping[str, Any]

ADMIN, CONFIG = "admin", "config"
BUCKETS = "system.buckets."


@dataclass(frozen=True, kw_only=True)
class KeyRange:
    """Shard key values from `low` (within) to `high` (without)."""

    low: Bound
    high: Bound

    @property
    def begins_at_the_beginning(self) -> bool:
        return all(isinstance(value, MinKey) for value in self.low.values())

    @property
    def ends_at_the_end(self) -> bool:
        return all(isinstance(value, MaxKey) for value in self.high.values())

    @property
    def is_everything(self) -> bool:
        return self.begins_at_the_beginning and self.ends_at_the_end


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A range of a collection, and the shard that owns it."""

    range: KeyRange
    shard: str


@dataclass(frozen=True, kw_only=True)
class ShardedCollection:
    """A sharded collection, `chunks` in the order of their ranges.

    `was_resharding`: its documents were being copied to another shard key. `settings` are names of what its owner set
    for the balancer.
    """

    namespace: str
    key: Mapping[str, Any]
    is_unique: bool
    chunks: tuple[Chunk, ...]
    was_resharding: bool = False
    settings: tuple[str, ...] = ()

    @property
    def database(self) -> str:
        return self.namespace.partition(".")[0]

    @property
    def name(self) -> str:
        return self.namespace.partition(".")[2]

    @property
    def is_time_series(self) -> bool:
        return self.name.startswith(BUCKETS)

    @property
    def owners(self) -> tuple[str, ...]:
        """The shards that own a range of it, that of the lowest range first."""
        return tuple(dict.fromkeys(chunk.shard for chunk in self.chunks))


@dataclass(frozen=True, kw_only=True)
class ZoneRange:
    """A range of a collection that is to be on shards of a zone."""

    namespace: str
    range: KeyRange
    zone: str


@dataclass(frozen=True, kw_only=True)
class ClusterLayout:
    """`databases` are those of users, with their primary shards; `shard_zones` the zones that each shard is in."""

    shards: tuple[str, ...]
    databases: Mapping[str, str]
    collections: Mapping[str, ShardedCollection]
    zone_ranges: tuple[ZoneRange, ...] = ()
    shard_zones: Mapping[str, frozenset[str]]
    draining: frozenset[str] = frozenset()

    def home_of(self, database: str) -> str | None:
        """The part that has the collections of a database that are not sharded; None for one that is not known.

        What users keep in `admin` is on the config server.
        """
        return CONFIG_PART if database == ADMIN else self.databases.get(database)


def parse_layout(
    *,
    shards: Iterable[Raw],
    databases: Iterable[Raw],
    collections: Iterable[Raw],
    chunks: Iterable[Raw],
    tags: Iterable[Raw],
) -> ClusterLayout:
    """The layout in the documents of `config`; chunks in the order of their `min` within each collection.

    Raises Refused where they cannot be a whole.
    """
    known = sorted(shards, key=lambda entry: str(entry["_id"]))
    names = tuple(str(entry["_id"]) for entry in known)
    by_uuid: dict[bytes, list[Chunk]] = {}
    for entry in chunks:
        by_uuid.setdefault(bytes(entry["uuid"]), []).append(_chunk(entry))
    sharded = [
        _collection(entry, by_uuid.get(bytes(entry["uuid"]), []))
        for entry in collections
        if not _is_servers_own(str(entry["_id"]))
    ]
    layout = ClusterLayout(
        shards=names,
        databases={
            str(entry["_id"]): str(entry["primary"])
            for entry in databases
            if str(entry["_id"]) not in (ADMIN, CONFIG)
        },
        collections={collection.namespace: collection for collection in sharded},
        zone_ranges=tuple(_zone_range(entry) for entry in tags if not _is_servers_own(str(entry["ns"]))),
        shard_zones={str(entry["_id"]): frozenset(map(str, entry.get("tags", ()))) for entry in known},
        draining=frozenset(str(entry["_id"]) for entry in known if entry.get("draining")),
    )
    _check(layout)
    return layout


def _is_servers_own(namespace: str) -> bool:
    return namespace.partition(".")[0] == CONFIG


def _collection(entry: Raw, chunks: list[Chunk]) -> ShardedCollection:
    settings = {
        "noBalance": bool(entry.get("noBalance")),
        "maxChunkSizeBytes": "maxChunkSizeBytes" in entry,
    }
    return ShardedCollection(
        namespace=str(entry["_id"]),
        key=dict(entry["key"].items()),
        is_unique=bool(entry.get("unique")),
        chunks=tuple(chunks),
        was_resharding="reshardingFields" in entry,
        settings=tuple(name for name, is_set in settings.items() if is_set),
    )


def _chunk(entry: Raw) -> Chunk:
    return Chunk(range=KeyRange(low=entry["min"], high=entry["max"]), shard=str(entry["shard"]))


def _zone_range(entry: Raw) -> ZoneRange:
    return ZoneRange(
        namespace=str(entry["ns"]),
        range=KeyRange(low=entry["min"], high=entry["max"]),
        zone=str(entry["tag"]),
    )


def _check(layout: ClusterLayout) -> None:
    for database, shard in layout.databases.items():
        if shard not in layout.shards:
            raise Refused(f"database {database} is on {shard}, which is no shard of the cluster")
    for collection in layout.collections.values():
        _check_chunks(collection, layout.shards)


def _check_chunks(collection: ShardedCollection, shards: tuple[str, ...]) -> None:
    name, chunks = collection.namespace, collection.chunks
    if not chunks or not chunks[0].range.begins_at_the_beginning or not chunks[-1].range.ends_at_the_end:
        raise Refused(f"the chunks of {name} do not reach from the lowest key to the highest")
    if any(one.range.high != other.range.low for one, other in pairwise(chunks)):
        raise Refused(f"the chunks of {name} leave a gap, or overlap")
    foreign = sorted({chunk.shard for chunk in chunks} - set(shards))
    if foreign:
        raise Refused(f"chunks of {name} are on {', '.join(foreign)}, which the cluster does not have")
