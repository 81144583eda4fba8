"""Restoring a sharded cluster: what goes where, decided from two layouts. Pure: print it, test it, then execute it.

The number of shards need not be the same. Each shard of the source has one or more **homes** on the target: of the same
name where there is one. Several shards with one home are merged; one shard with several homes is divided, and each home
gets a stretch of its ranges that follow each other. Adjacent ranges of one shard are put together: chunks are not kept,
as the balancer makes them by itself where it moves something.

Invariants
  * every range of every collection goes to exactly one shard of the target
  * homes have the zones of the shards whose data they get, so that no range leaves its zone
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebbtide.domain.cluster_layout import (
    BUCKETS,
    Bound,
    ClusterLayout,
    KeyRange,
    ShardedCollection,
    ZoneRange,
)

Homes = Mapping[str, tuple[str, ...]]
"""For each shard of the source the shards of the target that get its data."""


@dataclass(frozen=True, kw_only=True)
class RoutedRange:
    """A range, the shard of the source that owned it, and the shard of the target that will."""

    range: KeyRange
    source: str
    target: str


@dataclass(frozen=True, kw_only=True)
class PlannedSharding:
    """A collection that will be sharded. `routes` are in order, without a gap; `primary` is its database's."""

    namespace: str
    key: Mapping[str, Any]
    is_unique: bool
    primary: str
    routes: tuple[RoutedRange, ...]

    @property
    def database(self) -> str:
        return self.namespace.partition(".")[0]

    @property
    def name(self) -> str:
        return self.namespace.partition(".")[2]

    @property
    def owners(self) -> tuple[str, ...]:
        """The shards of the target that own a range of it."""
        return tuple(dict.fromkeys(route.target for route in self.routes))

    @property
    def split_points(self) -> tuple[Bound, ...]:
        """Where its first chunk, which is everything, has to be split."""
        return tuple(owned.range.low for owned in self.placement[1:])

    @property
    def placement(self) -> tuple[RoutedRange, ...]:
        """The ranges that shards of the target own, as few as possible; `source` is that of each range's beginning."""
        return tuple(_joined(self.routes, lambda one, other: one.target == other.target))

    def sources_of(self, target: str) -> dict[str, tuple[KeyRange, ...]]:
        """For each shard of the source the ranges that this shard of the target gets from it."""
        found: dict[str, list[KeyRange]] = {}
        for route in self.routes:
            if route.target == target:
                found.setdefault(route.source, []).append(route.range)
        return {source: tuple(ranges) for source, ranges in found.items()}


@dataclass(frozen=True, kw_only=True)
class ShardedRestorePlan:
    """What will be made of a target. `databases` are those of users with their primary shards.

    `shard_zones` are all zones that each shard of the target will be in; `left_out` says in sentences what the server's
    commands cannot set.
    """

    homes: Homes
    databases: Mapping[str, str]
    collections: Mapping[str, PlannedSharding]
    zone_ranges: tuple[ZoneRange, ...]
    shard_zones: Mapping[str, frozenset[str]]
    left_out: tuple[str, ...]

    @property
    def move_count(self) -> int:
        """How many ranges are moved away from primary shards, while they are empty."""
        return sum(
            owned.target != collection.primary
            for collection in self.collections.values()
            for owned in collection.placement
        )


def refuse_sharded_restore(source: ClusterLayout, target: ClusterLayout) -> tuple[str, ...]:
    """Every reason why the data of `source` cannot be put into the sharded cluster `target`, each a sentence."""
    problems = [*refuse_source(source)]
    for collection in source.collections.values():
        if collection.is_time_series:
            problems.append(
                f"{collection.database}.{collection.name.removeprefix(BUCKETS)} is a sharded time series, which no "
                "command without a router makes: restore into a replica set, or download"
            )
    for shard in sorted(target.draining):
        problems.append(f"{shard} is being removed from the target: wait until it is gone")
    return tuple(problems)


def refuse_source(source: ClusterLayout) -> tuple[str, ...]:
    """Every reason why the data of `source` cannot be restored from its parts."""
    return tuple(
        f"{collection.namespace} was being resharded: choose a moment before that or after it"
        for collection in source.collections.values()
        if collection.was_resharding
    )


