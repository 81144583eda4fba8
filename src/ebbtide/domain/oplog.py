"""The oplog archive of one replica set: slices of the set's oplog, and what they cover together. Pure.

A slice holds every entry from its first to its last, and names its predecessor: the entry right before its first. So
two slices that touch are known to have nothing between them; where a chain begins, the predecessor is None.

Slices may overlap (a merged one beside its parts, or what a worker wrote that had lost its lease): entries with equal
optimes are equal, and who reads skips what it has. A set has one history, so overlaps agree.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.errors import Refused


@dataclass(frozen=True, kw_only=True)
class OplogSlice:
    """One stored slice, both ends included. `plain_bytes` of its entries, `stored_bytes` of its object."""

    predecessor: OpTime | None
    first: OpTime
    last: OpTime
    entry_count: int
    plain_bytes: int
    stored_bytes: int

    @property
    def starts_after(self) -> OplogTimestamp:
        """Who has everything up to here can go on with this slice."""
        return self.first.timestamp if self.predecessor is None else self.predecessor.timestamp


@dataclass(frozen=True, kw_only=True)
class OplogRange:
    """Every entry from `first` to `last`, both included."""

    first: OpTime
    last: OpTime


@dataclass(frozen=True, kw_only=True)
class OplogGap:
    """Entries between `after` and `before` (both archived) are in no slice; `found` is when that was noticed."""

    after: OpTime
    before: OpTime
    found: datetime
    reason: str = ""


class OplogGapError(Refused):
    """The archive does not hold every entry of a range."""

    def __init__(
        self, *, after: OplogTimestamp, through: OplogTimestamp, missing_after: OpTime | None
    ) -> None:
        where = "from its beginning on" if missing_after is None else f"after {missing_after.timestamp}"
        super().__init__(
            f"the oplog archive does not hold every entry from {after} to {through}: something is missing {where}",
            hint="choose a moment that `ebbtide oplog ranges` lists",
        )
        self.after = after
        self.through = through
        self.missing_after = missing_after


@dataclass(frozen=True)
class Chain:
    """Slices that cover one range without a gap, by the first entry of each."""

    slices: tuple[OplogSlice, ...]

    @property
    def range(self) -> OplogRange:
        return OplogRange(first=self.slices[0].first, last=max(s.last for s in self.slices))

    @property
    def starts_after(self) -> OplogTimestamp:
        return self.slices[0].starts_after


def chains(slices: Iterable[OplogSlice]) -> tuple[Chain, ...]:
    """The slices, grouped into those that leave nothing out between them; oldest first."""
    groups: list[list[OplogSlice]] = []
    reached: OpTime | None = None
    for piece in sorted(slices, key=lambda s: (s.first, -s.last.timestamp.packed)):
        if reached is not None and _connects(piece, reached):
            groups[-1].append(piece)
            reached = max(reached, piece.last)
        else:
            groups.append([piece])
            reached = piece.last
    return tuple(Chain(tuple(group)) for group in groups)


def _connects(piece: OplogSlice, reached: OpTime) -> bool:
    """Whether nothing is missing between an archive that ends with `reached` and the slice."""
    if piece.first <= reached:
        return True
    return piece.predecessor is not None and (
        piece.predecessor == reached or piece.predecessor.timestamp < reached.timestamp
    )


def covered_ranges(slices: Iterable[OplogSlice]) -> tuple[OplogRange, ...]:
    """What can be read without a gap, oldest first."""
    return tuple(chain.range for chain in chains(slices))


def gap_ends(slices: Iterable[OplogSlice]) -> tuple[tuple[OpTime, OpTime], ...]:
    """Between which two entries something is missing, oldest first."""
    ranges = covered_ranges(slices)
    return tuple((left.last, right.first) for left, right in itertools.pairwise(ranges))


def choose_slices(
    slices: Iterable[OplogSlice], *, after: OplogTimestamp, through: OplogTimestamp
) -> tuple[OplogSlice, ...]:
    """The fewest slices that hold every entry with `after` < ts ≤ `through`, in order; they may hold more.

    Raises OplogGapError where they do not: `after` must lie in the archive (or right before its first slice), and
    `through` must not lie beyond the newest archived entry.
    """
    if through <= after:
        return ()
    missing_after: OpTime | None = None
    for chain in chains(slices):
        if chain.starts_after <= after and through <= chain.range.last.timestamp:
            return _furthest_first(chain.slices, after=after, through=through)
        if chain.starts_after <= after:
            missing_after = chain.range.last
    raise OplogGapError(after=after, through=through, missing_after=missing_after)


def _furthest_first(
    slices: Sequence[OplogSlice], *, after: OplogTimestamp, through: OplogTimestamp
) -> tuple[OplogSlice, ...]:
    """Among the slices that go on from where we are, always the one that reaches furthest."""
    chosen: list[OplogSlice] = []
    waiting = sorted(slices, key=lambda s: min(s.starts_after, s.first.timestamp))
    position, index = after, 0
    best: OplogSlice | None = None
    while position < through:
        while index < len(waiting) and waiting[index].starts_after <= position:
            if best is None or waiting[index].last > best.last:
                best = waiting[index]
            index += 1
        if best is None or best.last.timestamp <= position:
            raise OplogGapError(
                after=after, through=through, missing_after=chosen[-1].last if chosen else None
            )
        chosen.append(best)
        position = best.last.timestamp
    return tuple(chosen)


def newest_slice(slices: Iterable[OplogSlice]) -> OplogSlice | None:
    """The slice with the newest entry; of several the longest."""
    return max(slices, key=lambda s: (s.last, -s.first.timestamp.packed), default=None)


def find_slice(slices: Iterable[OplogSlice], timestamp: OplogTimestamp) -> OplogSlice | None:
    """A slice whose first and last entries enclose the timestamp (the smallest one); no other can have an entry there."""
    around = [s for s in slices if s.first.timestamp <= timestamp <= s.last.timestamp]
    return min(around, key=lambda s: s.plain_bytes, default=None)


def update_gaps(
    known: Iterable[OplogGap], slices: Iterable[OplogSlice], *, now: datetime, reason: str
) -> tuple[OplogGap, ...]:
    """The gaps that the slices show; those not `known` before are found now, for that `reason`."""
    by_ends = {(gap.after, gap.before): gap for gap in known}
    return tuple(
        by_ends.get((after, before)) or OplogGap(after=after, before=before, found=now, reason=reason)
        for after, before in gap_ends(slices)
    )
