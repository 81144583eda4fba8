"""Which moments of a cluster can be restored: what its archive holds, from the first base in each range on. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.oplog import OplogRange
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.snapshot import Snapshot, SnapshotState


@dataclass(frozen=True, kw_only=True)
class RestorableRange:
    """Every moment from `first` to `last`, both included. `snapshot_id` is the base of the first of them."""

    first: OplogTimestamp
    last: OplogTimestamp
    snapshot_id: SnapshotId


def plan_restorable(
    ranges: Iterable[OplogRange], snapshots: Sequence[Snapshot], *, window_first: OplogTimestamp
) -> tuple[RestorableRange, ...]:
    """The moments of each range that a complete snapshot makes restorable, oldest first.

    A base needs its T_a in the range, and is restorable from its T_s on. Nothing before `window_first` is offered; the
    base is then the newest one that lies before it.
    """
    bases = sorted(
        (s.stable_timestamp, s.applied_timestamp, s.id)
        for s in snapshots
        if s.state is SnapshotState.COMPLETE and s.stable_timestamp and s.applied_timestamp
    )
    found = []
    for covered in ranges:
        within = [b for b in bases if covered.first.timestamp <= b[1] <= covered.last.timestamp]
        if not within or covered.last.timestamp < window_first:
            continue
        base = max((b for b in within if b[0] <= window_first), default=within[0])
        first = max(base[0], window_first)
        found.append(RestorableRange(first=first, last=covered.last.timestamp, snapshot_id=base[2]))
    return tuple(found)


def common_ranges(of_parts: Sequence[Sequence[RestorableRange]]) -> tuple[RestorableRange, ...]:
    """The moments that lie in a range of every part, oldest first; each with the base of the part that begins last.

    A sharded cluster is restored to the latest consistent point that is not after one of these.
    """
    if not of_parts:
        return ()
    found = list(of_parts[0])
    for ranges in of_parts[1:]:
        found = [
            RestorableRange(
                first=max(one.first, other.first),
                last=min(one.last, other.last),
                snapshot_id=(one if one.first >= other.first else other).snapshot_id,
            )
            for one in found
            for other in ranges
            if max(one.first, other.first) <= min(one.last, other.last)
        ]
    return tuple(sorted(found, key=lambda r: r.first))