def plan_sharded_restore(source: ClusterLayout, target: ClusterLayout) -> ShardedRestorePlan:
    """What to make of `target`, where nothing is refused."""
    homes = assign_homes(source.shards, target.shards)
    databases = _place_databases(source.databases, homes)
    return ShardedRestorePlan(
        homes=homes,
        databases=databases,
        collections={
            collection.namespace: PlannedSharding(
                namespace=collection.namespace,
                key=collection.key,
                is_unique=collection.is_unique,
                primary=databases[collection.database],
                routes=route(collection, homes),
            )
            for collection in source.collections.values()
        },
        zone_ranges=source.zone_ranges,
        shard_zones={
            shard: frozenset(
                zone
                for origin, theirs in homes.items()
                if shard in theirs
                for zone in source.shard_zones[origin]
            )
            for shard in target.shards
        },
        left_out=tuple(
            f"{setting} of {collection.namespace} is not set on the target"
            for collection in source.collections.values()
            for setting in collection.settings
        ),
    )


def assign_homes(source: Iterable[str], target: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For each shard of the source the shards of the target that get its data; each of the target gets somebody's.

    Neither may be empty.
    """
    sources, targets = sorted(source), sorted(target)
    homes = {shard: [shard] for shard in sources if shard in targets}
    free = [shard for shard in targets if shard not in homes]
    for shard in sources:
        if shard not in homes and free:
            homes[shard] = [free.pop(0)]
    for index, shard in enumerate(shard for shard in sources if shard not in homes):
        homes[shard] = [targets[index % len(targets)]]
    for index, shard in enumerate(free):
        homes[sources[index % len(sources)]].append(shard)
    return {shard: tuple(homes[shard]) for shard in sources}


def route(collection: ShardedCollection, homes: Homes) -> tuple[RoutedRange, ...]:
    """Where each range goes, adjacent ones with the same way put together."""
    counts: dict[str, int] = {}
    for chunk in collection.chunks:
        counts[chunk.shard] = counts.get(chunk.shard, 0) + 1
    seen = dict.fromkeys(counts, 0)
    routes = []
    for chunk in collection.chunks:
        theirs = homes[chunk.shard]
        # The first stretch to the first home, and so on, so that few ranges are moved.
        target = theirs[seen[chunk.shard] * len(theirs) // counts[chunk.shard]]
        seen[chunk.shard] += 1
        routes.append(RoutedRange(range=chunk.range, source=chunk.shard, target=target))
    return tuple(_joined(routes, lambda one, other: (one.source, one.target) == (other.source, other.target)))


def owned_ranges(collection: ShardedCollection) -> dict[str, tuple[KeyRange, ...]]:
    """For each shard of a collection's own cluster the ranges that it owns, as few as possible."""
    found: dict[str, list[KeyRange]] = {}
    for owned in route(collection, {shard: (shard,) for shard in collection.owners}):
        found.setdefault(owned.source, []).append(owned.range)
    return {shard: tuple(ranges) for shard, ranges in found.items()}


def _joined(
    routes: Iterable[RoutedRange], are_alike: Callable[[RoutedRange, RoutedRange], bool]
) -> list[RoutedRange]:
    joined: list[RoutedRange] = []
    for found in routes:
        if joined and are_alike(joined[-1], found):
            last = joined.pop()
            whole = KeyRange(low=last.range.low, high=found.range.high)
            found = RoutedRange(range=whole, source=last.source, target=last.target)
        joined.append(found)
    return joined


def _place_databases(databases: Mapping[str, str], homes: Homes) -> dict[str, str]:
    """Primary shards on the target: a shard with several homes has its databases spread over them."""
    placed: dict[str, str] = {}
    counts = dict.fromkeys(homes, 0)
    for name in sorted(databases):
        shard = databases[name]
        placed[name] = homes[shard][counts[shard] % len(homes[shard])]
        counts[shard] += 1
    return placed


# --- reading by ranges ------------------------------------------------------------------------------------------------


def choose_key_index(
    indexes: Sequence[Mapping[str, Any]], key: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Of specifications the index by which the ranges of a shard key can be read: the key itself, or more.

    Neither partial, nor sparse, nor collated: every document of the collection is in it, as the shard key orders it.
    """
    fields = list(key.items())
    found = [
        index
        for index in indexes
        if list(index["key"].items())[: len(fields)] == fields
        and not index.get("sparse")
        and "partialFilterExpression" not in index
        and index.get("collation", {}).get("locale", "simple") == "simple"
    ]
    return min(found, key=lambda index: len(index["key"]), default=None)


def extend_bound(bound: Bound, index_key: Mapping[str, Any], *, lowest: Any, highest: Any) -> dict[str, Any]:
    """A bound of shard key values as one of an index that goes on after them: before all that begins with it.

    `lowest` and `highest` are MinKey and MaxKey.
    """
    extended = dict(bound.items())
    for field, direction in index_key.items():
        if field not in extended:
            is_descending = isinstance(direction, (int, float)) and direction < 0
            extended[field] = highest if is_descending else lowest
    return extended
