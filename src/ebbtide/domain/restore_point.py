"""The ways to say "when", and what each of them comes to: a base snapshot and how far the oplog is replayed on it. Pure.

    AtSnapshot   a snapshot as it is: its data at T_s; nothing is replayed
    AtOplog      everything up to and including one oplog timestamp, whether or not an entry has exactly that one
    AtMillis     everything of that second: oplog timestamps count seconds, so 10:00:00.000 and 10:00:00.999 are one
                 point, the last entry of 10:00:00. Who needs it finer says an oplog timestamp
    AtCheckpoint what a checkpoint of a sharded cluster restores to; a replica set has none
    AtNow        everything that a majority of the set has acknowledged at the time of asking

What is restored is the newest entry that is not beyond the limit.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ebbtide.domain.ids import CheckpointId, SnapshotId
from ebbtide.domain.oplog import OplogGap, OplogRange
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.snapshot import Snapshot, SnapshotState

SECONDS_MAX = INCREMENT_MAX = 2**32 - 1


@dataclass(frozen=True)
class AtSnapshot:
    """A snapshot as it is."""

    snapshot_id: SnapshotId


@dataclass(frozen=True)
class AtOplog:
    """Up to and including this oplog timestamp."""

    seconds: int
    increment: int


@dataclass(frozen=True)
class AtMillis:
    """Up to the end of the second that holds this moment, in milliseconds since 1970."""

    millis: int


@dataclass(frozen=True)
class AtNow:
    """The newest write that is safe."""


@dataclass(frozen=True)
class AtCheckpoint:
    """The moment of a checkpoint of a sharded cluster."""

    checkpoint_id: CheckpointId


RestorePoint = AtSnapshot | AtOplog | AtMillis | AtCheckpoint | AtNow


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Lay down `base`, and replay on it up to and including `limit`; None: nothing is replayed."""

    base: Snapshot
    limit: OplogTimestamp | None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a restore point cannot be had: the contract's error code, and a sentence for people."""

    code: str
    message: str


def resolve_restore_point(
    point: RestorePoint,
    *,
    snapshots: Sequence[Snapshot],
    ranges: Sequence[OplogRange],
    gaps: Sequence[OplogGap],
    window_first: OplogTimestamp,
    now: OplogTimestamp,
    grows: bool,
    excluded: Collection[SnapshotId] = (),
) -> Resolution | Refusal:
    """What `point` comes to.

    `snapshots` are the cluster's, of any state; `ranges` what the archive holds, `gaps` what it lacks. `now` is the
    newest majority-committed entry of the set, and `grows` whether the archive will reach it if one waits.
    `window_first` is where the point-in-time window begins. `excluded` snapshots are known to be damaged.
    """
    if isinstance(point, AtSnapshot):
        return _resolve_snapshot(point, snapshots)
    if isinstance(point, AtCheckpoint):
        return _refuse("checkpoints are of sharded clusters only")
    limit = find_limit(point, now=now)
    if isinstance(limit, Refusal):
        return limit
    if limit < window_first:
        return _refuse(
            f"{_at(limit)} is before the point-in-time window, which begins at {_at(window_first)}; "
            "a snapshot can still be restored as it is"
        )
    usable = [s for s in newest_first(snapshots) if s.id not in excluded]
    if grows:
        ranges = grow_newest(ranges, now) if ranges or gaps else expect_first(usable, now)
    for base in usable:
        if is_reached(base, limit, ranges):
            return Resolution(base=base, limit=limit)
    return _explain(limit, usable, ranges, gaps, was_excluded=bool(excluded))


def find_limit(point: AtOplog | AtMillis | AtNow, *, now: OplogTimestamp) -> OplogTimestamp | Refusal:
    """The last oplog timestamp that may be in the result; a Refusal for the future."""
    match point:
        case AtNow():
            return now
        case AtOplog(seconds=seconds, increment=increment):
            if not (0 <= seconds <= SECONDS_MAX and 0 <= increment <= INCREMENT_MAX):
                return _refuse("seconds and increment of an oplog timestamp are numbers from 0 to 4294967295")
            limit = OplogTimestamp(seconds=seconds, increment=increment)
            return limit if limit <= now else _future(_at(limit), now)
        case AtMillis(millis=millis):
            second = millis // 1000
            if not 0 <= second <= now.seconds:
                return _future(f"{millis} ms", now)
            return min(now, OplogTimestamp(seconds=second, increment=INCREMENT_MAX))


def grow_newest(ranges: Sequence[OplogRange], to: OplogTimestamp) -> list[OplogRange]:
    """`ranges` as they will be once the archive has reached `to`."""
    ordered = sorted(ranges, key=lambda found: found.last)
    if not ordered or ordered[-1].last.timestamp >= to:
        return ordered
    newest = ordered[-1]
    last = type(newest.last)(timestamp=to, term=newest.last.term)
    return [*ordered[:-1], OplogRange(first=newest.first, last=last)]


