"""The snapshot schedule of a cluster, and whether a snapshot is due. Pure.

Snapshots are due at fixed moments of the day: the reference time and every interval from there (intervals divide the
day, so the moments are the same each day). Each moment is one slot; a slot that was missed is made up once, by the
newest slot alone, however many were missed. Source of the fields and their values: contract section 9.

Daily, weekly and monthly retention are stored and shown, and do nothing yet (docs/retention.md).
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.errors import InvalidInput

INTERVAL_HOURS = (6, 8, 12, 24)
RETENTION_DAYS = (2, 3, 4, 5)
DAILY_RETENTION_DAYS = (0, 3, 4, 5, 6, 7, 15, 30, 60, 90, 120, 180, 360)
WEEKLY_RETENTION_WEEKS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 52)
MONTHLY_RETENTION_MONTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 18, 24, 36)
CHECKPOINT_INTERVAL_MINUTES = (15, 30, 60)
WEEKDAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
POINT_IN_TIME_WINDOW_HOURS_MAX = 100 * 366 * 24

_OFFSET = re.compile(r"([+-])(0\d|1[0-4]):?([0-5]\d)")


@dataclass(frozen=True, kw_only=True)
class SnapshotSchedule:
    """When snapshots of a cluster are taken, and how long they are kept. `id` is the cluster's.

    `reference_hour` (0–23) and `reference_minute` (0–59) are in the time zone `reference_offset` (`+0000`, `-0530`).
    Slots up to `counts_from` are not made up: they lie before the schedule was what it is. `full_incremental_day` is
    kept and shown for clients that set it; whole files are read again by their own setting. `checkpoint_interval_minutes`
    is of sharded clusters alone (domain/checkpoint.py).
    """

    id: ClusterId
    group_id: GroupId
    counts_from: datetime
    reference_hour: int
    reference_minute: int
    reference_offset: str = "+0000"
    interval_hours: int = 6
    retention_days: int = 2
    daily_retention_days: int = 7
    weekly_retention_weeks: int = 4
    monthly_retention_months: int = 13
    point_in_time_window_hours: int = 24
    full_incremental_day: str = "SUNDAY"
    checkpoint_interval_minutes: int = 60


def default_schedule(*, cluster_id: ClusterId, group_id: GroupId, registered: datetime) -> SnapshotSchedule:
    """The schedule of a cluster that has none of its own.

    Its reference time is the minute of registration: the first snapshot by schedule comes one interval later, and
    clusters do not all begin at once.
    """
    return SnapshotSchedule(
        id=cluster_id,
        group_id=group_id,
        counts_from=registered,
        reference_hour=registered.hour,
        reference_minute=registered.minute,
    )


@dataclass(frozen=True)
class Due:
    """A snapshot is due for the slot `slot`; it is `late` by that much."""

    slot: datetime
    late: timedelta


@dataclass(frozen=True)
class NotDue:
    """Nothing is due before `next_slot`."""

    next_slot: datetime


def decide_snapshot(schedule: SnapshotSchedule, *, now: datetime, last_slot: datetime | None) -> Due | NotDue:
    """Whether a snapshot is due.

    `last_slot` is the newest slot that a snapshot was asked for, None if there is none. Only the newest slot counts:
    ten that were missed make one snapshot.
    """
    slot = newest_slot(schedule, now=now)
    done_until = schedule.counts_from if last_slot is None else max(last_slot, schedule.counts_from)
    if slot > done_until:
        return Due(slot, now - slot)
    return NotDue(slot + timedelta(hours=schedule.interval_hours))


def newest_slot(schedule: SnapshotSchedule, *, now: datetime) -> datetime:
    """The last moment, at or before `now`, at which the schedule asks for a snapshot."""
    zone = timezone(parse_offset(schedule.reference_offset))
    local = now.astimezone(zone)
    reference = local.replace(
        hour=schedule.reference_hour, minute=schedule.reference_minute, second=0, microsecond=0
    )
    interval = timedelta(hours=schedule.interval_hours)
    passed = (local - reference) // interval  # rounds down, so before today's reference it is negative
    return (reference + passed * interval).astimezone(now.tzinfo)


def parse_offset(text: str) -> timedelta:
    """The offset from UTC in `+0530`, `-08:00` or `Z`. Raises InvalidInput for anything else."""
    if text == "Z":
        return timedelta(0)
    match = _OFFSET.fullmatch(text)
    if match is None:
        raise InvalidInput("referenceTimeZoneOffset", expected="Z or an offset such as +0000", got=text)
    amount = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return -amount if match[1] == "-" else amount
