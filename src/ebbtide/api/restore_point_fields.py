"""The fields that say "when", in every body that asks for a restore: read, judged, and made a restore point of.

Sources: contract sections 6.2, 12 and 13. `oplogTs` comes as seconds since 1970, as a number or its digits, or as an ISO
8601 date; `oplogInc` as a number or its digits. Ebbtide's own API also takes `"now": true`.
"""

from datetime import UTC, datetime

from ebbtide.api.bodies import Fields
from ebbtide.domain.ids import CheckpointId, SnapshotId
from ebbtide.domain.restore_point import (
    INCREMENT_MAX,
    SECONDS_MAX,
    AtCheckpoint,
    AtMillis,
    AtNow,
    AtOplog,
    AtSnapshot,
    RestorePoint,
)

POINT_IN_TIME_MILLIS_MIN = 1199145600000
_CHECKPOINTS = ("checkpointId", "checkPointId")
_POINTS = ("snapshotId", *_CHECKPOINTS, "oplogTs", "pointInTimeUTCMillis")
POINT_FIELDS = ("snapshotId", *_CHECKPOINTS, "oplogTs", "oplogInc", "pointInTimeUTCMillis")
OWN_POINT_FIELDS = (*POINT_FIELDS, "now")


def parse_restore_point(
    fields: Fields, *, with_now: bool = False, is_sharded: bool = False
) -> RestorePoint | None:
    """The one restore point of a body; None where it has none or a bad one, which `fields.violations` then names.

    Checkpoints are taken where the cluster `is_sharded`, and refused elsewhere.
    """
    snapshot_id = fields.identifier("snapshotId")
    checkpoint_ids = [fields.identifier(name) for name in _CHECKPOINTS]
    seconds = _parse_seconds(fields)
    increment = fields.positive("oplogInc", highest=INCREMENT_MAX, or_text=True)
    millis = fields.integer("pointInTimeUTCMillis", highest=2**63 - 1)
    if millis is not None and millis < POINT_IN_TIME_MILLIS_MIN:
        fields.blame("INVALID_ATTRIBUTE", "pointInTimeUTCMillis", f"at least {POINT_IN_TIME_MILLIS_MIN}")
    wants_now = with_now and fields.boolean("now") is True
    _judge_choice(fields, wants_now=wants_now, with_now=with_now, is_sharded=is_sharded)
    if wants_now:
        return AtNow()
    if snapshot_id is not None:
        return AtSnapshot(SnapshotId(snapshot_id))
    for checkpoint_id in filter(None, checkpoint_ids):
        return AtCheckpoint(CheckpointId(checkpoint_id))
    if seconds is not None and increment is not None:
        return AtOplog(seconds=seconds, increment=increment)
    return None if millis is None else AtMillis(millis)


def _judge_choice(fields: Fields, *, wants_now: bool, with_now: bool, is_sharded: bool) -> None:
    """Exactly one, and a whole one."""
    points = [name for name in _POINTS if fields.has(name)]
    if fields.has("oplogInc") and not fields.has("oplogTs"):
        points.append("oplogInc")
    if wants_now:
        points.append("now")
    if not points:
        offered = [name for name in POINT_FIELDS if name != "checkPointId"]
        fields.blame_missing_one_of([*offered, "now"] if with_now else offered)
    for name in points[1:]:
        fields.blame("INVALID_ATTRIBUTE", name, "exactly one restore point can be given")
    for name in _CHECKPOINTS:
        if points[:1] == [name] and not is_sharded:
            fields.blame("INVALID_ATTRIBUTE", name, "checkpoints are of sharded clusters only")
    if fields.has("oplogTs") != fields.has("oplogInc"):
        fields.require("oplogInc" if fields.has("oplogTs") else "oplogTs")


def _parse_seconds(fields: Fields) -> int | None:
    value = fields.raw("oplogTs")
    if value is None:
        return None
    if isinstance(value, str) and not value.isdigit():
        moment = fields.date("oplogTs")
        return None if moment is None else _seconds_of(fields, moment)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        fields.blame("INVALID_JSON_ATTRIBUTE", "oplogTs", "seconds since 1970 or an ISO 8601 date")
        return None
    return fields.positive("oplogTs", highest=SECONDS_MAX, or_text=True)


def _seconds_of(fields: Fields, moment: datetime) -> int | None:
    seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    if not 0 < seconds <= SECONDS_MAX:
        fields.blame("INVALID_ATTRIBUTE", "oplogTs", "no oplog reaches there")
        return None
    return seconds
