"""What to do with a head next: one safe action at a time, from what is wanted and what is seen."""

from dataclasses import dataclass
from datetime import datetime, timedelta
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
    REJOIN = "REJOIN"  # someone else took it out of the set: put it back
    REPORT_DROPPED = (
        "REPORT_DROPPED"  # someone else took it out of the set, and it stays out until a person asks
    )


@dataclass(frozen=True, kw_only=True)
class HeadSight:
    """What is seen of a head. `is_listed` is None where the set could not be asked."""

    is_running: bool
    is_listed: bool | None
    is_secondary: bool


def decide_head_action(
    *,
    is_wanted: bool,
    state: HeadState,
    joined_once: bool,
    sight: HeadSight,
    may_rejoin: bool = False,
    rejoin_wanted: bool = False,
) -> HeadAction:
    """The next action. `may_rejoin`: it was never put back, or a person asks for it. `rejoin_wanted`: that it shall be
    put back is recorded, and not yet that it was.

    A head is taken out of the set before its process ends, so that the set never counts on a member that is gone for
    good; and it is started before it joins, so that the set never lists one that was not there. Somebody else who takes
    it out is contradicted once, as a configuration written from an old copy drops it by mistake; who does it again
    means it.
    """
    if not is_wanted:
        return HeadAction.NOTHING if state is HeadState.GONE else HeadAction.LEAVE
    if state in (HeadState.FAILED, HeadState.GONE):
        return HeadAction.NOTHING
    if state is HeadState.REMOVED and not may_rejoin and not sight.is_listed:
        return HeadAction.NOTHING
    if not sight.is_running:
        return HeadAction.START
    if not joined_once:
        return HeadAction.JOIN
    if sight.is_listed is False:
        return HeadAction.REJOIN if may_rejoin else HeadAction.REPORT_DROPPED
    if sight.is_listed and rejoin_wanted:
        return HeadAction.REJOIN
    return HeadAction.FOLLOW if sight.is_secondary else HeadAction.WATCH_SYNC


CERTIFICATE_WARN = timedelta(days=30)
CERTIFICATE_WARN_AGAIN = timedelta(days=7)


def certificate_warning_due(*, expires: datetime | None, warned: datetime | None, now: datetime) -> bool:
    """Whether to say (again) that the head's certificate ends soon, or has ended; `warned` is when that was last said."""
    if expires is None or expires - now > CERTIFICATE_WARN:
        return False
    return warned is None or now - warned >= CERTIFICATE_WARN_AGAIN
