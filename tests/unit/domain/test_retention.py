"""Retention: a table of verdicts, and 100 days of a schedule against the table of what must be there each day."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId
from ebbtide.domain.retention import Reason, expires_after, has_expired, plan_retention
from ebbtide.domain.schedule import Due, SnapshotSchedule, decide_snapshot
from ebbtide.domain.snapshot import Snapshot, SnapshotState

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def snapshot(
    hour: int,
    *,
    state: SnapshotState = SnapshotState.COMPLETE,
    keep: bool = False,
    expires: int | None = 48,
) -> Snapshot:
    """Asked for and completed `hour` hours after BEGIN; `expires` in hours after that."""
    created = BEGIN + hour * HOUR
    return Snapshot(
        id=SnapshotId(f"{hour:024x}"),
        group_id=GroupId("a" * 24),
        cluster_id=ClusterId("c" * 24),
        cluster_name="shop",
        replica_set_name="rs0",
        created=created,
        state=state,
        completed=created if state is SnapshotState.COMPLETE else None,
        do_not_delete=keep,
        expires=None if expires is None else created + expires * HOUR,
    )


def verdicts(*snapshots: Snapshot, now: int, in_use: tuple[SnapshotId, ...] = ()) -> list[str]:
    found = plan_retention(snapshots, retention_days=2, in_use=in_use, now=BEGIN + now * HOUR)
    assert all(v.keep is (v.reason is not Reason.EXPIRED) for v in found)
    return [v.reason.value for v in found]


@pytest.mark.parametrize(
    ("snapshots", "now", "expected"),
    [
        # the newest stays, whatever its time
        ([snapshot(0)], 1000, ["NEWEST"]),
        ([snapshot(0), snapshot(6)], 47, ["NOT_EXPIRED", "NOT_EXPIRED"]),
        ([snapshot(0), snapshot(6)], 48, ["EXPIRED", "NOT_EXPIRED"]),
        ([snapshot(0), snapshot(6)], 1000, ["EXPIRED", "NEWEST"]),
        # the newest *complete* one: a failed or running one cannot be restored
        (
            [snapshot(0), snapshot(6, state=SnapshotState.FAILED)],
            1000,
            ["NEWEST", "NOT_COMPLETE"],
        ),
        (
            [snapshot(0), snapshot(6, state=SnapshotState.IN_PROGRESS)],
            1000,
            ["NEWEST", "NOT_COMPLETE"],
        ),
        # a deleted one is no last good one
        ([snapshot(0), snapshot(6, state=SnapshotState.DELETED)], 1000, ["NEWEST"]),
        # kept by a person
        ([snapshot(0, keep=True), snapshot(6)], 1000, ["DO_NOT_DELETE", "NEWEST"]),
        ([snapshot(0), snapshot(6, keep=True)], 1000, ["EXPIRED", "DO_NOT_DELETE"]),
        # a time that a person set, earlier or later than the schedule's
        ([snapshot(0, expires=500), snapshot(6)], 400, ["NOT_EXPIRED", "NEWEST"]),
        ([snapshot(0, expires=1), snapshot(6)], 7, ["EXPIRED", "NOT_EXPIRED"]),
        # none of its own: the schedule's
        ([snapshot(0, expires=None), snapshot(6)], 47, ["NOT_EXPIRED", "NOT_EXPIRED"]),
        ([snapshot(0, expires=None), snapshot(6)], 48, ["EXPIRED", "NOT_EXPIRED"]),
        ([], 1, []),
    ],
)
def test_verdicts(snapshots: list[Snapshot], now: int, expected: list[str]) -> None:
    assert expected == verdicts(*snapshots, now=now)


def test_what_a_restore_needs_stays_until_it_does_not() -> None:
    first, second = snapshot(0), snapshot(6)
    assert verdicts(first, second, now=1000, in_use=(first.id,)) == ["IN_USE", "NEWEST"]
    assert verdicts(first, second, now=1000) == ["EXPIRED", "NEWEST"]


def test_has_expired() -> None:
    later = BEGIN + 1000 * HOUR
    assert has_expired(snapshot(0), now=later)
    assert not has_expired(snapshot(0, keep=True), now=later)
    assert not has_expired(snapshot(0, expires=None), now=later)
    assert not has_expired(snapshot(0), now=BEGIN)


# 100 days. On day 20 somebody keeps a snapshot; on days 40 to 45 nothing can be taken (the head is down); from day 60
# on snapshots are kept for five days instead of two; on day 80 the kept one is let go.
DAYS = 100
OUTAGE = range(40, 46)


def expected_hours(day: int) -> set[int]:
    """The hours (after BEGIN) of the snapshots that must be there at the end of day `day`, looked at just after
    the snapshot of 18:00 became complete; day 0 is the first. Written down without the code that it judges."""
    now = day * 24 + 18
    taken = [hour for hour in range(6, now + 1, 6) if hour // 24 not in OUTAGE]
    found = set()
    for hour in taken:
        days = 5 if hour >= 60 * 24 else 2
        if now < hour + days * 24:
            found.add(hour)
    found.add(taken[-1])
    if 20 * 24 + 18 in taken and 20 <= day < 80:
        found.add(20 * 24 + 18)
    return found


def test_100_days_of_the_schedule() -> None:
    schedule = SnapshotSchedule(
        id=ClusterId("c" * 24),
        group_id=GroupId("a" * 24),
        counts_from=BEGIN,
        reference_hour=0,
        reference_minute=0,
    )
    present: dict[SnapshotId, Snapshot] = {}
    last_slot: datetime | None = None
    kept: SnapshotId | None = None
    for hour in range(0, DAYS * 24):
        now, day = BEGIN + hour * HOUR, hour // 24
        if day == 60:
            schedule = replace(schedule, retention_days=5)
        decided = decide_snapshot(schedule, now=now, last_slot=last_slot)
        if isinstance(decided, Due) and day not in OUTAGE:
            taken = replace(
                snapshot(hour),
                expires=expires_after(now, retention_days=schedule.retention_days),
                scheduled_for=decided.slot,
            )
            present[taken.id] = taken
            last_slot = decided.slot
            if hour == 20 * 24 + 18:
                kept = taken.id
                present[kept] = replace(taken, do_not_delete=True, expires=None)
        if hour == 80 * 24 and kept is not None:
            present[kept] = replace(present[kept], do_not_delete=False, expires=now)
        for verdict in plan_retention(
            present.values(), retention_days=schedule.retention_days, in_use=(), now=now
        ):
            if not verdict.keep:
                del present[verdict.snapshot.id]
        if hour % 24 == 18:
            hours = {int((s.created - BEGIN) / HOUR) for s in present.values()}
            assert expected_hours(day) == hours, f"day {day}"