def expect_first(bases: Sequence[Snapshot], to: OplogTimestamp) -> list[OplogRange]:
    """What an archive that has stored nothing yet will hold: it begins at the oldest base whose end it can reach.

    Should that be a later one, the restore that relied on it ends with that reason.
    """
    applied = [base.applied_timestamp for base in bases if base.applied_timestamp is not None]
    if not applied or to < min(applied):
        return []
    return [OplogRange(first=OpTime(min(applied), -1), last=OpTime(to, -1))]


def newest_first(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """Those that can be a base, the one with the newest data first."""
    complete = [
        s
        for s in snapshots
        if s.state is SnapshotState.COMPLETE and s.stable_timestamp and s.applied_timestamp
    ]
    return sorted(complete, key=lambda s: (s.stable_timestamp, s.id), reverse=True)


def is_reached(base: Snapshot, limit: OplogTimestamp, ranges: Iterable[OplogRange]) -> bool:
    """Whether `limit` can be replayed on `base`: by the oplog in its files, or by one unbroken range of the archive."""
    stable, applied = base.stable_timestamp, base.applied_timestamp
    if stable is None or applied is None or limit < stable:
        return False
    return limit <= applied or any(
        found.first.timestamp <= applied and limit <= found.last.timestamp for found in ranges
    )


def _resolve_snapshot(point: AtSnapshot, snapshots: Sequence[Snapshot]) -> Resolution | Refusal:
    base = next((s for s in snapshots if s.id == point.snapshot_id), None)
    if base is None or base.state is SnapshotState.FAILED:
        return Refusal(code="SNAPSHOT_NOT_FOUND", message=f"there is no snapshot {point.snapshot_id}")
    if base.state is SnapshotState.DELETED:
        return Refusal(
            code="CANNOT_START_RESTORE_JOB_FOR_DELETED_SNAPSHOT", message=f"snapshot {base.id} is deleted"
        )
    if base.state is SnapshotState.IN_PROGRESS:
        return Refusal(
            code="CANNOT_START_RESTORE_JOB_FOR_INCOMPLETE_CLUSTER_SNAPSHOT",
            message=f"snapshot {base.id} is not complete yet",
        )
    return Resolution(base=base, limit=None)


def _explain(
    limit: OplogTimestamp,
    usable: Sequence[Snapshot],
    ranges: Sequence[OplogRange],
    gaps: Sequence[OplogGap],
    *,
    was_excluded: bool,
) -> Refusal:
    """Why no base will do."""
    older = [s for s in usable if s.stable_timestamp is not None and s.stable_timestamp <= limit]
    besides = ", besides those that are damaged" if was_excluded else ""
    if not older:
        first = usable[-1].stable_timestamp if usable else None
        return _refuse(
            f"no complete snapshot{besides} is as old as {_at(limit)}: "
            + (f"the oldest one is of {_at(first)}" if first else "there is none at all")
        )
    for gap in gaps:
        if gap.after.timestamp < limit < gap.before.timestamp:
            return _refuse(f"{_at(limit)} lies in {describe_gap(gap)}")
    applied = max(s.applied_timestamp for s in older if s.applied_timestamp is not None)
    for gap in gaps:
        if applied < gap.before.timestamp and gap.before.timestamp <= limit:
            return _refuse(
                f"between {_at(limit)} and the newest snapshot before it there is {describe_gap(gap)}"
            )
    last = max((found.last.timestamp for found in ranges), default=None)
    reaches = f"the archive reaches to {_at(last)}" if last else "nothing is archived yet"
    return _refuse(
        f"the archived oplog does not lead without a break from a snapshot{besides} to {_at(limit)}: {reaches}"
    )


def describe_gap(gap: OplogGap) -> str:
    """A gap in words."""
    return (
        f"a gap of the oplog archive, after {_at(gap.after.timestamp)} and before {_at(gap.before.timestamp)}, "
        f"found on {gap.found.isoformat(timespec='seconds')}"
    )


def _at(timestamp: OplogTimestamp) -> str:
    """An oplog timestamp as people can read it, and give it back."""
    return f"{timestamp.date.strftime('%Y-%m-%dT%H:%M:%SZ')} {timestamp}"


def _future(asked: str, now: OplogTimestamp) -> Refusal:
    return _refuse(f"{asked} is in the future: the newest write that is safe is of {_at(now)}")


def _refuse(message: str) -> Refusal:
    return Refusal(code="INVALID_ATTRIBUTE", message=message)
