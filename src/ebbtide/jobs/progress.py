"""Reporting a job's progress into the catalog, seldom enough not to matter.

`advance` is called from many threads for every few megabytes; at most every `INTERVAL_SECONDS` one of the calls
writes. The first and the last word of a phase are always written.
"""

import threading
from collections.abc import Callable
from datetime import timedelta

from ebbtide.clock import Clock
from ebbtide.domain.progress import Progress

INTERVAL_SECONDS = 0.5


class ThrottledProgress:
    """A ProgressReporter that hands a `Progress` to `write` now and then."""

    def __init__(self, write: Callable[[Progress], None], clock: Clock) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        # Taken before `_lock`: what is written later is never older.
        self._writing = threading.Lock()
        self._current: Progress | None = None
        self._worked_before = timedelta(0)
        self._written_at = 0.0

    def phase(self, name: str, *, total: int | None = None, unit: str = "bytes") -> None:
        self.flush()
        now = self._clock.now()
        with self._lock:
            self._worked_before += _worked_in(self._current)
            self._current = Progress(phase=name, done=0, total=total, unit=unit, started=now, updated=now)
        self.flush()

    def advance(self, amount: int) -> None:
        with self._lock:
            current = self._current
            if current is None:
                return
            done = current.done + amount
            if current.total is not None:
                # A file may have grown since it was measured; more than all is still all.
                done = min(done, current.total)
            self._current = Progress(
                phase=current.phase,
                done=done,
                total=current.total,
                unit=current.unit,
                started=current.started,
                updated=self._clock.now(),
            )
            if self._clock.monotonic() - self._written_at < INTERVAL_SECONDS:
                return
            self._written_at = self._clock.monotonic()
        self.flush()

    def worked(self) -> timedelta:
        """How long progress was made: of each phase, from its beginning to its last advance."""
        with self._lock:
            return self._worked_before + _worked_in(self._current)

    def flush(self) -> None:
        """Write what is known now."""
        with self._writing:
            with self._lock:
                current = self._current
                self._written_at = self._clock.monotonic()
            if current is not None:
                self._write(current)


def _worked_in(phase: Progress | None) -> timedelta:
    return timedelta(0) if phase is None else phase.updated - phase.started
