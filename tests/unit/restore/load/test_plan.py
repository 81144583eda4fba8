"""What a load removes and creates: decided from two inventories, tested without a server."""

from typing import Any
from uuid import UUID

import pytest
from bson import Binary

from ebbtide.domain.automated_restore import RestoreScope
from ebbtide.errors import InvalidInput, NotFound
from ebbtide.restore.load.comparison import iter_catalog_differences
from ebbtide.restore.load.inventory import Held, Index, Inventory, Kind, is_servers_own
from ebbtide.restore.load.plan import LoadPlan, Removal, plan_load

EVERYTHING = RestoreScope()


def uuid(number: int) -> Binary:
    return Binary.from_uuid(UUID(int=number))


def held(namespace: str, number: int = 0, **more: Any) -> Held:
    database, _, name = namespace.partition(".")
    values: dict[str, Any] = {"kind": Kind.COLLECTION, "options": {}, "uuid": uuid(number)}
    return Held(database=database, name=name, **(values | more))


def view(namespace: str, kind: Kind = Kind.VIEW, **options: Any) -> Held:
    return held(namespace, kind=kind, options=options, uuid=None)


def inventory(*found: Held, left_out: tuple[str, ...] = ()) -> Inventory:
    return Inventory(held={h.namespace: h for h in found}, left_out=left_out)


SOURCE = inventory(
    held("shop.orders", 1, documents=3, size_bytes=30),
    held("shop.stock", 2),
    view("shop.unpaid", viewOn="orders", pipeline=[]),
    held("telemetry.system.buckets.heat", 3, options={"timeseries": {}, "expireAfterSeconds": 60}),
    view("telemetry.heat", Kind.TIME_SERIES, viewOn="system.buckets.heat", pipeline=[{"unpack": 1}]),
    left_out=("admin.system.users", "admin.system.version"),
)


def targets(plan: LoadPlan) -> dict[str, Binary | None]:
    return {planned.target_namespace: planned.uuid for planned in plan.collections}


def test_everything_replaces_everything() -> None:
    target = inventory(
        held("shop.orders", 9, documents=2, size_bytes=20),
        held("old.system.buckets.cold", 8, documents=1, size_bytes=10),
        view("old.cold", Kind.TIME_SERIES),
        held("admin.settings", 7),
        left_out=("admin.system.users", "old.system.profile", "traced.system.profile"),
    )
    plan = plan_load(SOURCE, target, EVERYTHING)
    assert (
        Removal(namespace="shop.orders", documents=2, size_bytes=20, drops=("shop.orders",)),
        Removal(
            namespace="old.cold",
            documents=1,
            size_bytes=10,
            drops=("old.cold", "old.system.buckets.cold"),
        ),
        Removal(namespace="admin.settings", documents=0, size_bytes=0, drops=("admin.settings",)),
    ) == plan.removals
    assert plan.dropped_databases == ("old", "shop", "traced")
    assert {
        "shop.orders": uuid(1),
        "shop.stock": uuid(2),
        "telemetry.system.buckets.heat": uuid(3),
    } == targets(plan)
    assert [planned.namespace for planned in plan.views] == ["shop.unpaid", "telemetry.heat"]
    assert (plan.documents, plan.size_bytes, plan.removed_bytes) == (3, 30, 30)
    assert SOURCE.left_out == plan.left_out


def test_what_is_not_chosen_stays() -> None:
    target = inventory(held("shop.orders", 1), held("shop.stock", 2), held("shop.mine", 3))
    scope = RestoreScope(namespaces=("shop.orders", "telemetry.heat"))
    plan = plan_load(SOURCE, target, scope)
    assert [removal.namespace for removal in plan.removals] == ["shop.orders"]
    assert plan.dropped_databases == ()
    # Of the target's collections that stay, one has the UUID of the time series' buckets: the server would rename it.
    assert {"shop.orders": uuid(1), "telemetry.system.buckets.heat": None} == targets(plan)


