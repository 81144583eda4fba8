"""Which snapshots are kept, and the reason for each. Pure.

A snapshot carries its own time of deletion (`expires`, set when it is complete). Retention deletes what is past it,
with three exceptions:

  * `doNotDelete`: a person said so
  * the newest complete snapshot of a cluster under backup: where backups fail for longer than the retention, the last
    good snapshot must outlive its time, or nothing would be left exactly when something is needed
  * one that a restore job or a download still needs

A person may delete any of them; that is not retention's business. A snapshot of a sharded cluster is judged as a whole,
and its parts follow it (`follows_whole`).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, TypeVar

from ebbtide.domain.cluster_snapshot import AnySnapshot, ClusterSnapshot
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.snapshot import Snapshot, SnapshotState

T = TypeVar("T", Snapshot, ClusterSnapshot)


class Reason(StrEnum):
    """Why a snapshot is kept, or deleted."""

    NOT_COMPLETE = "NOT_COMPLETE"  # kept: it is being taken, or holds nothing
    DO_NOT_DELETE = "DO_NOT_DELETE"  # kept: a person said so
    NOT_EXPIRED = "NOT_EXPIRED"  # kept: its time has not come
    NEWEST = "NEWEST"  # kept: past its time, but the last good one of a cluster under backup
    IN_USE = "IN_USE"  # kept: past its time, but a restore job or a download needs it
    EXPIRED = "EXPIRED"  # deleted: past its time


@dataclass(frozen=True, kw_only=True)
class Verdict(Generic[T]):
    """What becomes of one snapshot."""

    snapshot: T
    keep: bool
    reason: Reason


def expires_after(completed: datetime, *, retention_days: int) -> datetime:
    """When a snapshot that is complete at `completed` may be deleted."""
    return completed + timedelta(days=retention_days)


def plan_retention(
    snapshots: Iterable[T],
    *,
    retention_days: int,
    in_use: Collection[SnapshotId],
    now: datetime,
) -> list[Verdict[T]]:
    """The verdict on each snapshot of one cluster, in their order.

    The newest complete one is always kept, also when the cluster is not backed up any more: only a person deletes the
    last copy of somebody's data. `in_use`: what restore jobs and downloads need. `retention_days` is
    for snapshots without a time of their own (taken before they had one). Deleted snapshots are left out.
    """
    present = [s for s in snapshots if s.state is not SnapshotState.DELETED]
    newest = newest_complete(present)
    return [
        _judge(s, retention_days=retention_days, is_newest=s is newest, is_in_use=s.id in in_use, now=now)
        for s in present
    ]


def newest_complete(snapshots: Iterable[T]) -> T | None:
    """The complete snapshot that was asked for last."""
    complete = [s for s in snapshots if s.state is SnapshotState.COMPLETE]
    return max(complete, key=lambda s: (s.created, s.id), default=None)


def has_expired(snapshot: AnySnapshot, *, now: datetime) -> bool:
    """Whether a snapshot is past its time; it may be gone at any moment, unless retention holds it back."""
    return not snapshot.do_not_delete and snapshot.expires is not None and now >= snapshot.expires


def follows_whole(snapshot: Snapshot, whole: ClusterSnapshot | None) -> bool:
    """Whether it stays or goes with the snapshot of its sharded cluster; one of a failed one is as any other."""
    return (
        whole is not None
        and whole.id == snapshot.cluster_snapshot_id
        and whole.state is not SnapshotState.FAILED
    )


def _judge(
    snapshot: T, *, retention_days: int, is_newest: bool, is_in_use: bool, now: datetime
) -> Verdict[T]:
    def keep(reason: Reason) -> Verdict[T]:
        return Verdict(snapshot=snapshot, keep=True, reason=reason)

    if snapshot.state is not SnapshotState.COMPLETE:
        return keep(Reason.NOT_COMPLETE)
    if snapshot.do_not_delete:
        return keep(Reason.DO_NOT_DELETE)
    expires = snapshot.expires
    if expires is None:
        expires = expires_after(snapshot.completed or snapshot.created, retention_days=retention_days)
    if now < expires:
        return keep(Reason.NOT_EXPIRED)
    if is_newest:
        return keep(Reason.NEWEST)
    if is_in_use:
        return keep(Reason.IN_USE)
    return Verdict(snapshot=snapshot, keep=False, reason=Reason.EXPIRED)
