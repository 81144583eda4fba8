"""The parts of a sharded cluster as one source: what there is, which part has it, and reading what a part owned.

A collection that is not sharded is read where its database's primary shard was; what lies elsewhere under its name was
left behind by a move of the database. A sharded one is read by the ranges that each shard owned, over an index on its
shard key, in which hashed values and missing fields stand where the server put them.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from bson import MaxKey, MinKey
from pymongo.collation import Collation

from ebbtide.domain.cluster_layout import ClusterLayout, KeyRange
from ebbtide.domain.sharded_restore import choose_key_index, extend_bound, owned_ranges
from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.errors import Refused
from ebbtide.restore.load.batches import as_batch
from ebbtide.restore.load.inventory import Client, Held, Inventory, read_inventory
from ebbtide.restore.load.plan import PlannedCollection
from ebbtide.restore.load.reading import count_all, iter_found
from ebbtide.restore.sharded_load.layout import read_layout

OwnedRanges = Mapping[str, Mapping[str, Sequence[KeyRange]]]
"""By namespace and shard of the source: the ranges that are read there."""


@dataclass(frozen=True, kw_only=True)
class MergedInventory:
    """`whole` is what users had. `on_parts`: each namespace as the parts have it that are to be read for it."""

    whole: Inventory
    on_parts: Mapping[str, Mapping[str, Held]]


def merge_inventories(layout: ClusterLayout, inventories: Mapping[str, Inventory]) -> MergedInventory:
    """Pure. Sizes of a sharded collection are sums over its owners, what they did not own included.

    Raises Refused where a shard that owned ranges of a collection does not have it.
    """
    on_parts: dict[str, dict[str, Held]] = {}
    left_out: set[str] = set()
    for part, inventory in inventories.items():
        left_out |= set(inventory.left_out)
        for namespace, held in inventory.held.items():
            if namespace not in layout.collections and part == layout.home_of(held.database):
                on_parts[namespace] = {part: held}
            elif namespace not in layout.collections:
                left_out.add(f"{namespace} on {part}")
    for namespace, collection in layout.collections.items():
        owners = {shard: inventories[shard].held.get(namespace) for shard in collection.owners}
        found = {shard: held for shard, held in owners.items() if held is not None}
        if len(found) < len(owners):
            missing = ", ".join(sorted(owners.keys() - found.keys()))
            raise Refused(f"{missing} owned ranges of {namespace}, and does not have it")
        on_parts[namespace] = found
    return MergedInventory(
        whole=Inventory(
            held={namespace: _merged(list(parts.values())) for namespace, parts in on_parts.items()},
            left_out=tuple(sorted(left_out)),
        ),
        on_parts=on_parts,
    )


def _merged(parts: list[Held]) -> Held:
    # That of the lowest range first: what it says of indexes, a router says too.
    return replace(
        parts[0],
        documents=sum(held.documents for held in parts),
        size_bytes=sum(held.size_bytes for held in parts),
    )


@dataclass(frozen=True, kw_only=True)
class ShardedSource:
    """Clients of the parts' scratch mongods by name, and what they hold."""

    clients: Mapping[str, Client]
    layout: ClusterLayout
    merged: MergedInventory

    @classmethod
    def read(cls, clients: Mapping[str, Client]) -> Self:
        """Ask all parts; `clients` are of every shard and, under CONFIG_PART, of the config server.

        Raises Refused where a part is missing or they are no whole, Unreachable, DeploymentError.
        """
        layout = read_layout(clients[CONFIG_PART])
        missing = sorted({*layout.shards} - clients.keys())
        if missing:
            raise Refused(f"the cluster had {', '.join(missing)} too: every part is needed")
        parts = {name: read_inventory(clients[name]) for name in (*layout.shards, CONFIG_PART)}
        return cls(clients=clients, layout=layout, merged=merge_inventories(layout, parts))

    def owned_ranges(self) -> OwnedRanges:
        """Everything: what each shard owned of each sharded collection."""
        return {namespace: owned_ranges(found) for namespace, found in self.layout.collections.items()}


class OwnedReader:
    """Reads collections of a source: of sharded ones the given ranges, of others everything. See `restore.load.reading`."""

    def __init__(self, source: ShardedSource, ranges: OwnedRanges) -> None:
        self._source = source
        self._ranges = ranges

    def iter_batches(self, planned: PlannedCollection, *, batch_documents: int) -> Generator[bytes]:
        for client, held, find in self._iter_reads(planned):
            yield from iter_found(client, held, batch_documents=batch_documents, **find)

    def count_documents(self, planned: PlannedCollection) -> int:
        count = 0
        for client, held, find in self._iter_reads(planned):
            if find:
                few = iter_found(client, held, projection={"_id": 1}, **find)
                count += sum(as_batch(raw).count for raw in few)
            else:
                count += count_all(client[held.database][held.name])
        return count

    def _iter_reads(self, planned: PlannedCollection) -> Iterator[tuple[Client, Held, dict[str, Any]]]:
        """Server, collection and further arguments of each cursor."""
        namespace = planned.held.namespace
        collection = self._source.layout.collections.get(namespace)
        for part, held in self._source.merged.on_parts[namespace].items():
            client = self._source.clients[part]
            if collection is None:
                yield client, held, {}
                continue
            for owned in self._ranges.get(namespace, {}).get(part, ()):
                yield client, held, bounds_of(held, collection.key, owned)


def bounds_of(held: Held, key: Mapping[str, Any], owned: KeyRange) -> dict[str, Any]:
    """Arguments of a find that reads one range of a shard key. Raises Refused where no index of it is there."""
    if owned.is_everything:
        # Nothing can be there that it does not own, and natural order is faster.
        return {}
    specifications = [index.specification for index in held.indexes if not index.is_unfinished]
    index = choose_key_index(specifications, key)
    if index is None:
        raise Refused(f"{held.namespace} has no index on its shard key: its owned ranges cannot be read")
    # Without a collation it would be the collection's own, which the index does not have.
    found: dict[str, Any] = {"hint": index["name"], "collation": Collation("simple")}
    if not owned.begins_at_the_beginning:
        found["min"] = extend_bound(owned.low, index["key"], lowest=MinKey(), highest=MaxKey())
    if not owned.ends_at_the_end:
        found["max"] = extend_bound(owned.high, index["key"], lowest=MinKey(), highest=MaxKey())
    return found