def test_a_new_name_goes_for_both_halves_of_a_time_series() -> None:
    scope = RestoreScope(namespaces=("telemetry.heat",), rename_to="telemetry.warmth")
    plan = plan_load(SOURCE, inventory(), scope)
    assert {"telemetry.system.buckets.warmth": uuid(3)} == targets(plan)
    (planned,) = plan.views
    assert planned.target == ("telemetry", "warmth")
    assert planned.options == {"viewOn": "system.buckets.warmth", "pipeline": [{"unpack": 1}]}
    assert [collection.namespace for collection in plan.collections] == ["telemetry.heat"]


def test_expiry_is_kept_for_the_end() -> None:
    (planned,) = plan_load(SOURCE, inventory(), RestoreScope(namespaces=("telemetry.heat",))).collections
    assert planned.creation_options == {"timeseries": {}}
    assert planned.expire_after_seconds == 60


def test_indexes_are_told_apart() -> None:
    specifications: list[dict[str, Any]] = [
        {"name": "_id_", "key": {"_id": 1}},
        {"name": "own name", "key": {"_id": 1}, "clustered": True},
        {"name": "plain", "key": {"a": 1}},
        {"name": "aging", "key": {"b": 1}, "expireAfterSeconds": 5},
    ]
    unfinished = Index(specification={"name": "slow", "key": {"c": 1}}, is_unfinished=True)
    indexes = (*(Index(specification=spec) for spec in specifications), unfinished)
    plan = plan_load(inventory(held("shop.orders", indexes=indexes)), inventory(), EVERYTHING)
    (planned,) = plan.collections
    assert [index.name for index in planned.plain_indexes] == ["plain"]
    assert [index.name for index in planned.expiring_indexes] == ["aging"]
    assert plan.unfinished_indexes == (("shop.orders", "slow"),)
    assert plan.expiring == ("shop.orders",)


@pytest.mark.parametrize(
    ("namespaces", "rename_to", "error"),
    [
        (("shop.nothing",), None, NotFound),
        (("shop",), None, InvalidInput),
        (("shop.system.views",), None, InvalidInput),
        (("telemetry.system.buckets.heat",), None, InvalidInput),
        (("local.oplog.rs",), None, InvalidInput),
        (("shop.orders",), "config.settings", InvalidInput),
        (("shop.orders", "shop.stock"), "shop.new", InvalidInput),
        ((), "shop.new", InvalidInput),
        (("shop.unpaid",), "elsewhere.unpaid", InvalidInput),
    ],
)
def test_scopes_that_make_no_sense(
    namespaces: tuple[str, ...], rename_to: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        plan_load(SOURCE, inventory(), RestoreScope(namespaces=namespaces, rename_to=rename_to))


@pytest.mark.parametrize(
    ("database", "name", "expected"),
    [
        ("local", "anything", True),
        ("config", "transactions", True),
        ("admin", "system.users", True),
        ("admin", "settings", False),
        ("shop", "system.profile", True),
        ("shop", "system.views", True),
        ("shop", "system.js", False),
        ("shop", "system.buckets.heat", False),
        ("shop", "orders", False),
    ],
)
def test_what_belongs_to_the_server(database: str, name: str, expected: bool) -> None:
    assert expected is is_servers_own(database, name)


def test_catalogs_that_are_as_planned_have_no_differences() -> None:
    plan = plan_load(SOURCE, inventory(), EVERYTHING)
    held_now = {**SOURCE.held}
    heat = held_now["telemetry.system.buckets.heat"]
    held_now[heat.namespace] = held(heat.namespace, 3, options={"timeseries": {}})
    assert list(iter_catalog_differences(plan, Inventory(held=held_now))) == []
    everything_missing = list(iter_catalog_differences(plan, inventory()))
    assert len(plan.collections) + len(plan.views) == len(everything_missing)
    held_now["shop.stock"] = held("shop.stock", 4)
    assert list(iter_catalog_differences(plan, Inventory(held=held_now))) == ["shop.stock: another UUID"]
