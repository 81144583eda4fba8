"""A cluster's snapshot schedule: GET and PATCH, in every family.

What a family takes is a table: Atlas has closed lists, Cloud and Ops Manager ranges; the reference time is unknown to
Atlas, the day of the full read to all but Cloud and Ops Manager. Source: contract sections 9, 12 and 14: PATCH is
partial, ids that are empty count as not sent, and the zeroes that a client sends for a checkpoint interval or a window
that it does not set do too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.entities import CLUSTER, GROUP, entity_answer
from ebbtide.api.families import Family
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire_upkeep import schedule_document
from ebbtide.domain.cluster import ClusterKind
from ebbtide.domain.event import EventLevel
from ebbtide.domain.schedule import (
    CHECKPOINT_INTERVAL_MINUTES,
    DAILY_RETENTION_DAYS,
    INTERVAL_HOURS,
    MONTHLY_RETENTION_MONTHS,
    POINT_IN_TIME_WINDOW_HOURS_MAX,
    RETENTION_DAYS,
    WEEKDAYS,
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
    values: Sequence[int]
    code: str


_INTERVAL = "snapshotIntervalHours"
_RETENTION = "snapshotRetentionDays"
_DAILY = "dailySnapshotRetentionDays"
_WEEKLY = "weeklySnapshotRetentionWeeks"
_MONTHLY = "monthlySnapshotRetentionMonths"


def _choices(
    *, retention: Sequence[int], daily: Sequence[int], weekly: Sequence[int], monthly: Sequence[int]
) -> dict[str, _Choice]:
    return {
        _INTERVAL: _Choice("interval_hours", INTERVAL_HOURS, "INVALID_SNAPSHOT_INTERVAL"),
        _RETENTION: _Choice("retention_days", retention, "INVALID_SNAPSHOT_RETENTION_PERIOD"),
        _DAILY: _Choice("daily_retention_days", daily, "INVALID_DAILY_SNAPSHOT_RETENTION_PERIOD"),
        _WEEKLY: _Choice("weekly_retention_weeks", weekly, "INVALID_WEEKLY_SNAPSHOT_RETENTION_PERIOD"),
        _MONTHLY: _Choice("monthly_retention_months", monthly, "INVALID_MONTHLY_SNAPSHOT_RETENTION_PERIOD"),
    }


_ATLAS_CHOICES = _choices(
    retention=RETENTION_DAYS,
    daily=DAILY_RETENTION_DAYS,
    weekly=WEEKLY_RETENTION_WEEKS,
    monthly=MONTHLY_RETENTION_MONTHS,
)
# The manual's page begins at 2 days, the service's own refusal at 1.
_CLOUD_CHOICES = _choices(retention=range(1, 6), daily=range(366), weekly=range(53), monthly=range(37))
_REFERENCE_CHOICES = {
    "referenceHourOfDay": _Choice("reference_hour", range(24), "INVALID_REFERENCE_HOUR_OF_DAY"),
    "referenceMinuteOfHour": _Choice("reference_minute", range(60), "INVALID_REFERENCE_MINUTE_OF_HOUR"),
}
_CHOICES = {
    Family.ATLAS: _ATLAS_CHOICES,
    Family.ATLAS_V2: _ATLAS_CHOICES,
    Family.CLOUD: _CLOUD_CHOICES | _REFERENCE_CHOICES,
    Family.OWN: _ATLAS_CHOICES | _REFERENCE_CHOICES,
}
_FULL_READ_DAY = "fullIncrementalDayOfWeek"
_OFFSET = "referenceTimeZoneOffset"
_WINDOW = "pointInTimeWindowHours"
_CHECKPOINT = "clusterCheckpointIntervalMin"
_OTHER_FIELDS = {Family.CLOUD: (_OFFSET, _FULL_READ_DAY), Family.OWN: (_OFFSET,)}
_SLOT_FIELDS = ("interval_hours", "reference_hour", "reference_minute", "reference_offset")


def get_schedule(call: Call) -> Answer:
    return _answer(call, call.context.catalog.schedules.get(call.cluster))


def patch_schedule(call: Call) -> Answer:
    """Change what the body names; everything else stays. A part of a sharded cluster has that cluster's schedule."""
    if call.cluster.parent_id is not None:
        raise refusal("CANNOT_MODIFY_SHARD_BACKUP_CONFIG", call.cluster.name)
    changes = parse_changes(
        parse_object(call.body),
        cluster_id=call.cluster.id,
        group_id=call.group.id,
        family=call.family,
        kind=call.cluster.kind,
    )
    before = call.context.catalog.schedules.get(call.cluster)
    after = replace(before, **changes)
    if any(getattr(before, name) != getattr(after, name) for name in _SLOT_FIELDS):
        # Moments of the new schedule that have passed were never promised, so none of them was missed.
        after = replace(after, counts_from=call.now)
    if after != before:
        call.context.catalog.schedules.put(after)
        _record(call, after)
    return _answer(call, after)


