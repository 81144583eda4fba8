"""A cluster's snapshot schedule: GET and PATCH, in the Atlas family and in Ebbtide's own API.

Both take the same fields; only Ebbtide's own shows and takes the reference time, which the Atlas family lacks. Source:
contract sections 9, 12 and 14: PATCH is partial, ids that are empty count as not sent, and the zeroes that a client
sends for a checkpoint interval or a window that it does not set do too.
"""

from dataclasses import dataclass, replace
from typing import Any

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.responses import Answer
from ebbtide.api.wire_upkeep import schedule_document
from ebbtide.domain.event import EventLevel
from ebbtide.domain.schedule import (
    DAILY_RETENTION_DAYS,
    INTERVAL_HOURS,
    MONTHLY_RETENTION_MONTHS,
    POINT_IN_TIME_WINDOW_HOURS_MAX,
    RETENTION_DAYS,
    WEEKLY_RETENTION_WEEKS,
    SnapshotSchedule,
    parse_offset,
)
from ebbtide.errors import InvalidInput
from ebbtide.events import record_event


@dataclass(frozen=True)
class _Choice:
    """A field that takes one of some numbers: its name here, and the code of its refusal."""

    field: str
    values: tuple[int, ...]
    code: str


_CHOICES = {
    "snapshotIntervalHours": _Choice("interval_hours", INTERVAL_HOURS, "INVALID_SNAPSHOT_INTERVAL"),
    "snapshotRetentionDays": _Choice("retention_days", RETENTION_DAYS, "INVALID_SNAPSHOT_RETENTION_PERIOD"),
    "dailySnapshotRetentionDays": _Choice(
        "daily_retention_days", DAILY_RETENTION_DAYS, "INVALID_DAILY_SNAPSHOT_RETENTION_PERIOD"
    ),
    "weeklySnapshotRetentionWeeks": _Choice(
        "weekly_retention_weeks", WEEKLY_RETENTION_WEEKS, "INVALID_WEEKLY_SNAPSHOT_RETENTION_PERIOD"
    ),
    "monthlySnapshotRetentionMonths": _Choice(
        "monthly_retention_months", MONTHLY_RETENTION_MONTHS, "INVALID_MONTHLY_SNAPSHOT_RETENTION_PERIOD"
    ),
}
_OWN_CHOICES = {
    "referenceHourOfDay": _Choice("reference_hour", tuple(range(24)), "INVALID_REFERENCE_HOUR_OF_DAY"),
    "referenceMinuteOfHour": _Choice(
        "reference_minute", tuple(range(60)), "INVALID_REFERENCE_MINUTE_OF_HOUR"
    ),
}
_OFFSET = "referenceTimeZoneOffset"
_WINDOW = "pointInTimeWindowHours"
_CHECKPOINT = "clusterCheckpointIntervalMin"
_SLOT_FIELDS = ("interval_hours", "reference_hour", "reference_minute", "reference_offset")


def get_schedule(call: Call) -> Answer:
    return _answer(call, call.context.catalog.schedules.get(call.cluster), is_own=False)


def get_own_schedule(call: Call) -> Answer:
    return _answer(call, call.context.catalog.schedules.get(call.cluster), is_own=True)


def patch_schedule(call: Call) -> Answer:
    return _patch(call, is_own=False)


def patch_own_schedule(call: Call) -> Answer:
    return _patch(call, is_own=True)


def _patch(call: Call, *, is_own: bool) -> Answer:
    changes = parse_changes(
        parse_object(call.body), cluster_id=call.cluster.id, group_id=call.group.id, is_own=is_own
    )
    before = call.context.catalog.schedules.get(call.cluster)
    after = replace(before, **changes)
    if any(getattr(before, name) != getattr(after, name) for name in _SLOT_FIELDS):
        # Moments of the new schedule that have passed were never promised, so none of them was missed.
        after = replace(after, counts_from=call.now)
    if after != before:
        call.context.catalog.schedules.put(after)
        _record(call, after)
    return _answer(call, after, is_own=is_own)


