"""Which slices of an oplog archive may go, and which are put together. Pure.

Trimming keeps everything that a restore into the window needs: the newest snapshot at or before the window's start is
the base of its first moments, and from the entry at that snapshot's T_a on all entries stay. So stays what a restore job
under way, the undoing of one or a snapshot of a sharded cluster needs, and the newest slice: the archive goes on behind it.

Merging puts many small slices in a row into one. The merged one is stored first; its parts are then redundant, and go
after a grace, as somebody may be about to read them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ebbtide.domain.cluster_snapshot import ClusterSnapshot
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.oplog import OplogSlice, newest_slice
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.retention import follows_whole
from ebbtide.domain.snapshot import Snapshot, SnapshotState

MERGED_PLAIN_BYTES_MAX = 64 * 1024 * 1024
"""No merged slice is longer: it is read, and held in memory, as a whole."""

LARGEST_SHARE_MAX = 0.5
"""No part may be more than this of a merged slice: so each entry is written anew only when its slice doubles."""


@dataclass(frozen=True)
class _Base:
    stable: OplogTimestamp
    applied: OplogTimestamp


def oldest_needed(
    snapshots: Iterable[Snapshot], *, window_start: datetime, pinned: Iterable[OplogTimestamp]
) -> OplogTimestamp:
    """The entry from which on everything stays.

    `snapshots` of the cluster, in any state: those that can be brought back count too. `pinned`: T_a of the bases of
    restore jobs under way, and of those that can be undone. Where no snapshot lies at or before the window's start, it is the oldest one's T_a; without
    any snapshot the window's start.
    """
    snapshots = list(snapshots)
    start = OplogTimestamp(int(window_start.timestamp()), 0)
    complete = _bases(s for s in snapshots if s.state is SnapshotState.COMPLETE)
    at_hand = _bases(s for s in snapshots if s.state is SnapshotState.COMPLETE or _can_come_back(s))
    applied = [_base_applied(bases, start) for bases in (complete, at_hand)]
    needed = [timestamp for timestamp in applied if timestamp is not None] or [start]
    return min([*needed, *pinned])


def pinned_by_wholes(
    snapshots: Iterable[Snapshot], wholes: Mapping[SnapshotId, ClusterSnapshot]
) -> list[OplogTimestamp]:
    """T_a of the parts of snapshots of sharded clusters: to restore one, each part goes on to the time they have in common.

    That takes the entries from there on, however far back the window begins. `wholes` by their ids.
    """
    return [
        snapshot.applied_timestamp
        for snapshot in snapshots
        if snapshot.applied_timestamp is not None
        and (snapshot.state is SnapshotState.COMPLETE or _can_come_back(snapshot))
        and snapshot.cluster_snapshot_id is not None
        and follows_whole(snapshot, wholes.get(snapshot.cluster_snapshot_id))
    ]


def _can_come_back(snapshot: Snapshot) -> bool:
    return snapshot.state is SnapshotState.DELETED and snapshot.removed is None


def _bases(snapshots: Iterable[Snapshot]) -> list[_Base]:
    return [
        _Base(s.stable_timestamp, s.applied_timestamp)
        for s in snapshots
        if s.stable_timestamp is not None and s.applied_timestamp is not None
    ]


def _base_applied(bases: Sequence[_Base], start: OplogTimestamp) -> OplogTimestamp | None:
    """T_a of the newest base at or before `start`, else of the oldest one; None where there is none."""
    before = [base for base in bases if base.stable <= start]
    if before:
        return max(before, key=lambda base: base.stable).applied
    return min((base.applied for base in bases), default=None)


def plan_trim(slices: Sequence[OplogSlice], *, needed_from: OplogTimestamp) -> tuple[OplogSlice, ...]:
    """The slices that end before `needed_from`, oldest first; never the newest one."""
    newest = newest_slice(slices)
    old = [s for s in slices if s.last.timestamp < needed_from and s != newest]
    return tuple(sorted(old, key=lambda s: (s.last, s.first)))


def border_after(slices: Sequence[OplogSlice], old: Sequence[OplogSlice]) -> OplogTimestamp:
    """The moment after which the archive begins once the `old` slices, never all of them, are gone."""
    return min(piece.starts_after for piece in slices if piece not in old)


def redundant_slices(slices: Sequence[OplogSlice]) -> dict[OplogSlice, OplogSlice]:
    """Each slice that another one holds as a whole, and the longest that does; equal ones hold each other never."""
    found: dict[OplogSlice, OplogSlice] = {}
    best: OplogSlice | None = None
    # Longer ones come before those that they might hold.
    for piece in sorted(slices, key=lambda s: (s.first, -s.last.timestamp.packed, -s.plain_bytes)):
        if best is not None and piece.last <= best.last and _begins_as_early(best, piece):
            found[piece] = best
        elif best is None or piece.last > best.last:
            best = piece
    return found


def _begins_as_early(holder: OplogSlice, piece: OplogSlice) -> bool:
    """Whether nothing is lost without `piece`: neither its entries, nor what it says about the one before."""
    return holder.first < piece.first or holder.predecessor == piece.predecessor


def plan_merges(
    slices: Sequence[OplogSlice], *, count_min: int, plain_bytes_max: int = MERGED_PLAIN_BYTES_MAX
) -> tuple[tuple[OplogSlice, ...], ...]:
    """Groups of at least `count_min` slices in a row, each to become one slice; oldest first."""
    redundant = redundant_slices(slices)
    rest = sorted((s for s in slices if s not in redundant), key=lambda s: (s.first, s.last))
    groups = []
    start = 0
    while start + count_min <= len(rest):
        end = _end_of_group(rest, start, plain_bytes_max)
        group = tuple(rest[start:end])
        total = sum(s.plain_bytes for s in group)
        if len(group) >= count_min and max(s.plain_bytes for s in group) <= total * LARGEST_SHARE_MAX:
            groups.append(group)
            start = end
        else:
            start += 1
    return tuple(groups)


def _end_of_group(slices: Sequence[OplogSlice], start: int, plain_bytes_max: int) -> int:
    """Behind the last slice that goes on from `start` without a gap, within the bytes."""
    end = start + 1
    total = slices[start].plain_bytes
    while end < len(slices) and slices[end].predecessor == slices[end - 1].last:
        total += slices[end].plain_bytes
        if total > plain_bytes_max:
            break
        end += 1
    return end
