"""Oplog timestamps: (seconds, increment) in the order in which the oplog grows; an optime adds the term."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

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

    @property
    def packed(self) -> int:
        """WiredTiger's 64-bit form."""
        return self.seconds << 32 | self.increment

    def to_bson(self) -> Timestamp:
        return Timestamp(self.seconds, self.increment)

    @property
    def date(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def __str__(self) -> str:
        return f"({self.seconds}, {self.increment})"


@dataclass(frozen=True, order=True)
class OpTime:
    """Which entry of an oplog: two entries of one set with the same timestamp and the same term are the same entry.

    `term` counts the set's elections; the entry that began the set has -1.
    """

    timestamp: OplogTimestamp
    term: int

    def __post_init__(self) -> None:
        if not -1 <= self.term < 2**63:
            raise ValueError(f"the term of an optime must be in -1 … 2⁶³−1, not {self.term}")

    @classmethod
    def from_entry(cls, document: Mapping[str, Any]) -> "OpTime":
        """Of an oplog entry (`ts`, `t`), or of an optime as the server shows it. Raises ValueError for anything else.

        The entry that began the set has no `t` (6.0.5); the server takes that for -1, and so do we.
        """
        timestamp, term = document.get("ts"), document.get("t")
        term = -1 if term is None else term
        if not isinstance(timestamp, Timestamp) or not isinstance(term, int):
            raise ValueError("is no oplog entry: it has no ts, or a t that is no number")
        return cls(OplogTimestamp.from_bson(timestamp), int(term))

    def __str__(self) -> str:
        return f"{self.timestamp} of term {self.term}"