def parse_changes(values: dict[str, Any], *, cluster_id: str, group_id: str, is_own: bool) -> dict[str, Any]:
    """The fields of the schedule that a body changes. Raises one refusal that names every bad field."""
    fields = Fields(values)
    changes: dict[str, Any] = {}
    choices = {**_CHOICES, **(_OWN_CHOICES if is_own else {})}
    for name, choice in choices.items():
        value = fields.integer(name)
        if value is None:
            continue
        if value not in choice.values:
            fields.blame(choice.code, name, str(value), _listed(choice.values))
        changes[choice.field] = value
    window = fields.integer(_WINDOW, highest=POINT_IN_TIME_WINDOW_HOURS_MAX)
    if window is not None and window < 0:
        fields.blame("CANNOT_SET_POINT_IN_TIME_WINDOW", _WINDOW)
    elif window:
        changes["point_in_time_window_hours"] = window
    if fields.integer(_CHECKPOINT):
        fields.blame("CANNOT_SET_CLUSTER_CHECKPOINT_INTERVAL_FOR_REPLICA_SET", _CHECKPOINT)
    if is_own:
        changes |= _parse_offset(fields)
    _judge_ids(fields, cluster_id=cluster_id, group_id=group_id)
    fields.refuse_read_only(("links",))
    own_names = (*_OWN_CHOICES, _OFFSET) if is_own else ()
    fields.refuse_unknown((*_CHOICES, *own_names, _WINDOW, _CHECKPOINT, "clusterId", "groupId", "links"))
    raise_violations(fields.violations)
    return changes


def _parse_offset(fields: Fields) -> dict[str, Any]:
    text = fields.text(_OFFSET)
    if text is None:
        return {}
    try:
        parse_offset(text)
    except InvalidInput:
        fields.blame("INVALID_REFERENCE_TIMEZONE_OFFSET", _OFFSET, text)
    return {"reference_offset": text}


def _judge_ids(fields: Fields, *, cluster_id: str, group_id: str) -> None:
    """A client of Ops Manager always sends both, empty."""
    if (sent := fields.text("clusterId")) and sent != cluster_id:
        fields.blame("INVALID_ATTRIBUTE", "clusterId", "it is not the cluster of the path")
    if (sent := fields.text("groupId")) and sent != group_id:
        fields.blame("GROUP_MISMATCH", "groupId", sent)


def _listed(values: tuple[int, ...]) -> str:
    return f"{values[0]} to {values[-1]}" if len(values) >= 24 else ", ".join(map(str, values))


def _answer(call: Call, schedule: SnapshotSchedule, *, is_own: bool) -> Answer:
    return Answer(
        document=schedule_document(
            schedule, cluster_name=call.cluster.name, addresses=call.addresses, is_own=is_own
        )
    )


def _record(call: Call, schedule: SnapshotSchedule) -> None:
    record_event(
        call.context.catalog,
        call.context.clock,
        level=EventLevel.INFO,
        kind="schedule.changed",
        message=f"snapshots of {call.cluster.name} every {schedule.interval_hours} hours from "
        f"{schedule.reference_hour:02}:{schedule.reference_minute:02} {schedule.reference_offset}, "
        f"kept for {schedule.retention_days} days",
        group_id=call.group.id,
        cluster_id=call.cluster.id,
        actor=call.actor,
    )


_PATH = "/api/atlas/v1.0/groups/{groupId}/clusters/{clusterName}/snapshotSchedule"
_OWN_PATH = "/api/ebbtide/v1/groups/{groupId}/clusters/{clusterName}/snapshotSchedule"

OPERATIONS = (
    Operation(
        name="getLegacySnapshotSchedule",
        method="GET",
        path=_PATH,
        handler=get_schedule,
        scope=Scope.CLUSTER,
    ),
    Operation(
        name="updateLegacySnapshotSchedule",
        method="PATCH",
        path=_PATH,
        handler=patch_schedule,
        scope=Scope.CLUSTER,
        need=Need.OWN,
    ),
    Operation(
        name="getOwnSnapshotSchedule",
        method="GET",
        path=_OWN_PATH,
        handler=get_own_schedule,
        scope=Scope.CLUSTER,
    ),
    Operation(
        name="updateOwnSnapshotSchedule",
        method="PATCH",
        path=_OWN_PATH,
        handler=patch_own_schedule,
        scope=Scope.CLUSTER,
        need=Need.OWN,
    ),
)
