"""Which slices go, and which are put together."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.cluster_snapshot import ClusterSnapshot
from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId
from ebbtide.domain.oplog import OplogSlice, covered_ranges
from ebbtide.domain.oplog_upkeep import (
    border_after,
    oldest_needed,
    pinned_by_wholes,
    plan_merges,
    plan_trim,
    redundant_slices,
)
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.snapshot import Snapshot, SnapshotState

BEGIN = datetime(2026, 5, 1, tzinfo=UTC)


def at(seconds: int) -> OplogTimestamp:
    return OplogTimestamp(int(BEGIN.timestamp()) + seconds, 1)


def piece(first: int, last: int, *, after: int | None, plain_bytes: int = 1000) -> OplogSlice:
    return OplogSlice(
        predecessor=None if after is None else OpTime(at(after), 1),
        first=OpTime(at(first), 1),
        last=OpTime(at(last), 1),
        entry_count=last - first + 1,
        plain_bytes=plain_bytes,
        stored_bytes=100,
    )


def snapshot(
    number: int, stable: int, applied: int, state: SnapshotState = SnapshotState.COMPLETE
) -> Snapshot:
    return Snapshot(
        id=SnapshotId(f"{number:024x}"),
        group_id=GroupId("a" * 24),
        cluster_id=ClusterId("b" * 24),
        cluster_name="shop",
        replica_set_name="rs0",
        created=BEGIN,
        state=state,
        stable_timestamp=at(stable),
        applied_timestamp=at(applied),
    )


OLD, MIDDLE, NEW = snapshot(1, 10, 12), snapshot(2, 50, 53), snapshot(3, 90, 91)
DELETED = replace(MIDDLE, state=SnapshotState.DELETED)


@pytest.mark.parametrize(
    ("why", "snapshots", "window_start", "pinned", "expected"),
    [
        ("the newest snapshot before the window's start is its base", [OLD, MIDDLE, NEW], 60, [], 53),
        ("its own second counts as before", [OLD, MIDDLE, NEW], 51, [], 53),
        ("a snapshot within the window is no base of its start", [OLD, MIDDLE, NEW], 49, [], 12),
        ("no window: the newest snapshot", [OLD, MIDDLE, NEW], 1000, [], 91),
        ("nothing before the window: the oldest snapshot", [MIDDLE, NEW], 20, [], 53),
        ("a restore job is under way on an older base", [OLD, MIDDLE, NEW], 60, [12], 12),
        ("a restore job on a newer base changes nothing", [OLD, MIDDLE, NEW], 60, [91], 53),
        ("a snapshot that can be brought back counts as well", [DELETED, NEW], 60, [], 53),
        ("and takes nothing from the ones that stay", [OLD, DELETED, NEW], 60, [], 12),
        ("one that prune removes is none", [replace(DELETED, removed=BEGIN), NEW], 60, [], 91),
        ("nor is one that failed", [snapshot(4, 55, 55, SnapshotState.FAILED), OLD], 60, [], 12),
    ],
)
def test_everything_that_the_window_needs_stays(
    why: str, snapshots: list[Snapshot], window_start: int, pinned: list[int], expected: int
) -> None:
    needed = oldest_needed(
        snapshots,
        window_start=BEGIN + timedelta(seconds=window_start),
        pinned=[at(seconds) for seconds in pinned],
    )
    assert needed == at(expected), why


def test_without_a_snapshot_the_window_stays() -> None:
    start = BEGIN + timedelta(seconds=60)
    assert oldest_needed([], window_start=start, pinned=[]) == OplogTimestamp(int(start.timestamp()), 0)


CHAIN = [piece(1, 9, after=None), piece(10, 19, after=9), piece(20, 29, after=19), piece(30, 39, after=29)]


@pytest.mark.parametrize(
    ("needed_from", "gone"),
    [(0, 0), (9, 0), (10, 1), (15, 1), (19, 1), (20, 2), (30, 3), (1000, 3)],
)
def test_slices_that_end_before_what_is_needed_go_and_never_the_newest(needed_from: int, gone: int) -> None:
    assert plan_trim(CHAIN[::-1], needed_from=at(needed_from)) == tuple(CHAIN[:gone])


def test_an_archive_of_one_slice_is_never_emptied() -> None:
    assert plan_trim(CHAIN[:1], needed_from=at(1000)) == ()


def test_a_slice_that_another_one_holds_is_redundant() -> None:
    merged = piece(1, 19, after=None, plain_bytes=2000)
    assert redundant_slices([*CHAIN, merged]) == {CHAIN[0]: merged, CHAIN[1]: merged}


def test_what_a_slice_says_about_its_predecessor_is_not_lost() -> None:
    # It begins at the same entry, and does not know the one before.
    begun_anew = piece(10, 29, after=None)
    assert redundant_slices([CHAIN[0], CHAIN[1], begun_anew]) == {}


def test_slices_that_only_touch_or_overlap_are_not_redundant() -> None:
    assert redundant_slices([*CHAIN, piece(15, 24, after=14)]) == {}


def chain(sizes: list[int]) -> list[OplogSlice]:
    return [
        piece(n * 10, n * 10 + 9, after=n * 10 - 1 if n else None, plain_bytes=size)
        for n, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("why", "sizes", "expected"),
    [
        ("too few", [1, 1, 1], []),
        ("enough", [1, 1, 1, 1], [(0, 4)]),
        ("all that fit", [1] * 6, [(0, 6)]),
        ("a large one would be rewritten for little", [90, 1, 1, 1], []),
        ("the small ones behind a large one", [90, 1, 1, 1, 1], [(1, 5)]),
        ("until the bytes are reached", [20] * 10, [(0, 5), (5, 10)]),
        ("no slice is large enough to keep others out", [60, 20, 20, 20, 20, 20], [(1, 6)]),
        ("two that fill it up are few", [60, 50, 60, 50], []),
    ],
)
def test_small_slices_in_a_row_become_one(
    why: str, sizes: list[int], expected: list[tuple[int, int]]
) -> None:
    slices = chain(sizes)
    groups = plan_merges(slices[::-1], count_min=4, plain_bytes_max=100)
    assert groups == tuple(tuple(slices[begin:end]) for begin, end in expected), why


def test_nothing_is_merged_across_a_gap_or_twice() -> None:
    slices = chain([1] * 6)
    del slices[3]
    assert plan_merges(slices, count_min=4) == ()
    merged = piece(0, 59, after=None, plain_bytes=6)
    assert plan_merges([*chain([1] * 6), merged], count_min=4) == ()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(2, 6))
def test_merging_changes_nothing_that_can_be_read(sizes: list[int], count_min: int) -> None:
    slices = chain(sizes)
    before = covered_ranges(slices)
    for _ in range(10):
        groups = plan_merges(slices, count_min=count_min, plain_bytes_max=100)
        if not groups:
            break
        for group in groups:
            total = sum(s.plain_bytes for s in group)
            assert total <= 100
            slices.append(
                OplogSlice(
                    predecessor=group[0].predecessor,
                    first=group[0].first,
                    last=group[-1].last,
                    entry_count=sum(s.entry_count for s in group),
                    plain_bytes=total,
                    stored_bytes=1,
                )
            )
        assert covered_ranges(slices) == before
        redundant = redundant_slices(slices)
        slices = [s for s in slices if s not in redundant]
        assert covered_ranges(slices) == before
    else:
        raise AssertionError("merging never ends")
    assert sum(s.plain_bytes for s in slices) == sum(sizes)


@pytest.mark.parametrize(
    ("why", "slices", "old_count", "expected"),
    [
        ("right before the first that stays", [piece(0, 9, after=None), piece(10, 19, after=9)], 1, at(9)),
        ("a slice that begins a chain has nothing before it", [piece(0, 9, after=None)], 0, at(0)),
        (
            "one that stays may reach back into what goes",
            [piece(0, 9, after=None), piece(5, 19, after=4), piece(10, 29, after=9)],
            1,
            at(4),
        ),
    ],
)
def test_the_moment_after_which_a_trimmed_archive_begins(
    why: str, slices: list[OplogSlice], old_count: int, expected: OplogTimestamp
) -> None:
    assert expected == border_after(slices, slices[:old_count]), why


@pytest.mark.parametrize(
    ("why", "part", "whole", "pinned"),
    [
        ("what people see stays restorable", SnapshotState.COMPLETE, SnapshotState.COMPLETE, [12]),
        ("it is about to be complete", SnapshotState.COMPLETE, SnapshotState.IN_PROGRESS, [12]),
        ("it can be brought back", SnapshotState.DELETED, SnapshotState.DELETED, [12]),
        (
            "a failed one leaves snapshots of the parts alone",
            SnapshotState.COMPLETE,
            SnapshotState.FAILED,
            [],
        ),
        ("there is no such whole", SnapshotState.COMPLETE, None, []),
        ("its files are not known yet", SnapshotState.IN_PROGRESS, SnapshotState.IN_PROGRESS, []),
    ],
)
def test_a_snapshot_of_a_sharded_cluster_keeps_what_leads_to_its_time(
    why: str, part: SnapshotState, whole: SnapshotState | None, pinned: list[int]
) -> None:
    whole_id = SnapshotId("c" * 24)
    taken = replace(OLD, state=part, cluster_snapshot_id=whole_id)
    wholes = {}
    if whole is not None:
        wholes[whole_id] = ClusterSnapshot(
            id=whole_id,
            group_id=OLD.group_id,
            cluster_id=ClusterId("d" * 24),
            cluster_name="bank",
            created=BEGIN,
            state=whole,
        )
    assert [at(seconds) for seconds in pinned] == pinned_by_wholes([taken, MIDDLE], wholes), why


def test_what_prune_has_begun_to_remove_keeps_nothing() -> None:
    whole_id = SnapshotId("c" * 24)
    gone = replace(OLD, state=SnapshotState.DELETED, removed=BEGIN, cluster_snapshot_id=whole_id)
    whole = ClusterSnapshot(
        id=whole_id,
        group_id=OLD.group_id,
        cluster_id=ClusterId("d" * 24),
        cluster_name="bank",
        created=BEGIN,
        state=SnapshotState.DELETED,
    )
    assert pinned_by_wholes([gone], {whole_id: whole}) == []
