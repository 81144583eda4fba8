"""The snapshot that a gap takes: when it is asked for, and when again."""

from datetime import UTC, datetime, timedelta

import pytest

from ebbtide.domain.gap_base import needs_base
from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId
from ebbtide.domain.oplog import OplogGap
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.snapshot import Snapshot, SnapshotState

FOUND = datetime(2026, 1, 1, tzinfo=UTC)
GAP = OplogGap(after=OpTime(OplogTimestamp(100, 1), 1), before=OpTime(OplogTimestamp(200, 1), 1), found=FOUND)
FAILED, TAKEN, GONE = SnapshotState.FAILED, SnapshotState.IN_PROGRESS, SnapshotState.DELETED


def tried(minute: float, state: SnapshotState, *, applied: int | None = None) -> Snapshot:
    """A snapshot that was asked for so many minutes after the gap was found."""
    return Snapshot(
        id=SnapshotId(f"{int(minute * 60) + 10**6:024x}"),
        group_id=GroupId("5f0000000000000000000001"),
        cluster_id=ClusterId("5f00000000000000000000c1"),
        cluster_name="shop",
        replica_set_name="rs0",
        created=FOUND + timedelta(minutes=minute),
        state=state,
        applied_timestamp=None if applied is None else OplogTimestamp(applied, 1),
    )


@pytest.mark.parametrize(
    ("why", "snapshots", "minute", "expected"),
    [
        ("there is none", [], 0, True),
        ("one of before the gap is none", [tried(-9, SnapshotState.COMPLETE, applied=90)], 0, True),
        ("one that was asked for before, and reaches behind it", [tried(-1, SnapshotState.COMPLETE, applied=200)], 0, False),
        ("one that failed before the gap was found is no try", [tried(-1, FAILED)], 0, True),
        ("it is being taken", [tried(1, TAKEN)], 10_000, False),
        ("it failed a moment ago", [tried(1, FAILED)], 15.9, False),
        ("it failed a while ago", [tried(1, FAILED)], 16, True),
        ("it failed twice", [tried(1, FAILED), tried(16, FAILED)], 45.9, False),
        ("it failed twice, a while ago", [tried(1, FAILED), tried(16, FAILED)], 46, True),
        ("it failed all day", [tried(n, FAILED) for n in range(1, 60)], 59 + 359, False),
        ("it failed all day, but never for ever", [tried(n, FAILED) for n in range(1, 60)], 59 + 360, True),
        ("the second try is being taken", [tried(1, FAILED), tried(16, TAKEN)], 10_000, False),
        ("the head lagged: its data is of before", [tried(1, SnapshotState.COMPLETE, applied=90)], 10, False),
        ("the head lagged, a while ago", [tried(1, SnapshotState.COMPLETE, applied=90)], 16, True),
        ("somebody deleted it", [tried(1, GONE, applied=300)], 10_000, False),
    ],
)  # fmt: skip
def test_a_base_is_asked_for_until_there_is_one(
    why: str, snapshots: list[Snapshot], minute: float, expected: bool
) -> None:
    assert needs_base(GAP, snapshots, now=FOUND + timedelta(minutes=minute)) is expected, why


def test_the_order_of_the_snapshots_does_not_matter() -> None:
    done = tried(16, SnapshotState.COMPLETE, applied=250)
    for snapshots in ([done, tried(1, FAILED)], [tried(1, FAILED), done]):
        assert not needs_base(GAP, snapshots, now=FOUND + timedelta(days=9))
