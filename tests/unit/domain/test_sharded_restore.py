"""What goes where when a sharded cluster is restored, row by row and for random clusters."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from bson import MaxKey, MinKey
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.cluster_layout import Chunk, ClusterLayout, KeyRange, ShardedCollection, ZoneRange
from ebbtide.domain.sharded_restore import (
    assign_homes,
    choose_key_index,
    extend_bound,
    owned_ranges,
    plan_sharded_restore,
    refuse_sharded_restore,
    refuse_source,
)

Document = dict[str, Any]


def sharded(*shards: str, namespace: str = "shop.a", **fields: Any) -> ShardedCollection:
    """A collection with one chunk for each of `shards`, bounds 1, 2, …"""
    bounds: list[Any] = [MinKey(), *range(1, len(shards)), MaxKey()]
    chunks = [
        Chunk(range=KeyRange(low={"k": bounds[i]}, high={"k": bounds[i + 1]}), shard=shard)
        for i, shard in enumerate(shards)
    ]
    return ShardedCollection(
        namespace=namespace, key={"k": 1}, is_unique=False, chunks=tuple(chunks), **fields
    )


def layout(*shards: str, collections: tuple[ShardedCollection, ...] = (), **fields: Any) -> ClusterLayout:
    values: Document = {
        "shards": shards,
        "databases": {"shop": shards[0]},
        "collections": {collection.namespace: collection for collection in collections},
        "shard_zones": {shard: frozenset() for shard in shards},
    }
    return ClusterLayout(**(values | fields))


@pytest.mark.parametrize(
    ("source", "target", "homes"),
    [
        ("ab", "ab", {"a": "a", "b": "b"}),
        ("ab", "xy", {"a": "x", "b": "y"}),
        ("ab", "bc", {"a": "c", "b": "b"}),
        ("ab", "abc", {"a": "ac", "b": "b"}),
        ("ab", "abcde", {"a": "ace", "b": "bd"}),
        ("abc", "xy", {"a": "x", "b": "y", "c": "x"}),
        ("abc", "c", {"a": "c", "b": "c", "c": "c"}),
        ("a", "xy", {"a": "xy"}),
    ],
)
def test_every_shard_has_homes(source: str, target: str, homes: Mapping[str, str]) -> None:
    assert {shard: tuple(theirs) for shard, theirs in homes.items()} == assign_homes(source, target)


@given(
    source=st.sets(st.sampled_from("abcdefgh"), min_size=1),
    target=st.sets(st.sampled_from("efghijkl"), min_size=1),
    data=st.data(),
)
def test_every_range_goes_to_one_shard_and_no_gap_is_left(
    source: set[str], target: set[str], data: Any
) -> None:
    owners = data.draw(st.lists(st.sampled_from(sorted(source)), min_size=1, max_size=20))
    collection = sharded(*owners)
    plan = plan_sharded_restore(layout(*sorted(source), collections=(collection,)), layout(*sorted(target)))
    planned = plan.collections["shop.a"]

    assert set(target) == {shard for theirs in plan.homes.values() for shard in theirs}
    for ranges in (planned.routes, planned.placement):
        assert isinstance(ranges[0].range.low["k"], MinKey)
        assert isinstance(ranges[-1].range.high["k"], MaxKey)
        assert all(one.range.high == other.range.low for one, other in pairwise(ranges))
    assert all(route.target in plan.homes[route.source] for route in planned.routes)
    assert all(one.target != other.target for one, other in pairwise(planned.placement))
    read = sum(len(ranges) for shard in target for ranges in planned.sources_of(shard).values())
    assert len(planned.routes) == read


@pytest.mark.parametrize(
    ("chunks", "targets", "placement", "moves"),
    [
        ("aabb", "ab", [("a", None), ("b", 2)], 1),
        ("abab", "ab", [("a", None), ("b", 1), ("a", 2), ("b", 3)], 2),
        ("abab", "x", [("x", None)], 0),
        ("aaaa", "ax", [("a", None), ("x", 2)], 1),
        ("a", "ax", [("a", None)], 0),
        ("baba", "ax", [("x", None), ("a", 1), ("x", 2), ("a", 3)], 2),
    ],
)
def test_adjacent_ranges_of_a_shard_become_one(
    chunks: str, targets: str, placement: list[tuple[str, int | None]], moves: int
) -> None:
    plan = plan_sharded_restore(
        layout(*sorted(set(chunks)), collections=(sharded(*chunks),)), layout(*targets)
    )
    planned = plan.collections["shop.a"]

    found = [(owned.target, owned.range.low["k"]) for owned in planned.placement]
    assert placement == [(shard, None if isinstance(low, MinKey) else low) for shard, low in found]
    assert [{"k": low} for _, low in placement[1:]] == list(planned.split_points)
    assert moves == plan.move_count


def test_a_shard_owns_few_ranges() -> None:
    owned = owned_ranges(sharded("a", "a", "b", "a"))

    assert [one.high["k"] if isinstance(one.high["k"], int) else "end" for one in owned["a"]] == [2, "end"]
    assert [(one.low["k"], one.high["k"]) for one in owned["b"]] == [(2, 3)]


def test_zones_go_with_the_data() -> None:
    zone = ZoneRange(namespace="shop.a", range=KeyRange(low={"k": 1}, high={"k": 2}), zone="far")
    source = layout(
        "a",
        "b",
        collections=(sharded("a", "b"),),
        zone_ranges=(zone,),
        shard_zones={"a": frozenset({"near"}), "b": frozenset({"far"})},
    )

    merged = plan_sharded_restore(source, layout("x"))
    assert {"x": frozenset({"near", "far"})} == merged.shard_zones
    divided = plan_sharded_restore(source, layout("a", "b", "c", "d"))
    assert {"a", "c"} == {shard for shard, zones in divided.shard_zones.items() if "near" in zones}
    assert {"b", "d"} == {shard for shard, zones in divided.shard_zones.items() if "far" in zones}
    assert (zone,) == divided.zone_ranges


def test_databases_are_spread_over_the_homes_of_their_shard() -> None:
    source = layout("a", databases={"one": "a", "two": "a", "three": "a"})

    assert plan_sharded_restore(source, layout("x", "y")).databases == {"one": "x", "three": "y", "two": "x"}


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (layout("a", collections=(sharded("a"),)), layout("a"), None),
        (
            layout("a", collections=(sharded("a", was_resharding=True),)),
            layout("a"),
            "shop.a was being resharded",
        ),
        (
            layout("a", collections=(sharded("a", namespace="shop.system.buckets.w"),)),
            layout("a"),
            "shop.w is a sharded time series",
        ),
        (layout("a"), layout("a", "b", draining=frozenset({"b"})), "b is being removed"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(
    source: ClusterLayout, target: ClusterLayout, reason: str | None
) -> None:
    problems = refuse_sharded_restore(source, target)

    assert ([] if reason is None else [True]) == [str(reason) in problem for problem in problems]


def test_a_sharded_time_series_may_become_part_of_a_replica_set() -> None:
    assert refuse_source(layout("a", collections=(sharded("a", namespace="shop.system.buckets.w"),))) == ()


def test_what_no_command_sets_is_said() -> None:
    source = layout("a", collections=(sharded("a", settings=("noBalance",)),))

    assert plan_sharded_restore(source, layout("a")).left_out == (
        "noBalance of shop.a is not set on the target",
    )


SIMPLE = {"name": "k_1", "key": {"k": 1}}


@pytest.mark.parametrize(
    ("indexes", "chosen"),
    [
        ([SIMPLE], "k_1"),
        ([{"name": "wide", "key": {"k": 1, "b": -1}}, SIMPLE], "k_1"),
        ([{"name": "wide", "key": {"k": 1, "b": -1}}], "wide"),
        ([{"name": "other", "key": {"b": 1, "k": 1}}], None),
        ([{"name": "back", "key": {"k": -1}}], None),
        ([{"name": "hashed", "key": {"k": "hashed"}}], None),
        ([SIMPLE | {"sparse": True}], None),
        ([SIMPLE | {"partialFilterExpression": {}}], None),
        ([SIMPLE | {"collation": {"locale": "de"}}], None),
        ([SIMPLE | {"collation": {"locale": "simple"}}], "k_1"),
        ([], None),
    ],
)
def test_ranges_are_read_by_an_index_that_has_every_document(
    indexes: list[Document], chosen: str | None
) -> None:
    found = choose_key_index(indexes, {"k": 1})

    assert chosen == (None if found is None else found["name"])


def test_a_bound_stands_before_all_that_begins_with_it() -> None:
    key = {"k": 1, "up": 1, "down": -1, "text": "hashed"}

    assert extend_bound({"k": 5}, key, lowest="LOW", highest="HIGH") == {
        "k": 5,
        "up": "LOW",
        "down": "HIGH",
        "text": "LOW",
    }
