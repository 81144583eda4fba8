"""What each shard of a target gets, as a plan of the loader. Pure.

An index on the shard key has to be there before its collection is sharded, and documents expire last of all. Where both
is the same index, it is made without its expiry, which is set in the end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ebbtide.domain.automated_restore import RestoreScope
from ebbtide.domain.sharded_restore import PlannedSharding, ShardedRestorePlan, choose_key_index
from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.restore.load.inventory import Held, Index, Inventory
from ebbtide.restore.load.plan import LoadPlan, PlannedCollection, plan_load
from ebbtide.restore.sharded_load.source import MergedInventory, OwnedRanges

_EXPIRY = "expireAfterSeconds"


@dataclass(frozen=True, kw_only=True)
class LateExpiry:
    """An index on a shard key that makes documents expire in the end."""

    collection: tuple[str, str]
    index: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """What one part of the target gets. `load` is all of it, `own` what is not sharded, and is created on it directly.

    `ranges` are those of the source that are read for it.
    """

    name: str
    load: LoadPlan
    own: LoadPlan
    ranges: OwnedRanges
    late_expiries: tuple[LateExpiry, ...]


def plan_parts(merged: MergedInventory, plan: ShardedRestorePlan) -> tuple[PartPlan, ...]:
    """For each part of the target that gets something."""
    gets: dict[str, dict[str, Held]] = {}
    for namespace, held in merged.whole.held.items():
        sharding = plan.collections.get(namespace)
        for part in _parts_of(held, sharding, plan):
            gets.setdefault(part, {})[namespace] = (
                held if sharding is None else without_key_expiry(held, sharding)
            )
    return tuple(_part(name, held, merged, plan) for name, held in sorted(gets.items()))


def key_index(held: Held, sharding: PlannedSharding) -> Index | None:
    """The index of a collection that its shard key needs; None where the server makes one by itself."""
    found = choose_key_index([i.specification for i in held.indexes if not i.is_unfinished], sharding.key)
    return None if found is None else Index(specification=found)


def without_key_expiry(held: Held, sharding: PlannedSharding) -> Held:
    """The collection, its index on the shard key without expiry."""
    found = key_index(held, sharding)
    if found is None or not found.expires:
        return held
    plain = Index(specification={k: v for k, v in found.specification.items() if k != _EXPIRY})
    return replace(
        held, indexes=tuple(plain if index.name == found.name else index for index in held.indexes)
    )


def _parts_of(held: Held, sharding: PlannedSharding | None, plan: ShardedRestorePlan) -> tuple[str, ...]:
    if sharding is not None:
        return sharding.owners
    return (plan.databases.get(held.database, CONFIG_PART),)


def _part(name: str, gets: Mapping[str, Held], merged: MergedInventory, plan: ShardedRestorePlan) -> PartPlan:
    own = {namespace: held for namespace, held in gets.items() if namespace not in plan.collections}
    sharded = {namespace: plan.collections[namespace] for namespace in gets if namespace in plan.collections}
    return PartPlan(
        name=name,
        load=_loaded(gets),
        own=_loaded(own),
        ranges={namespace: sharding.sources_of(name) for namespace, sharding in sharded.items()},
        late_expiries=tuple(_late(merged, sharded)),
    )


def _loaded(held: Mapping[str, Held]) -> LoadPlan:
    plan = plan_load(Inventory(held=held), Inventory(held={}), RestoreScope())
    # A UUID of the source may still be known to the target, as one whose ranges it is forgetting.
    return replace(plan, collections=tuple(replace(planned, uuid=None) for planned in plan.collections))


def _late(merged: MergedInventory, sharded: Mapping[str, PlannedSharding]) -> Iterator[LateExpiry]:
    for namespace, sharding in sharded.items():
        found = key_index(merged.whole.held[namespace], sharding)
        if found is not None and found.expires:
            yield LateExpiry(
                collection=(sharding.database, sharding.name),
                index=found.name,
                seconds=found.specification[_EXPIRY],
            )


def planned_sharded(part: PartPlan) -> Iterator[PlannedCollection]:
    """The sharded collections that a part gets ranges of."""
    return (planned for planned in part.load.collections if planned.held.namespace in part.ranges)
