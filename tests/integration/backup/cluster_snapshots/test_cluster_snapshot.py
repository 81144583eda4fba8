"""Snapshots of a real sharded cluster: its parts, the common time, and a balancer that is always put back."""

from typing import Any

from ebbtide.domain.snapshot import SnapshotState


def test_all_parts_are_taken_and_have_a_common_time(sharded: Any) -> None:
    asked = sharded.request()
    done = sharded.wait_for(asked)

    assert done.parts
    assert [part.is_config_server for part in done.parts] == [True, False, False]
    assert [part.shard_name for part in done.parts] == [None, "shard0", "shard1"]
    assert {part.cluster_id for part in done.parts} == {part.id for part in sharded.parts}
    snapshots = sharded.catalog.snapshots.find_many(part.snapshot_id for part in done.parts)
    assert {snapshot.state for snapshot in snapshots.values()} == {SnapshotState.COMPLETE}
    assert {snapshot.cluster_snapshot_id for snapshot in snapshots.values()} == {done.id}
    assert done.cluster_time is not None
    assert all(snapshot.stable_timestamp <= done.cluster_time for snapshot in snapshots.values())
    assert not done.is_possibly_inconsistent
    assert done.expires is not None
    assert sharded.balancer_mode() == "full"
    assert sharded.catalog.balancer_holds.find(sharded.cluster.id) is None
