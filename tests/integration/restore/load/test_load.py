"""What the loader puts into a running set is what the source holds: judged by the server's own dbHash, on each member."""

from collections.abc import Callable
from typing import Any

import pytest
from bson import Binary, Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from ebbtide.domain.automated_restore import RESTORE_ROLES
from ebbtide.errors import InvalidInput, NotFound
from ebbtide.mongod.deployment import DeploymentError
from ebbtide.restore.load.comparison import compare
from ebbtide.restore.load.expiry import start_expiry
from ebbtide.restore.load.reading import NaturalReader
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab

Client = MongoClient[dict[str, Any]]
Document = dict[str, Any]

ADMIN = ("local", "config", "admin")


def see(client: Client) -> Document:
    """All that users have: contents by hash, collections with options and UUIDs, indexes."""
    hashes = database_hashes(client, exclude=ADMIN)
    for of_database in hashes.values():
        # The same views, in the order in which they were made.
        of_database.pop("system.views", None)
    return {"hashes": hashes, "collections": {name: collections(client, name) for name in hashes}}


def collections(client: Client, database: str) -> Document:
    found: Document = {}
    for entry in client[database].list_collections():
        if entry["name"] != "system.views":
            is_view = entry["type"] != "collection"
            indexes = [] if is_view else client[database].command("listIndexes", entry["name"])["cursor"]
            specifications = [] if is_view else sorted(indexes["firstBatch"], key=lambda spec: spec["name"])
            found[entry["name"]] = (
                entry["type"],
                entry["options"],
                entry["info"].get("uuid"),
                specifications,
            )
    return found


def test_everything_arrives_as_it_was_on_each_member(story: Any, keyfile_lab: ReplicaSetLab) -> None:
    with keyfile_lab.client(w="majority") as root:
        root.shop.orders.insert_one({"of": "another history"})
        root.gone.rubbish.insert_many([{"n": n} for n in range(50)])
        root.gone.create_collection("seen", viewOn="rubbish", pipeline=[])
        root.telemetry.create_collection("old", timeseries={"timeField": "at"})
    plan = story.plan()
    assert {removal.namespace: removal.documents for removal in plan.removals} == {
        "shop.orders": 1,
        "gone.rubbish": 50,
        "gone.seen": 0,
        "telemetry.old": 0,
    }
    story.target.admin.command("setUserWriteBlockMode", 1, **{"global": True})
    try:
        recorder = story.tell(plan)
    finally:
        story.target.admin.command("setUserWriteBlockMode", 1, **{"global": False})

    expected = see(story.source)
    assert {"shop", "telemetry", "archive", "scratch"} == expected["hashes"].keys()
    keyfile_lab.wait_until_replicated()
    for member in keyfile_lab.members:
        with keyfile_lab.member_client(member.index) as client:
            assert expected == see(client)
    assert {c.namespace: c.held.documents for c in plan.collections} == recorder.documents
    assert {c.namespace for c in plan.collections} == set(recorder.finished_names)
    assert tuple(sorted(plan.expiring)) == ("shop.customers", "telemetry.measurements")


def test_expiry_begins_only_when_it_is_asked_for(story: Any) -> None:
    plan = story.plan("shop.customers", "telemetry.measurements")
    story.begin(plan)
    story.load(plan)
    story.index(plan)
    buckets = {"name": "system.buckets.measurements"}
    assert [i for i in story.target.shop.customers.list_indexes() if "expireAfterSeconds" in i] == []
    assert (
        "expireAfterSeconds" not in next(story.target.telemetry.list_collections(filter=buckets))["options"]
    )

    for _ in range(2):
        start_expiry(story.target, plan, check=lambda: None)
        assert len([i for i in story.target.shop.customers.list_indexes() if "expireAfterSeconds" in i]) == 1
        assert (
            "expireAfterSeconds" in next(story.target.telemetry.list_collections(filter=buckets))["options"]
        )


def test_what_the_server_would_change_or_refuse_arrives_unaltered(story: Any) -> None:
    documents: list[Document] = [
        {"_id": 1, "plain": Timestamp(0, 0), "nested": {"too": Timestamp(0, 0)}},
        {"_id": 2, "dotted.name": Timestamp(0, 0), "$dollar": Timestamp(0, 0)},
        *({"_id": f"many {n}", "t": Timestamp(0, 0)} for n in range(250)),
        {"_id": Timestamp(0, 0), "other": 1},
        {"_id": {"$ref": "reference", "$id": 1}, "t": Timestamp(0, 0)},
        {"_id": {"a": Timestamp(0, 0)}, "t": Timestamp(0, 0)},
        {"_id": "largest", "t": Timestamp(0, 0), "fill": b""},
    ]
    documents[-1]["fill"] = bytes(16 * 1024 * 1024 - len(Binary(b"")) - 52)
    odd = story.source.odd
    try:
        for name, options in (("plain", {}), ("capped", {"capped": True, "size": 64 * 1024 * 1024})):
            odd.create_collection(name, **options)
            for document in documents:
                # As the loader does, and no test of it: what counts is what dbHash says afterwards.
                update = [{"$replaceWith": {"$literal": document}}]
                odd[name].update_one({"_id": {"$eq": document["_id"]}}, update, upsert=True)
            assert len(documents) == odd[name].count_documents({})
            assert Timestamp(0, 0) == odd[name].find_one({"_id": 1})["plain"]
        plan = story.plan("odd.plain", "odd.capped")
        story.tell(plan)
        assert (
            database_hashes(story.source)["odd"]
            == database_hashes(story.target, exclude=(*ADMIN, "shop"))["odd"]
        )
    finally:
        story.source.drop_database("odd")


