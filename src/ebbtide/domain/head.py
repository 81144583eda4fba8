"""What to do with a head next: one safe action at a time, from what is wanted and what is seen."""

from dataclasses import dataclass
from enum import StrEnum

from ebbtide.domain.cluster import HeadState


class HeadAction(StrEnum):
    """The next thing to do with a head."""

    NOTHING = "NOTHING"
    START = "START"  # start its mongod
    JOIN = "JOIN"  # add it to the set and prove that members reach it
    WATCH_SYNC = "WATCH_SYNC"  # look how far initial sync (or catching up) is
    FOLLOW = "FOLLOW"  # measure its lag
    LEAVE = "LEAVE"  # take it out of the set, stop it, remove its files
    REPORT_DROPPED = "REPORT_DROPPED"  # someone else took it out of the set


@dataclass(frozen=True, kw_only=True)
class HeadSight:
    """What is seen of a head. `is_listed` is None where the set could not be asked."""

    is_running: bool
    is_listed: bool | None
    is_secondary: bool


def decide_head_action(
    *, is_wanted: bool, state: HeadState, joined_once: bool, sight: HeadSight
) -> HeadAction:
    """The next action.

    A head is taken out of the set before its process ends, so that the set never counts on a member that is gone for
    good; and it is started before it joins, so that the set never lists one that was not there.
    """
    if not is_wanted:
        return HeadAction.NOTHING if state is HeadState.GONE else HeadAction.LEAVE
    if state in (HeadState.FAILED, HeadState.GONE):
        return HeadAction.NOTHING
    if not sight.is_running:
        return HeadAction.START
    if not joined_once:
        return HeadAction.JOIN
    if sight.is_listed is False:
        return HeadAction.REPORT_DROPPED
    return HeadAction.FOLLOW if sight.is_secondary else HeadAction.WATCH_SYNC
