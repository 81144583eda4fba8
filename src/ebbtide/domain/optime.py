"""Oplog timestamps: (seconds, increment) in the order in which the oplog grows."""

from dataclasses import dataclass
from datetime import UTC, datetime

from bson import Timestamp


@dataclass(frozen=True, order=True)
class OplogTimestamp:
    """One place in an oplog.

    `seconds` since 1970, 0 … 2³²−1; `increment` counts within the second, 0 … 2³²−1.
    """

    seconds: int
    increment: int

    def __post_init__(self) -> None:
        for name in ("seconds", "increment"):
            if not 0 <= getattr(self, name) < 2**32:
                raise ValueError(
                    f"{name} of an oplog timestamp must be in 0 … 2³²−1, not {getattr(self, name)}"
                )

    @classmethod
    def from_bson(cls, value: Timestamp) -> "OplogTimestamp":
        return cls(seconds=value.time, increment=value.inc)

    @classmethod
    def from_packed(cls, value: int) -> "OplogTimestamp":
        """From WiredTiger's 64-bit form: seconds in the high 32 bits, increment in the low."""
        return cls(seconds=value >> 32, increment=value & 0xFFFFFFFF)

    def to_bson(self) -> Timestamp:
        return Timestamp(self.seconds, self.increment)

    @property
    def date(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def __str__(self) -> str:
        return f"({self.seconds}, {self.increment})"
