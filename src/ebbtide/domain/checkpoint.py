"""Checkpoints: moments to which a sharded cluster can be restored, taken between its snapshots. Pure.

One costs nothing but a note in each part's oplog (its token): all notes lie at or after one cluster time, so an archive
that has its part's token reaches that time. Once all archives do, the latest consistent point up to there is what the
checkpoint restores to; that depends on the entries up to the cluster time alone, so it is found once and stays.

Invariants
  * `cluster_time` and the parts' tokens are written together, and never change
  * `restores_to` ≤ `cluster_time`, and is a consistent point of exactly these parts
  * `restorable` is as of the last look: it needs a base snapshot of every part, and those come and go
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from ebbtide.domain.ids import CheckpointId, ClusterId, GroupId
from ebbtide.domain.oplog import OplogRange
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_point import AtOplog, Refusal, is_reached, newest_first
from ebbtide.domain.schedule import SnapshotSchedule
from ebbtide.domain.snapshot import Snapshot

NOT_BEGUN_AFTER = timedelta(minutes=10)
"""A checkpoint that could not be noted on all parts for so long has failed: by then it would be of another time."""

_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
"""Intervals divide the hour, so slots counted from here are the same in each."""


class CheckpointState(StrEnum):
    """How far a checkpoint is."""

    WANTED = "WANTED"  # asked for; no cluster time was noted on all parts yet
    NOTED = "NOTED"  # every part's oplog has its token; not every archive has
    COMPLETE = "COMPLETE"  # what it restores to is known
    FAILED = "FAILED"  # it will never be restorable; the message says why


@dataclass(frozen=True, kw_only=True)
class CheckpointPart:
    """One replica set of it. `token` is the note in its oplog, at or after the cluster time; `is_archived`: the archive
    has it. `cluster_id` is the part's own."""

    cluster_id: ClusterId
    name: str
    replica_set_name: str
    shard_name: str | None
    is_config_server: bool
    token: OplogTimestamp
    is_archived: bool = False


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A moment of a sharded cluster. `cluster_id` is the sharded cluster's own.

    `created` is when it was asked for, `scheduled_for` the slot of the schedule that did; None: a person. At
    `completed` all parts had their token. `message` says what it waits for, why it failed, or why it is not restorable.
    """

    id: CheckpointId
    group_id: GroupId
    cluster_id: ClusterId
    cluster_name: str
    created: datetime
    state: CheckpointState = CheckpointState.WANTED
    parts: tuple[CheckpointPart, ...] = ()
    scheduled_for: datetime | None = None
    completed: datetime | None = None
    cluster_time: OplogTimestamp | None = None
    restores_to: OplogTimestamp | None = None
    restorable: bool = False
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class PartView:
    """What the catalog knows of one part: what its archive holds without a gap, and its complete snapshots."""

    ranges: Sequence[OplogRange]
    snapshots: Sequence[Snapshot]


@dataclass(frozen=True)
class Waiting:
    """Some archives do not have their token yet; the parts as they are now."""

    parts: tuple[CheckpointPart, ...]
    reason: str


@dataclass(frozen=True)
class Archived:
    """All archives have their token."""

    parts: tuple[CheckpointPart, ...]


@dataclass(frozen=True)
class Lost:
    """An archive went on behind a token without having it: it will never be restorable."""

    reason: str


def newest_checkpoint_slot(*, interval_minutes: int, now: datetime) -> datetime:
    """The last moment, at or before `now`, at which a checkpoint is to be taken."""
    interval = timedelta(minutes=interval_minutes)
    return _BEGINNING + (now - _BEGINNING) // interval * interval


def due_checkpoint_slot(
    schedule: SnapshotSchedule, *, now: datetime, last_slot: datetime | None
) -> datetime | None:
    """The slot for which a checkpoint is due now. Only the newest one counts, however many were missed.

    `last_slot` is the newest slot that one was taken for. The moments before a cluster was registered are not due.
    """
    slot = newest_checkpoint_slot(interval_minutes=schedule.checkpoint_interval_minutes, now=now)
    done_until = schedule.counts_from if last_slot is None else max(last_slot, schedule.counts_from)
    return slot if slot > done_until else None


def judge_tokens(checkpoint: Checkpoint, views: Mapping[ClusterId, PartView]) -> Waiting | Archived | Lost:
    """Whether the archives of all parts have their token. A part without a view has no archive yet."""
    parts = tuple(
        replace(part, is_archived=_holds(views.get(part.cluster_id), part.token)) for part in checkpoint.parts
    )
    missing = [part for part in parts if not part.is_archived]
    for part in missing:
        view = views.get(part.cluster_id)
        if view is not None and any(found.first.timestamp > part.token for found in view.ranges):
            return Lost(f"the oplog archive of {part.name} lacks {part.token}: it goes on behind that")
    if missing:
        names = ", ".join(part.name for part in missing)
        return Waiting(parts, f"waits for the oplog archive of {names}")
    return Archived(parts)


def judge_bases(checkpoint: Checkpoint, views: Mapping[ClusterId, PartView]) -> str:
    """Why what the checkpoint restores to cannot be restored now; empty if it can. It must be COMPLETE."""
    if checkpoint.restores_to is None:
        return "what it restores to is not known yet"
    for part in checkpoint.parts:
        view = views.get(part.cluster_id)
        bases = [] if view is None else newest_first(view.snapshots)
        if view is None or not any(is_reached(base, checkpoint.restores_to, view.ranges) for base in bases):
            return f"no complete snapshot of {part.name} leads to {checkpoint.restores_to} without a gap of its oplog archive"
    return ""


def is_forgotten(checkpoint: Checkpoint, *, window_start: datetime) -> bool:
    """Whether it lies before the point-in-time window, where nothing can be restored but snapshots."""
    moment = checkpoint.restores_to or checkpoint.cluster_time
    return (checkpoint.created if moment is None else moment.date) < window_start


def checkpoint_restore_point(checkpoint: Checkpoint) -> AtOplog | Refusal:
    """What restoring the checkpoint means, for every part of it: everything up to and including one cluster time."""
    if checkpoint.restores_to is None or not checkpoint.restorable:
        why = checkpoint.message or "it is not restorable yet"
        return Refusal(
            code="NO_CHECKPOINT_FOR_PIT_RESTORE",
            message=f"checkpoint {checkpoint.id} of {checkpoint.cluster_name} cannot be restored: {why}",
        )
    return AtOplog(checkpoint.restores_to.seconds, checkpoint.restores_to.increment)


def _holds(view: PartView | None, token: OplogTimestamp) -> bool:
    return view is not None and any(
        found.first.timestamp <= token <= found.last.timestamp for found in view.ranges
    )
