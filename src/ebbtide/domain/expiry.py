"""When something that logs somebody in ends, and from when on its end is worth a word."""

from datetime import datetime, timedelta
from enum import StrEnum

WARN_BEFORE_MAX = timedelta(days=14)
"""Time to make another and to put it everywhere, holidays included."""

WARN_SHARE = 4
"""What lives for a week only is not worth a warning from its first day: the last quarter of its life is."""


class ExpiryStage(StrEnum):
    """How far something with an end is."""

    SOON = "SOON"  # it works, and will not for long
    ENDED = "ENDED"  # it is refused


def is_over(expires: datetime | None, *, now: datetime) -> bool:
    """Whether it has ended; what has no end never has."""
    return expires is not None and now >= expires


def find_stage(*, created: datetime, expires: datetime | None, now: datetime) -> ExpiryStage | None:
    """The stage at `now`; None: there is nothing to say."""
    if expires is None:
        return None
    if is_over(expires, now=now):
        return ExpiryStage.ENDED
    warn_before = min(WARN_BEFORE_MAX, (expires - created) / WARN_SHARE)
    return ExpiryStage.SOON if now >= expires - warn_before else None
