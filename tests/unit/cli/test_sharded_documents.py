"""A snapshot of a sharded cluster as people see it: a line for each part, and where it restores to."""

from typing import Any

from ebbtide.cli.render.documents import snapshot_fields

SNAPSHOT: dict[str, Any] = {
    "id": "a" * 24,
    "clusterName": "bank",
    "clusterId": "b" * 24,
    "state": "IN_PROGRESS",
    "stableTimestamp": {"date": "2026-01-01T00:00:00Z", "increment": 3},
    "isPossiblyInconsistent": True,
    "parts": [
        {"snapshotId": "c" * 24, "state": "COMPLETE", "fileSizeBytes": 2_500_000},
        {"snapshotId": "d" * 24, "shardName": "shard0", "state": "FAILED", "error": "its head is gone"},
        {"snapshotId": "e" * 24, "shardName": "shard1", "state": "IN_PROGRESS", "job": {"step": "store"}},
        {"snapshotId": "f" * 24, "shardName": "shard2"},
    ],
}


def test_every_part_has_a_line() -> None:
    fields = dict(snapshot_fields(SNAPSHOT))

    assert fields["part config server"] == f"COMPLETE, snapshot {'c' * 24}, 2.50 MB"
    assert fields["part shard0"] == f"FAILED, snapshot {'d' * 24}, its head is gone"
    assert fields["part shard1"] == f"IN_PROGRESS, snapshot {'e' * 24}, store"
    assert fields["part shard2"] == f"not begun, snapshot {'f' * 24}"
    assert "replica set" not in fields
    assert fields["restores to"].startswith("the latest consistent point at or before 2026-01-01")
    assert "may have moved" in fields["chunks"]


def test_the_snapshot_of_a_part_names_the_one_it_belongs_to() -> None:
    fields = dict(snapshot_fields({"id": "c" * 24, "clusterSnapshotId": "a" * 24}))

    assert fields["part of"] == f"snapshot {'a' * 24} of its sharded cluster"