def parse_changes(
    values: dict[str, Any],
    *,
    cluster_id: str,
    group_id: str,
    family: Family,
    kind: ClusterKind = ClusterKind.REPLICA_SET,
) -> dict[str, Any]:
    """The fields of the schedule that a body changes. Raises one refusal that names every bad field."""
    fields = Fields(values)
    changes: dict[str, Any] = {}
    choices = _CHOICES[family]
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
    changes |= _parse_checkpoint_interval(fields, kind)
    others = _OTHER_FIELDS.get(family, ())
    if _OFFSET in others:
        changes |= _parse_offset(fields)
    if _FULL_READ_DAY in others:
        changes |= _parse_day(fields)
    _judge_ids(fields, cluster_id=cluster_id, group_id=group_id)
    fields.refuse_read_only(("links",))
    fields.refuse_unknown((*choices, *others, _WINDOW, _CHECKPOINT, "clusterId", "groupId", "links"))
    raise_violations(fields.violations)
    return changes


def _parse_checkpoint_interval(fields: Fields, kind: ClusterKind) -> dict[str, Any]:
    interval = fields.integer(_CHECKPOINT)
    if not interval:
        return {}
    if kind is not ClusterKind.SHARDED:
        fields.blame("CANNOT_SET_CLUSTER_CHECKPOINT_INTERVAL_FOR_REPLICA_SET", _CHECKPOINT)
    elif interval not in CHECKPOINT_INTERVAL_MINUTES:
        allowed = _listed(CHECKPOINT_INTERVAL_MINUTES)
        fields.blame("INVALID_CLUSTER_CHECKPOINT_INTERVAL", _CHECKPOINT, str(interval), allowed)
    return {"checkpoint_interval_minutes": interval}


def _parse_offset(fields: Fields) -> dict[str, Any]:
    text = fields.text(_OFFSET)
    if text is None:
        return {}
    try:
        parse_offset(text)
    except InvalidInput:
        fields.blame("INVALID_REFERENCE_TIMEZONE_OFFSET", _OFFSET, text)
    return {"reference_offset": text}


def _parse_day(fields: Fields) -> dict[str, Any]:
    text = fields.text(_FULL_READ_DAY)
    if text is None:
        return {}
    if text not in WEEKDAYS:
        fields.blame("INVALID_ENUM_VALUE", _FULL_READ_DAY, text, ", ".join(WEEKDAYS))
    return {"full_incremental_day": text}


def _judge_ids(fields: Fields, *, cluster_id: str, group_id: str) -> None:
    """A client of Ops Manager always sends both, empty."""
    if (sent := fields.text("clusterId")) and sent != cluster_id:
        fields.blame("INVALID_ATTRIBUTE", "clusterId", "it is not the cluster of the path")
    if (sent := fields.text("groupId")) and sent != group_id:
        fields.blame("GROUP_MISMATCH", "groupId", sent)


def _listed(values: Sequence[int]) -> str:
    return f"{values[0]} to {values[-1]}" if isinstance(values, range) else ", ".join(map(str, values))


def _answer(call: Call, schedule: SnapshotSchedule) -> Answer:
    document = schedule_document(
        schedule,
        cluster_name=call.cluster.name,
        is_sharded=call.cluster.kind is ClusterKind.SHARDED,
        addresses=call.addresses,
    )
    return entity_answer(call, document, relations=(CLUSTER, GROUP))


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
        handler=get_schedule,
        scope=Scope.CLUSTER,
    ),
    Operation(
        name="updateOwnSnapshotSchedule",
        method="PATCH",
        path=_OWN_PATH,
        handler=patch_schedule,
        scope=Scope.CLUSTER,
        need=Need.OWN,
    ),
)
