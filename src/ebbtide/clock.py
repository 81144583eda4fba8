"""Time, passed around so that tests can own it."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What code may ask about time."""

    def now(self) -> datetime:
        """Aware UTC time, in whole milliseconds: what the catalog can hold."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Return after `seconds` have passed."""


def to_millis(moment: datetime) -> datetime:
    """The same moment in UTC, cut to whole milliseconds (BSON dates hold no more)."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return to_millis(datetime.now(UTC))

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