def test_some_namespaces_leave_the_rest_alone(story: Any) -> None:
    story.target.shop.customers.insert_one({"_id": "stays"})
    story.target.shop.orders.insert_one({"_id": "goes"})
    plan = story.plan("shop.orders", "shop.unpaid")
    assert [removal.namespace for removal in plan.removals] == ["shop.orders"]
    assert plan.dropped_databases == ()
    story.tell(plan)
    assert story.target.shop.customers.count_documents({}) == 1
    assert database_hashes(story.source)["shop"]["orders"] == database_hashes(story.target)["shop"]["orders"]
    assert story.source.shop.unpaid.count_documents({}) == story.target.shop.unpaid.count_documents({})


def test_stored_functions_are_replaced_where_they_cannot_be_dropped(story: Any) -> None:
    story.target.shop["system.js"].insert_one({"_id": "another", "value": 1})
    for _ in range(2):
        story.tell(story.plan("shop.system.js"))
        assert [found["_id"] for found in story.target.shop["system.js"].find()] == ["total"]


@pytest.mark.parametrize("name", ["orders", "measurements", "recent"])
def test_a_new_name_beside_the_old_one(story: Any, name: str) -> None:
    database = "shop" if name == "orders" else "telemetry"
    namespace = f"{database}.{name}"
    story.tell(story.plan(namespace))
    before = see(story.target)
    plan = story.plan(namespace, rename_to=f"{database}.rescued")
    assert [planned.uuid for planned in plan.collections] == [None]
    story.tell(plan)
    after = see(story.target)
    rescued = {key for key in after["hashes"][database] if key.endswith("rescued")}
    hashes = after["hashes"][database]
    assert {hashes[key.replace("rescued", name)] for key in rescued} == {hashes[key] for key in rescued}
    for key in before["hashes"][database]:
        assert before["hashes"][database][key] == hashes[key]
        assert before["collections"][database][key] == after["collections"][database][key]


def test_scopes_that_cannot_be_are_refused(story: Any) -> None:
    with pytest.raises(NotFound, match=r"shop\.nothing"):
        story.plan("shop.nothing")
    for namespace in ("admin.system.users", "config.transactions", "shop", "shop.system.buckets.x"):
        with pytest.raises(InvalidInput):
            story.plan(namespace)
    with pytest.raises(InvalidInput):
        story.plan("shop.orders", "shop.stock", rename_to="shop.both")


@pytest.mark.parametrize("left_out", RESTORE_ROLES)
def test_every_role_of_the_account_is_needed(story: Any, keyfile_lab: ReplicaSetLab, left_out: str) -> None:
    roles = [role for role in RESTORE_ROLES if role != left_out]
    with keyfile_lab.client(w="majority") as root:
        root.gone.rubbish.insert_one({})
        root.admin.command("createUser", "weak", pwd="weak", roles=roles)
    with keyfile_lab.client(username="weak", password="weak") as weak:
        plan = story.plan()
        with pytest.raises((DeploymentError, OperationFailure), match="not authorized"):
            story.with_target(weak).tell(plan)


CHANGES: dict[str, Callable[[Client], Any]] = {
    "shop.orders: 599 documents instead of 600": lambda c: c.shop.orders.delete_one({}),
    "shop.orders: the same number of documents, but another content": (
        lambda c: c.shop.orders.update_one({}, {"$set": {"total": -1}})
    ),
    "shop.stock: does not exist": lambda c: c.shop.stock.drop(),
    "shop.orders: an index paid_1 too many": lambda c: c.shop.orders.create_index("paid"),
    "shop.orders: no index lines.product_1": lambda c: c.shop.orders.drop_index("lines.product_1"),
    "shop.orders: hidden of index customer_hashed": (
        lambda c: c.shop.command("collMod", "orders", index={"name": "customer_hashed", "hidden": True})
    ),
    "shop.stock: option validationAction": (
        lambda c: c.shop.command("collMod", "stock", validationAction="warn")
    ),
    "shop.unpaid: pipeline of the view": (
        lambda c: c.shop.command("collMod", "unpaid", viewOn="orders", pipeline=[])
    ),
    "shop.unpaid: the view does not exist": lambda c: c.shop.unpaid.drop(),
}


def test_every_difference_is_named(story: Any) -> None:
    for expected, change in CHANGES.items():
        plan = story.plan("shop.orders", "shop.stock", "shop.unpaid")
        story.tell(plan)
        change(story.target)
        found = story.differences(plan)
        assert expected in found
        assert {expected.partition(":")[0]} == {difference.partition(":")[0] for difference in found}


def test_without_digests_documents_are_counted(story: Any) -> None:
    plan = story.plan("shop.orders")
    story.tell(plan)
    story.target.shop.orders.update_one({}, {"$set": {"total": -1}})
    counted = compare(NaturalReader(story.source), story.target, plan, check=lambda: None, digests=False)
    assert ((), 0, True, plan.documents) == (
        counted.differences, counted.digested, counted.is_digest_skipped, counted.documents
    )  # fmt: skip
    story.target.shop.orders.delete_one({})
    assert (
        len(
            compare(
                NaturalReader(story.source), story.target, plan, check=lambda: None, digests=False
            ).differences
        )
        == 1
    )
