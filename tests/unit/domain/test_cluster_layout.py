"""The layout of a sharded cluster in the documents of its config server."""

from typing import Any

import pytest
from bson import MaxKey, MinKey

from ebbtide.domain.cluster_layout import ClusterLayout, KeyRange, parse_layout
from ebbtide.errors import Refused

Document = dict[str, Any]
LOW, HIGH = {"a": MinKey()}, {"a": MaxKey()}


def chunk(low: Document, high: Document, shard: str = "s0", uuid: bytes = b"u") -> Document:
    return {"uuid": uuid, "min": low, "max": high, "shard": shard}


def documents(**changes: list[Document]) -> dict[str, list[Document]]:
    return {
        "shards": [{"_id": "s1", "tags": ["far"]}, {"_id": "s0", "draining": True}],
        "databases": [{"_id": "shop", "primary": "s0"}],
        "collections": [
            {"_id": "shop.a", "uuid": b"u", "key": {"a": 1}, "unique": True, "noBalance": True},
            {"_id": "config.system.sessions", "uuid": b"v", "key": {"_id": 1}},
        ],
        "chunks": [chunk(LOW, {"a": 5}), chunk({"a": 5}, HIGH, "s1"), chunk(LOW, HIGH, uuid=b"v")],
        "tags": [{"ns": "shop.a", "min": {"a": 5}, "max": HIGH, "tag": "far"}],
    } | changes


def parse(**changes: list[Document]) -> ClusterLayout:
    return parse_layout(**documents(**changes))


def test_a_layout_has_what_users_have() -> None:
    layout = parse()

    assert (("s0", "s1"), frozenset({"s0"})) == (layout.shards, layout.draining)
    assert {"s0": frozenset(), "s1": frozenset({"far"})} == layout.shard_zones
    assert list(layout.collections) == ["shop.a"]
    collection = layout.collections["shop.a"]
    assert (collection.database, collection.name, collection.owners) == ("shop", "a", ("s0", "s1"))
    assert (
        collection.is_unique,
        collection.was_resharding,
        collection.settings,
    ) == (True, False, ("noBalance",))
    assert [KeyRange(low={"a": 5}, high=HIGH)] == [found.range for found in layout.zone_ranges]


@pytest.mark.parametrize(
    ("database", "home"), [("shop", "s0"), ("admin", "config"), ("config", None), ("left", None)]
)
def test_what_is_not_sharded_has_one_home(database: str, home: str | None) -> None:
    assert home == parse().home_of(database)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chunks": []}, "do not reach"),
        ({"chunks": [chunk(LOW, {"a": 5})]}, "do not reach"),
        ({"chunks": [chunk({"a": 5}, HIGH)]}, "do not reach"),
        ({"chunks": [chunk(LOW, {"a": 5}), chunk({"a": 6}, HIGH)]}, "a gap"),
        ({"chunks": [chunk(LOW, {"a": 5}), chunk({"a": 4}, HIGH)]}, "overlap"),
        ({"chunks": [chunk(LOW, HIGH, "s9")]}, "on s9"),
        ({"databases": [{"_id": "shop", "primary": "s9"}]}, "s9"),
    ],
)
def test_what_is_no_whole_is_refused(changes: dict[str, list[Document]], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        parse(**changes)


@pytest.mark.parametrize(
    ("low", "high", "is_everything"),
    [
        ({"a": MinKey(), "b": MinKey()}, {"a": MaxKey(), "b": MaxKey()}, True),
        ({"a": MinKey(), "b": 1}, {"a": MaxKey(), "b": MaxKey()}, False),
        ({"a": MinKey()}, {"a": 1}, False),
        ({"a": 1}, {"a": MaxKey()}, False),
    ],
)
def test_a_range_is_everything_between_the_lowest_and_the_highest(
    low: Document, high: Document, is_everything: bool
) -> None:
    assert is_everything is KeyRange(low=low, high=high).is_everything
