"""Restore points: the base and the limit of each way to say "when", and the reason where there is none."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId
from ebbtide.domain.oplog import OplogGap, OplogRange
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.restore_point import (
    AtMillis,
    AtNow,
    AtOplog,
    AtSnapshot,
    Refusal,
    Resolution,
    RestorePoint,
    resolve_restore_point,
)
from ebbtide.domain.snapshot import Snapshot, SnapshotState

FOUND = datetime(2026, 1, 1, tzinfo=UTC)
NOW = OplogTimestamp(5000, 7)


def at(seconds: int, increment: int = 1) -> OplogTimestamp:
    return OplogTimestamp(seconds, increment)


def optime(seconds: int, increment: int = 1) -> OpTime:
    return OpTime(at(seconds, increment), 1)


def snapshot(number: int, stable: int, applied: int, **changes: Any) -> Snapshot:
    values: dict[str, Any] = {
        "id": SnapshotId(f"{number:024x}"),
        "group_id": GroupId("5f0000000000000000000001"),
        "cluster_id": ClusterId("5f00000000000000000000c1"),
        "cluster_name": "shop",
        "replica_set_name": "rs0",
        "created": FOUND,
        "state": SnapshotState.COMPLETE,
        "stable_timestamp": at(stable),
        "applied_timestamp": at(applied),
    }
    return Snapshot(**(values | changes))


OLD, NEW = snapshot(1, 1000, 1005), snapshot(2, 2000, 2010)
SNAPSHOTS = [NEW, OLD]
ALL = [OplogRange(first=optime(900), last=optime(5000, 7))]


def resolve(point: RestorePoint, **changes: Any) -> Resolution | Refusal:
    values: dict[str, Any] = {
        "snapshots": SNAPSHOTS,
        "ranges": ALL,
        "gaps": [],
        "window_first": at(0, 0),
        "now": NOW,
        "grows": False,
    }
    return resolve_restore_point(point, **(values | changes))


@pytest.mark.parametrize(
    ("point", "base", "limit"),
    [
        (AtOplog(3000, 2), NEW, at(3000, 2)),
        (AtOplog(2000, 1), NEW, at(2000, 1)),  # exactly on its T_s
        (AtOplog(2000, 0), OLD, at(2000, 0)),  # just before it
        (AtOplog(2005, 1), NEW, at(2005, 1)),  # between T_s and T_a
        (AtOplog(2010, 1), NEW, at(2010, 1)),  # exactly on T_a
        (AtOplog(1999, 9), OLD, at(1999, 9)),
        (AtOplog(5000, 7), NEW, at(5000, 7)),  # the newest there is
        (AtMillis(3_000_000), NEW, at(3000, 2**32 - 1)),  # a second is taken whole,
        (AtMillis(3_000_999), NEW, at(3000, 2**32 - 1)),  # whichever of its milliseconds is named
        (AtMillis(5_000_500), NEW, NOW),  # the second that has not ended yet
        (AtNow(), NEW, NOW),
        (AtSnapshot(OLD.id), OLD, None),
    ],
)
def test_a_point_is_built_on_the_newest_snapshot_before_it(
    point: RestorePoint, base: Snapshot, limit: OplogTimestamp | None
) -> None:
    assert resolve(point) == Resolution(base=base, limit=limit)


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        (AtOplog(5000, 8), "in the future"),
        (AtMillis(5_001_000), "in the future"),
        (AtMillis(10**18), "in the future"),
        (AtMillis(-1), "in the future"),
        (AtOplog(2**32, 1), "numbers from 0"),
        (AtOplog(999, 1), "the oldest one is of 1970-01-01T00:16:40Z (1000, 1)"),
    ],
)
def test_a_point_that_cannot_be_is_refused_with_the_reason(point: RestorePoint, reason: str) -> None:
    refusal = resolve(point)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "INVALID_ATTRIBUTE"
    assert reason in refusal.message


def test_a_point_before_the_window_is_refused() -> None:
    refusal = resolve(AtOplog(2500, 1), window_first=at(2600))
    assert isinstance(refusal, Refusal)
    assert "point-in-time window, which begins at 1970-01-01T00:43:20Z (2600, 1)" in refusal.message


GAP = OplogGap(after=optime(2500), before=optime(2600), found=FOUND)
BROKEN = [
    OplogRange(first=optime(900), last=optime(2500)),
    OplogRange(first=optime(2600), last=optime(5000, 7)),
]


@pytest.mark.parametrize(
    ("seconds", "reason"), [(2550, "lies in a gap"), (2600, "there is a gap"), (4000, "there is a gap")]
)
def test_what_a_gap_makes_impossible_is_refused_with_both_its_ends(seconds: int, reason: str) -> None:
    refusal = resolve(AtOplog(seconds, 1), ranges=BROKEN, gaps=[GAP])
    assert isinstance(refusal, Refusal)
    assert reason in refusal.message
    assert "(2500, 1)" in refusal.message
    assert "(2600, 1)" in refusal.message


def test_before_a_gap_and_after_the_next_snapshot_all_is_well() -> None:
    after = snapshot(3, 2700, 2700)
    found = {"ranges": BROKEN, "gaps": [GAP], "snapshots": [after, *SNAPSHOTS]}
    assert resolve(AtOplog(2500, 1), **found) == Resolution(base=NEW, limit=at(2500))
    assert resolve(AtOplog(2700, 1), **found) == Resolution(base=after, limit=at(2700))
    assert resolve(AtNow(), **found) == Resolution(base=after, limit=NOW)


def test_a_snapshots_own_oplog_is_enough_where_nothing_is_archived() -> None:
    assert resolve(AtOplog(2010, 1), ranges=[]) == Resolution(base=NEW, limit=at(2010))
    refusal = resolve(AtOplog(2011, 1), ranges=[])
    assert isinstance(refusal, Refusal)
    assert "nothing is archived yet" in refusal.message


def test_an_archive_that_has_just_begun_will_lead_from_the_first_snapshot() -> None:
    assert resolve(AtNow(), ranges=[], grows=True) == Resolution(base=NEW, limit=NOW)
    assert resolve(AtNow(), ranges=[], gaps=[GAP], grows=True) != Resolution(base=NEW, limit=NOW)
    assert isinstance(resolve(AtNow(), ranges=[], snapshots=[], grows=True), Refusal)


def test_what_the_archive_will_reach_can_be_asked_for() -> None:
    behind = [OplogRange(first=optime(900), last=optime(4000))]
    assert resolve(AtNow(), ranges=behind, grows=True) == Resolution(base=NEW, limit=NOW)
    refusal = resolve(AtNow(), ranges=behind, grows=False)
    assert isinstance(refusal, Refusal)
    assert "the archive reaches to 1970-01-01T01:06:40Z (4000, 1)" in refusal.message


def test_a_damaged_base_is_passed_over() -> None:
    assert resolve(AtNow(), excluded={NEW.id}) == Resolution(base=OLD, limit=NOW)
    refusal = resolve(AtNow(), excluded={NEW.id, OLD.id})
    assert isinstance(refusal, Refusal)
    assert "besides those that are damaged" in refusal.message


@pytest.mark.parametrize("state", [s for s in SnapshotState if s is not SnapshotState.COMPLETE])
def test_only_a_complete_snapshot_is_a_base(state: SnapshotState) -> None:
    snapshots = [replace(NEW, state=state), OLD]
    assert resolve(AtNow(), snapshots=snapshots) == Resolution(base=OLD, limit=NOW)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (SnapshotState.DELETED, "CANNOT_START_RESTORE_JOB_FOR_DELETED_SNAPSHOT"),
        (SnapshotState.IN_PROGRESS, "CANNOT_START_RESTORE_JOB_FOR_INCOMPLETE_CLUSTER_SNAPSHOT"),
        (SnapshotState.FAILED, "SNAPSHOT_NOT_FOUND"),
    ],
)
def test_a_snapshot_that_is_not_complete_is_refused_in_the_contracts_words(
    state: SnapshotState, code: str
) -> None:
    refusal = resolve(AtSnapshot(NEW.id), snapshots=[replace(NEW, state=state)])
    assert isinstance(refusal, Refusal)
    assert code == refusal.code


def test_an_unknown_snapshot_is_not_found() -> None:
    refusal = resolve(AtSnapshot(SnapshotId("f" * 24)))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "SNAPSHOT_NOT_FOUND"
