"""How files are brought to a moment by replaying the oplog: what must be true before, and what proves it afterwards.

Pure rules over what was seen; `restore.replay` carries them out. T_s is where the files open, T_a the newest entry of
the oplog inside them. Three cases: the moment lies beyond T_a (entries are inserted), before it (the oplog is cut), or
at it. The server then applies what its oplog holds beyond T_s, whatever of it was there before.
"""

from dataclasses import dataclass

from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.errors import EbbtideError


class ReplayFailed(EbbtideError):
    """A replay did not do, or would not do, what was asked for: nothing of it is delivered."""

    exit_code = 8


class HistoryDiverged(ReplayFailed):
    """The snapshot's last entry is not the archive's at that time: they belong to different histories."""


@dataclass(frozen=True, kw_only=True)
class ReplayBase:
    """Where a snapshot's files open (T_s), and the newest entry of the oplog in them (T_a), by its manifest."""

    stable: OplogTimestamp
    applied: OplogTimestamp


@dataclass(frozen=True, kw_only=True)
class ReplayPlan:
    """`target` is the newest entry of the result. At most one of the two is to be done to the oplog in the files."""

    target: OpTime
    inserts: bool = False  # the archive's entries beyond T_a are put in
    truncates: bool = False  # entries beyond the target are to go


def check_base(base: ReplayBase, *, opened_at: OplogTimestamp | None, newest: OpTime) -> None:
    """Raise ReplayFailed unless the files are what their manifest says."""
    if opened_at != base.stable:
        raise ReplayFailed(f"the snapshot's files open at {opened_at}, and its manifest says {base.stable}")
    if newest.timestamp != base.applied:
        raise ReplayFailed(
            f"the oplog in the snapshot's files ends at {newest.timestamp}, and its manifest says {base.applied}"
        )


def plan_within(base: ReplayBase, *, newest: OpTime, newest_within: OpTime | None) -> ReplayPlan:
    """For a moment that the oplog in the files reaches. `newest_within`: the newest entry up to it in that oplog."""
    if newest_within is None or newest_within.timestamp < base.stable:
        raise ReplayFailed(f"the snapshot's files hold data of {base.stable}, and no entry at that time")
    return ReplayPlan(target=newest_within, truncates=newest_within < newest)


def plan_beyond(
    base: ReplayBase, *, newest: OpTime, archived: OpTime | None, newest_archived: OpTime | None
) -> ReplayPlan:
    """For a moment beyond the oplog in the files.

    `archived` is the archive's entry at T_a, `newest_archived` its newest one up to the moment. Raises HistoryDiverged
    where the two histories are not one.
    """
    if archived != newest:
        seen = "none" if archived is None else f"one of term {archived.term}"
        raise HistoryDiverged(
            f"the snapshot's newest oplog entry {newest.timestamp} is of term {newest.term}, and the archive has "
            f"{seen} there",
            hint="choose another snapshot as the base: the set has rolled this one's history back",
        )
    if newest_archived is None or newest_archived.timestamp <= base.applied:
        return ReplayPlan(target=newest)
    return ReplayPlan(target=newest_archived, inserts=True)


def check_truncate_point(point: OplogTimestamp | None) -> None:
    """Raise ReplayFailed unless it is empty: else the server silently drops every entry that is inserted beyond it."""
    if point not in (None, OplogTimestamp(seconds=0, increment=0)):
        raise ReplayFailed(
            f"the snapshot's oplog is marked to be cut after {point}, so nothing can be replayed on it",
            hint="its files are of a member that was primary; choose another snapshot",
        )


def check_replayed(plan: ReplayPlan, *, expected: int, applied: int | None, newest: OpTime) -> None:
    """Raise ReplayFailed unless exactly what lies between T_s and the target was applied.

    `expected` counts the entries with T_s < ts ≤ target, `applied` is what the server says; None: it says nothing,
    and does so where there was nothing to apply.
    """
    if newest != plan.target:
        raise ReplayFailed(
            f"the replayed oplog ends at {newest.timestamp} instead of {plan.target.timestamp}"
        )
    if (applied or 0) != expected:
        raise ReplayFailed(f"{applied or 0} oplog entries were applied, and there are {expected}")
