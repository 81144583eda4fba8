"""Several parts as one source, and what each part of a target gets of it."""

from typing import Any

import pytest
from bson import Binary, MaxKey, MinKey

from ebbtide.domain.cluster_layout import Chunk, ClusterLayout, KeyRange, ShardedCollection
from ebbtide.domain.sharded_restore import ShardedRestorePlan, plan_sharded_restore
from ebbtide.errors import Refused
from ebbtide.restore.load.inventory import Held, Index, Inventory, Kind
from ebbtide.restore.sharded_load.loading import find_foreign, parts_by_namespace
from ebbtide.restore.sharded_load.parts import LateExpiry, PartPlan, plan_parts
from ebbtide.restore.sharded_load.source import MergedInventory, bounds_of, merge_inventories

LOW, MIDDLE, HIGH = {"k": MinKey()}, {"k": 5}, {"k": MaxKey()}
KEY_INDEX = Index(specification={"name": "k_1", "key": {"k": 1}, "expireAfterSeconds": 60})
LAYOUT = ClusterLayout(
    shards=("a", "b"),
    databases={"shop": "a", "other": "b"},
    collections={
        "shop.orders": ShardedCollection(
            namespace="shop.orders",
            key={"k": 1},
            is_unique=False,
            chunks=(
                Chunk(range=KeyRange(low=LOW, high=MIDDLE), shard="b"),
                Chunk(range=KeyRange(low=MIDDLE, high=HIGH), shard="a"),
            ),
        )
    },
    shard_zones={"a": frozenset(), "b": frozenset()},
)


def held(namespace: str, documents: int = 0, *indexes: Index, **fields: Any) -> Held:
    database, _, name = namespace.partition(".")
    values: dict[str, Any] = {"kind": Kind.COLLECTION, "options": {}, "uuid": Binary(b"u" * 16, 4)}
    return Held(
        database=database,
        name=name,
        documents=documents,
        size_bytes=10 * documents,
        indexes=indexes,
        **(values | fields),
    )


def inventory(*namespaces: Held, left_out: tuple[str, ...] = ()) -> Inventory:
    return Inventory(held={found.namespace: found for found in namespaces}, left_out=left_out)


PARTS = {
    "a": inventory(held("shop.orders", 3, KEY_INDEX), held("shop.plain", 1), held("other.notes", 9)),
    "b": inventory(
        held("shop.orders", 4, KEY_INDEX),
        held("other.notes", 2),
        held("other.view", kind=Kind.VIEW, uuid=None, options={"viewOn": "notes", "pipeline": []}),
        held("stray.x", 1),
    ),
    "config": inventory(held("admin.team", 1), left_out=("admin.system.users",)),
}


@pytest.fixture
def merged() -> MergedInventory:
    return merge_inventories(LAYOUT, PARTS)


def planned(*targets: str) -> ShardedRestorePlan:
    shards = tuple(targets)
    target = ClusterLayout(
        shards=shards, databases={}, collections={}, shard_zones=dict.fromkeys(shards, frozenset())
    )
    return plan_sharded_restore(LAYOUT, target)


def parts_of(merged: MergedInventory, *targets: str) -> dict[str, PartPlan]:
    return {part.name: part for part in plan_parts(merged, planned(*targets))}


def test_what_is_not_sharded_is_where_its_database_is(merged: MergedInventory) -> None:
    assert {
        "shop.orders",
        "shop.plain",
        "other.notes",
        "other.view",
        "admin.team",
    } == merged.whole.held.keys()
    assert {"b"} == merged.on_parts["other.notes"].keys()
    assert merged.whole.left_out == ("admin.system.users", "other.notes on a", "stray.x on b")


def test_what_is_sharded_is_where_its_ranges_are(merged: MergedInventory) -> None:
    # That of the lowest range first.
    assert list(merged.on_parts["shop.orders"]) == ["b", "a"]
    assert (merged.whole.held["shop.orders"].documents, merged.whole.held["shop.orders"].size_bytes) == (
        7,
        70,
    )


def test_a_shard_without_a_collection_of_which_it_owned_ranges_is_refused() -> None:
    with pytest.raises(Refused, match="b owned ranges"):
        merge_inventories(LAYOUT, {**PARTS, "b": inventory()})


def test_each_part_gets_what_is_its_own(merged: MergedInventory) -> None:
    parts = parts_of(merged, "a", "b")

    assert {"a", "b", "config"} == parts.keys()
    gets = {name: sorted(c.namespace for c in part.load.collections) for name, part in parts.items()}
    assert gets == {
        "a": ["shop.orders", "shop.plain"],
        "b": ["other.notes", "shop.orders"],
        "config": ["admin.team"],
    }
    assert [c.namespace for c in parts["a"].own.collections] == ["shop.plain"]
    assert [view.namespace for view in parts["b"].own.views] == ["other.view"]
    assert {"shop.orders": {"b": (KeyRange(low=LOW, high=MIDDLE),)}} == parts["b"].ranges
    assert all(c.uuid is None for part in parts.values() for c in part.load.collections)


def test_shards_that_become_one_are_read_one_after_the_other(merged: MergedInventory) -> None:
    parts = parts_of(merged, "x")

    assert {"b", "a"} == parts["x"].ranges["shop.orders"].keys()
    assert {"x", "config"} == parts.keys()


def test_the_index_of_a_shard_key_expires_nothing_before_the_end(merged: MergedInventory) -> None:
    part = parts_of(merged, "a", "b")["a"]

    (orders,) = (c for c in part.load.collections if c.namespace == "shop.orders")
    assert [index.specification for index in orders.plain_indexes] == [{"name": "k_1", "key": {"k": 1}}]
    assert orders.expiring_indexes == ()
    assert (LateExpiry(collection=("shop", "orders"), index="k_1", seconds=60),) == part.late_expiries


def test_a_collection_is_loaded_by_every_part_that_gets_some_of_it(merged: MergedInventory) -> None:
    found = parts_by_namespace(plan_parts(merged, planned("a", "b")))

    assert ({"a", "b"}, {"a"}, {"config"}) == (found["shop.orders"], found["shop.plain"], found["admin.team"])


def test_documents_where_nothing_was_put_are_foreign() -> None:
    assert find_foreign(inventory(held("a.x", 1), held("a.y", 1), held("a.z", 0)), {"a.x"}) == ["a.y"]


def test_a_range_is_read_between_its_bounds() -> None:
    orders, key = held("shop.orders", 3, KEY_INDEX), {"k": 1}

    first = bounds_of(orders, key, KeyRange(low=LOW, high=MIDDLE))
    assert (first["hint"], first["max"], "min" in first) == ("k_1", MIDDLE, False)
    last = bounds_of(orders, key, KeyRange(low=MIDDLE, high=HIGH))
    assert (last["min"], "max" in last) == (MIDDLE, False)
    assert bounds_of(orders, key, KeyRange(low=LOW, high=HIGH)) == {}
    with pytest.raises(Refused, match="no index on its shard key"):
        bounds_of(held("shop.orders"), key, KeyRange(low=LOW, high=MIDDLE))
