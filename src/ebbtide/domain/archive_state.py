"""How far the oplog archive of a cluster is, as the catalog says it. The repository's slices are the truth. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ebbtide.domain.ids import ClusterId
from ebbtide.domain.oplog import OplogGap, OplogRange
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.replica_set import Configuration, hosts_without_our_user, member_lag_seconds

BEHIND_SECONDS = 60.0
"""An archive that is further behind is an event, as is one that is behind by half of what the oplog holds."""

RECOVERED_SHARE = 0.5
"""It is over once the archive is behind by less than this part of what made it an event: else it would flicker."""

_SECONDARY, _PRIMARY = 2, 1


@dataclass(frozen=True, kw_only=True)
class ArchiveState:
    """The archive of one cluster; `id` is the cluster's.

    `oldest` and `archived_to` are the oldest and the newest archived entry, `archived_wall` the newest one's wall-clock
    time; `chain_first` is the first entry of the range that `archived_to` ends. At `observed` everything that was committed `lag_seconds` before was archived (None: that
    is not known). `source` is the member that is tailed, `HOST:PORT`, empty while none is; `message` says why then.
    `wanted`: somebody waits for everything up to there. `is_behind` is set from the event that says so until it is over.
    """

    id: ClusterId
    observed: datetime
    oldest: OpTime | None = None
    archived_to: OpTime | None = None
    archived_wall: datetime | None = None
    chain_first: OpTime | None = None
    lag_seconds: float | None = None
    source: str = ""
    message: str = ""
    wanted: OplogTimestamp | None = None
    gaps: tuple[OplogGap, ...] = ()
    is_behind: bool = False


def recorded_ranges(state: ArchiveState) -> tuple[OplogRange, ...]:
    """What the archive holds without a gap, oldest first, as far as the catalog knows."""
    if state.oldest is None or state.archived_to is None:
        return ()
    firsts = [state.oldest, *(gap.before for gap in state.gaps)]
    lasts = [*(gap.after for gap in state.gaps), state.archived_to]
    return tuple(OplogRange(first=first, last=last) for first, last in zip(firsts, lasts, strict=True))


def lag_at(state: ArchiveState, now: datetime) -> float | None:
    """Seconds that the archive is behind at `now`: while nobody observes it, it falls behind."""
    if state.lag_seconds is None:
        return None
    return state.lag_seconds + max(0.0, (now - state.observed).total_seconds())


def is_behind(
    lag_seconds: float, *, window_seconds: float | None, slice_seconds: float, was_behind: bool
) -> bool:
    """Whether the archive is so far behind that somebody should know.

    `window_seconds`: what the source's oplog holds, where that is known. It counts only once it is longer than the
    archive is behind by design.
    """
    limit = BEHIND_SECONDS
    if window_seconds is not None:
        limit = min(limit, max(2 * slice_seconds, window_seconds / 2))
    return lag_seconds > (limit * RECOVERED_SHARE if was_behind else limit)


def members_to_tail(
    configuration: Configuration, status: Mapping[str, Any], *, head: str, lag_max: float
) -> list[str]:
    """`HOST:PORT` of the members that can stand in for the head, never delayed ones or arbiters.

    Secondaries first, then the primary; secondaries that lag by more than `lag_max` seconds come last.
    """
    unfit = hosts_without_our_user(configuration) | {head}
    listed = {member["host"] for member in configuration["members"]}
    states = {m["name"]: m.get("state") for m in status["members"] if m["name"] in listed - unfit}
    ordered = [
        name for wanted in (_SECONDARY, _PRIMARY) for name, state in sorted(states.items()) if state == wanted
    ]
    return sorted(ordered, key=lambda name: (member_lag_seconds(status, name) or 0.0) > lag_max)


def other_data_members(configuration: Configuration, *, head: str) -> set[str]:
    """`HOST:PORT` of every member that might hold the same entries as the head, whether or not it answers."""
    return {m["host"] for m in configuration["members"]} - hosts_without_our_user(configuration) - {head}
