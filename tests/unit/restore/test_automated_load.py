"""What a restore that undoes another one plans: what was not there before goes, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ebbtide.domain.automated_restore import AutomatedRestore, RestoreScope
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId
from ebbtide.restore.automated_load import find_leftovers, plan_for
from ebbtide.restore.load.inventory import Held, Inventory, Kind

RECORD = AutomatedRestore(
    id=RestoreJobId("5f00000000000000000000d2"),
    target_group_id=GroupId("5f0000000000000000000001"),
    target_cluster_id=ClusterId("5f00000000000000000000c1"),
    target_name="shop",
    scope=RestoreScope(namespaces=("shop.orders", "shop.new")),
    requested=datetime(2026, 1, 1, tzinfo=UTC),
    undoes=RestoreJobId("5f00000000000000000000d1"),
)


def inventory(*names: str) -> Inventory:
    options: Any = {}
    held = (Held(database="shop", name=name, kind=Kind.COLLECTION, options=options) for name in names)
    return Inventory(held={found.namespace: found for found in held})


def test_undoing_brings_back_what_was_there_and_removes_what_was_not() -> None:
    plan = plan_for(RECORD, inventory("orders", "other"), inventory("orders", "new", "other"))
    assert [planned.target_namespace for planned in plan.collections] == ["shop.orders"]
    assert sorted(removal.namespace for removal in plan.removals) == ["shop.new", "shop.orders"]
    assert sorted(name for removal in plan.removals for name in removal.drops) == ["shop.new", "shop.orders"]
    assert plan.dropped_databases == ()


def test_undoing_what_was_not_there_at_all_only_removes() -> None:
    plan = plan_for(RECORD, inventory("other"), inventory("orders", "other"))
    assert (plan.collections, plan.views, plan.dropped_databases) == ((), (), ())
    assert [removal.drops for removal in plan.removals] == [("shop.orders",)]


def test_another_restore_is_planned_as_it_is() -> None:
    record = replace(RECORD, undoes=None, scope=RestoreScope())
    plan = plan_for(record, inventory("orders"), inventory("other"))
    assert [planned.namespace for planned in plan.collections] == ["shop.orders"]
    assert [removal.namespace for removal in plan.removals] == ["shop.other"]
    assert plan.dropped_databases == ("shop",)


def test_what_was_to_go_for_good_and_is_there_is_found() -> None:
    plan = plan_for(RECORD, inventory("orders"), inventory("orders", "new", "other"))
    assert find_leftovers(plan, inventory("orders", "other")) == ()
    assert find_leftovers(plan, inventory("orders", "new", "other")) == ("shop.new",)
