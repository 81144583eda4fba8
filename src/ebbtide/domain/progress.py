"""Progress is data: one record that the command line, the API and the console all read.

Invariants: `done` never exceeds `total`; within a phase it never goes back, except when a job starts again.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a long piece of work is. `total` is None when it is not known; `unit` is e.g. `bytes`."""

    phase: str
    done: int
    total: int | None
    unit: str
    started: datetime
    updated: datetime


class ProgressReporter(Protocol):
    """Where an engine reports facts. Cheap to call often: the reporter throttles."""

    def phase(self, name: str, *, total: int | None = None, unit: str = "bytes") -> None:
        """A new phase begins at 0 of `total`."""

    def advance(self, amount: int) -> None:
        """`amount` more units are done. May be called from any thread."""


class NoProgress:
    """Reports to nobody."""

    def phase(self, name: str, *, total: int | None = None, unit: str = "bytes") -> None:
        pass

    def advance(self, amount: int) -> None:
        pass
