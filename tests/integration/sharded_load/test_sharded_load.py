"""A sharded cluster is restored into running ones, with as many shards and with others, and into a replica set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import MinKey
from pymongo import MongoClient

from ebbtide.domain.automated_restore import RestoreScope
from ebbtide.domain.cluster_layout import ClusterLayout
from ebbtide.domain.sharded_restore import RoutedRange, plan_sharded_restore, refuse_sharded_restore, route
from ebbtide.restore.load.comparison import compare
from ebbtide.restore.load.creation import create_collections, create_views
from ebbtide.restore.load.documents import Pace, load_documents
from ebbtide.restore.load.indexes import build_indexes
from ebbtide.restore.load.inventory import read_inventory
from ebbtide.restore.load.plan import plan_load
from ebbtide.restore.sharded_load.layout import read_layout
from ebbtide.restore.sharded_load.loading import ShardedLoad, parts_by_namespace
from ebbtide.restore.sharded_load.rebuilding import Rebuild
from ebbtide.restore.sharded_load.source import OwnedReader, ShardedSource
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.sharded_lab import CONFIG, ShardedLab

from .conftest import DAY_SECONDS, EVENTS, EXPECTED, GERMAN, ORDERS, PAIRS, SHARDED, USERS, no_check

Document = dict[str, Any]
Client = MongoClient[Document]

QUICK = Pace(writers=2, readers=2, batch_documents=50)


class Recorder:
    """What one part told. `stop_after` namespaces were finished, it is as if the worker died."""

    def __init__(self, finished: set[tuple[str, str]], part: str, *, stop_after: int | None = None) -> None:
        self._finished = finished
        self._part = part
        self._stop_after = stop_after

    def loaded(self, namespace: str, *, documents: int, size_bytes: int) -> None: ...

    def begun_anew(self, namespace: str) -> None: ...

    def finished(self, namespace: str) -> None:
        self._finished.add((self._part, namespace))
        if self._stop_after is not None and len(self._finished) >= self._stop_after:
            raise Died


class Died(Exception):
    """The worker, in a test."""


def clients_of(lab: ShardedLab) -> dict[str, Client]:
    return {name: lab.admin_client(name) for name in lab.parts}


def begin(source: ShardedSource, lab: ShardedLab) -> ShardedLoad:
    """Up to where everything of the target is gone."""
    clients = clients_of(lab)
    layout = read_layout(clients[CONFIG])
    assert refuse_sharded_restore(source.layout, layout) == ()
    lab.stop_balancer()
    Rebuild(clients, check=no_check).wipe(layout)
    return ShardedLoad(
        source, clients, plan_sharded_restore(source.layout, layout), check=no_check, pace=QUICK
    )


def restore(source: ShardedSource, lab: ShardedLab) -> ShardedLoad:
    """Everything, in the order in which a restore does it."""
    load = begin(source, lab)
    load.prepare(finished=())
    finished: set[tuple[str, str]] = set()
    load.load(finished=(), reporter=lambda part: Recorder(finished, part))
    assert {held.shown for held in source.merged.whole.held.values() if held.uuid} == whole_namespaces(
        load, finished
    )
    assert load.compare().differences == ()
    load.complete()
    return load


def whole_namespaces(load: ShardedLoad, finished: set[tuple[str, str]]) -> set[str]:
    """What every part that gets some of it has finished."""
    return {
        namespace
        for namespace, names in parts_by_namespace(load.parts).items()
        if all((name, namespace) in finished for name in names)
    }


def found_on(lab: ShardedLab, namespace: str) -> dict[str, list[Document]]:
    """By part, what lies there, in the order of _id."""
    database, _, name = namespace.partition(".")
    found = {part: list(client[database][name].find()) for part, client in clients_of(lab).items()}
    return {part: by_id(documents) for part, documents in found.items() if documents}


def by_id(documents: list[Document]) -> list[Document]:
    return sorted(documents, key=lambda document: str(document["_id"]))


def check_documents(lab: ShardedLab) -> None:
    for namespace, expected in EXPECTED.items():
        found = found_on(lab, namespace)
        assert by_id(expected) == by_id([d for part in found.values() for d in part]), namespace


def ownership(layout: ClusterLayout) -> dict[str, tuple[RoutedRange, ...]]:
    """Which shard has which ranges, however many chunks these are."""
    stay = {shard: (shard,) for shard in layout.shards}
    return {namespace: route(collection, stay) for namespace, collection in layout.collections.items()}


def indexes(lab: ShardedLab, part: str, namespace: str) -> dict[str, Document]:
    database, _, name = namespace.partition(".")
    return {index["name"]: dict(index) for index in lab.admin_client(part)[database][name].list_indexes()}


def test_a_cluster_comes_back_into_the_one_that_it_came_from(
    source: ShardedSource, sharded_lab: ShardedLab
) -> None:
    sharded_lab.create_sharded("shop.orders", {"n": 1}, "shard1")
    sharded_lab.create_sharded("gone.soon", {"_id": 1}, "shard1")
    sharded_lab.admin_client("shard0").stray.here.insert_one({})
    restore(source, sharded_lab)

    check_documents(sharded_lab)
    assert [*range(100), *range(200, 300)] == sorted(
        d["_id"] for d in found_on(sharded_lab, ORDERS)["shard0"]
    )
    assert {"shard1": by_id(EXPECTED["other.notes"])} == found_on(sharded_lab, "other.notes")
    assert {"shard0", "shard1"} == found_on(sharded_lab, USERS).keys()
    found = read_layout(sharded_lab.admin_client(CONFIG))
    assert ownership(source.layout) == ownership(found)
    assert (source.layout.databases, source.layout.zone_ranges) == (found.databases, found.zone_ranges)
    assert source.layout.shard_zones == found.shard_zones
    assert {"admin", "config", "local", "shop", "other", "words"} == set(
        sharded_lab.admin_client("shard0").list_database_names()
    ) | set(sharded_lab.admin_client("shard1").list_database_names())
    for part in ("shard0", "shard1"):
        assert {"_id_", "by n"} == indexes(sharded_lab, part, ORDERS).keys()
        wide = indexes(sharded_lab, part, PAIRS)["wide"]
        assert (wide["unique"], dict(wide["key"])) == (True, {"name": 1, "place": 1, "_id": -1})
        by_age = indexes(sharded_lab, part, EVENTS)["by age"]
        assert by_age["expireAfterSeconds"] == 10 * 365 * DAY_SECONDS
        (pairs,) = sharded_lab.admin_client(part).words.list_collections(filter={"name": "pairs"})
        assert GERMAN["locale"] == pairs["options"]["collation"]["locale"]
        assert pairs["options"]["validator"] == {"_id": {"$exists": True}}
    assert (
        sharded_lab.admin_client("shard0").shop.command("count", "orders", query={"n": 0})["n"]
        + len([d for d in found_on(sharded_lab, ORDERS)["shard1"] if d["n"] == 0])
        == 58
    )
    (weather,) = sharded_lab.admin_client("shard1").other.list_collections(filter={"name": "weather"})
    assert weather["type"] == "timeseries"


def test_what_was_restored_moves_like_any_other_data(source: ShardedSource, sharded_lab: ShardedLab) -> None:
    # Shards that are in no hurry to forget, as real ones are: nothing may wait for that.
    for shard in sharded_lab.shards:
        sharded_lab.admin_client(shard).admin.command("setParameter", 1, orphanCleanupDelaySecs=900)
    try:
        restore(source, sharded_lab)
        restore(source, sharded_lab)
    finally:
        for shard in sharded_lab.shards:
            sharded_lab.admin_client(shard).admin.command("setParameter", 1, orphanCleanupDelaySecs=0)

    check_documents(sharded_lab)
    sharded_lab.move_range(ORDERS, {"_id": MinKey()}, {"_id": 100}, "shard1")
    check_documents(sharded_lab)
    assert [*range(200, 300)] == sorted(d["_id"] for d in found_on(sharded_lab, ORDERS)["shard0"])


def test_an_interrupted_load_goes_on_where_it_was(source: ShardedSource, sharded_lab: ShardedLab) -> None:
    load = begin(source, sharded_lab)
    load.prepare(finished=())
    finished: set[tuple[str, str]] = set()
    with pytest.raises(Died):
        load.load(finished=(), reporter=lambda part: Recorder(finished, part, stop_after=5))
    whole = whole_namespaces(load, finished)
    uuids = {namespace: sharded_lab.collection_entry(namespace)["uuid"] for namespace in SHARDED}

    again = ShardedLoad(source, clients_of(sharded_lab), load.plan, check=no_check, pace=QUICK)
    again.prepare(finished=whole)
    again.load(finished=whole, reporter=lambda part: Recorder(finished, part))

    assert again.compare().differences == ()
    check_documents(sharded_lab)
    assert {namespace: namespace in whole for namespace in SHARDED} == {
        namespace: uuids[namespace] == sharded_lab.collection_entry(namespace)["uuid"]
        for namespace in SHARDED
    }


def test_every_difference_is_named_with_its_shard(source: ShardedSource, sharded_lab: ShardedLab) -> None:
    load = restore(source, sharded_lab)
    s0, s1 = sharded_lab.admin_client("shard0"), sharded_lab.admin_client("shard1")
    s0.shop.orders.update_one({"_id": 5}, {"$set": {"text": "order X"}})
    s1.shop.orders.delete_one({"_id": 150})
    s1.shop.orders.drop_index("by n")
    s1.shop.users.insert_one({"_id": 10_000})
    s0.stray.here.insert_one({})

    differences = load.compare().differences

    for line in (
        "shard0: shop.orders: the same number of documents, but another content",
        "shard1: shop.orders: 199 documents instead of 200",
        "shard1: shop.orders: no index by n",
        "shard0: stray.here should not be there",
    ):
        assert line in differences
    counted = load.compare(digests=False)
    assert counted.is_digest_skipped
    assert "shard1: shop.orders: 199 documents instead of 200" in counted.differences


@pytest.fixture(scope="module", params=[1, 3])
def other_lab(request: pytest.FixtureRequest, mongod_binary: Path) -> Iterator[ShardedLab]:
    with ShardedLab(mongod_binary, shards=request.param) as lab:
        yield lab


def test_the_number_of_shards_need_not_be_the_same(source: ShardedSource, other_lab: ShardedLab) -> None:
    restore(source, other_lab)

    check_documents(other_lab)
    layout = read_layout(other_lab.admin_client(CONFIG))
    found = {part for namespace in SHARDED for part in found_on(other_lab, namespace)}
    assert set(other_lab.shards) == found
    far = {shard for shard, zones in layout.shard_zones.items() if "far" in zones}
    owners = {c.shard for c in layout.collections[ORDERS].chunks if c.range.ends_at_the_end}
    assert owners <= far
    assert [found.zone for found in layout.zone_ranges] == ["far"]


def test_a_sharded_cluster_becomes_a_replica_set(source: ShardedSource, lab: ReplicaSetLab) -> None:
    with lab.client(w="majority") as client:
        client.old.here.insert_one({})
        plan = plan_load(source.merged.whole, read_inventory(client), RestoreScope())
        reader = OwnedReader(source, source.owned_ranges())
        create_collections(client, plan, finished=(), check=no_check)
        load_documents(
            reader, client, plan, finished=(), reporter=Recorder(set(), "all"), check=no_check, pace=QUICK
        )
        build_indexes(client, plan, check=no_check)
        create_views(client, plan, check=no_check)

        assert compare(reader, client, plan, check=no_check).differences == ()
        assert compare(reader, client, plan, check=no_check, digests=False).differences == ()
        for namespace, expected in EXPECTED.items():
            database, _, name = namespace.partition(".")
            assert by_id(expected) == by_id(list(client[database][name].find())), namespace
        client.admin.drop_collection("team")
