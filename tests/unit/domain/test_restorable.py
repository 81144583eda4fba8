"""Which moments can be restored: from the first base in each range on."""

from datetime import UTC, datetime

import pytest

from ebbtide.domain.archive_state import ArchiveState, recorded_ranges
from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId
from ebbtide.domain.oplog import OplogGap, OplogRange
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.restorable import RestorableRange, common_ranges, plan_restorable
from ebbtide.domain.snapshot import Snapshot, SnapshotState

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def ts(seconds: int) -> OplogTimestamp:
    return OplogTimestamp(seconds, 1)


def at(seconds: int) -> OpTime:
    return OpTime(ts(seconds), 1)


def covered(first: int, last: int) -> OplogRange:
    return OplogRange(first=at(first), last=at(last))


def snapshot(
    number: int, stable: int, applied: int, state: SnapshotState = SnapshotState.COMPLETE
) -> Snapshot:
    return Snapshot(
        id=SnapshotId(str(number)),
        group_id=GroupId("a" * 24),
        cluster_id=ClusterId("b" * 24),
        cluster_name="shop",
        replica_set_name="rs0",
        created=NOW,
        state=state,
        stable_timestamp=ts(stable),
        applied_timestamp=ts(applied),
    )


ONE, TWO, THREE = snapshot(1, 10, 12), snapshot(2, 30, 30), snapshot(3, 70, 71)


@pytest.mark.parametrize(
    ("why", "ranges", "snapshots", "window_first", "expected"),
    [
        ("nothing archived", [], [ONE], 0, []),
        ("no base", [covered(1, 50)], [], 0, []),
        ("from T_s of the first base on", [covered(1, 50)], [TWO, ONE], 0, [(10, 50, "1")]),
        ("T_a itself must be archived", [covered(13, 50)], [ONE, TWO], 0, [(30, 50, "2")]),
        ("T_s need not be", [covered(12, 50)], [ONE], 0, [(10, 50, "1")]),
        (
            "each range needs its own base",
            [covered(1, 50), covered(60, 90)],
            [ONE, TWO, THREE],
            0,
            [(10, 50, "1"), (70, 90, "3")],
        ),
        ("a range without one has none", [covered(1, 50), covered(60, 90)], [ONE], 0, [(10, 50, "1")]),
        ("not before the window", [covered(1, 50)], [ONE, TWO], 20, [(20, 50, "1")]),
        ("from the newest base before it", [covered(1, 50)], [ONE, TWO], 40, [(40, 50, "2")]),
        ("a range before the window is over", [covered(1, 50)], [ONE], 51, []),
        (
            "a deleted snapshot is no base",
            [covered(1, 50)],
            [snapshot(4, 10, 10, SnapshotState.DELETED)],
            0,
            [],
        ),
    ],
)
def test_a_range_is_restorable_from_its_first_base_on(
    why: str,
    ranges: list[OplogRange],
    snapshots: list[Snapshot],
    window_first: int,
    expected: list[tuple[int, int, str]],
) -> None:
    found = plan_restorable(ranges, snapshots, window_first=ts(window_first))
    assert [(r.first.seconds, r.last.seconds, r.snapshot_id) for r in found] == expected, why


def test_the_recorded_ranges_lie_between_the_gaps() -> None:
    state = ArchiveState(id=ClusterId("b" * 24), observed=NOW)
    assert recorded_ranges(state) == ()
    gap = OplogGap(after=at(20), before=at(25), found=NOW)
    state = ArchiveState(id=state.id, observed=NOW, oldest=at(1), archived_to=at(50), gaps=(gap,))
    assert recorded_ranges(state) == (covered(1, 20), covered(25, 50))


def restorable(first: int, last: int, base: str) -> RestorableRange:
    return RestorableRange(first=ts(first), last=ts(last), snapshot_id=SnapshotId(base))


@pytest.mark.parametrize(
    ("why", "of_parts", "expected"),
    [
        ("no parts", [], []),
        ("one part", [[(10, 50, "a")]], [(10, 50, "a")]),
        ("what both have, with the base that is later", [[(10, 50, "a")], [(20, 60, "b")]], [(20, 50, "b")]),
        ("the order of parts is of no matter", [[(20, 60, "b")], [(10, 50, "a")]], [(20, 50, "b")]),
        ("one moment is enough", [[(10, 20, "a")], [(20, 60, "b")]], [(20, 20, "b")]),
        ("nothing in common", [[(10, 19, "a")], [(20, 60, "b")]], []),
        ("a part without any", [[(10, 50, "a")], []], []),
        (
            "a gap of one part is a gap of all",
            [[(10, 90, "a")], [(5, 30, "b"), (60, 99, "c")], [(1, 99, "d")]],
            [(10, 30, "a"), (60, 90, "c")],
        ),
    ],
)
def test_parts_have_in_common_what_lies_in_a_range_of_each(
    why: str, of_parts: list[list[tuple[int, int, str]]], expected: list[tuple[int, int, str]]
) -> None:
    found = common_ranges([[restorable(*one) for one in ranges] for ranges in of_parts])
    assert found == tuple(restorable(*one) for one in expected), why
