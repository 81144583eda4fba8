"""Compressing and storing slices of the oplog beside the thread that reads it.

At most one slice waits while another one is stored: a reader that is faster waits, so memory is bounded by three slices
whatever the storage does.

Crash, or a stop: what was not stored is read again from the set. After a failure nothing more is stored: the slices
that follow would name a predecessor that is not there.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from ebbtide.crash_points import reach
from ebbtide.domain.oplog import OplogSlice
from ebbtide.errors import EbbtideError
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.draft import SliceDraft

SUBMIT_LOOK_SECONDS = 0.2
STOP_SECONDS = 5.0

_log = structlog.get_logger()


class ArchiverStopped(EbbtideError):
    """The archiver was told to stop."""


@dataclass(frozen=True, kw_only=True)
class StoredSlice:
    """A slice that is durable. Everything that was committed before `complete_through` is archived with it."""

    piece: OplogSlice
    last_wall: datetime | None
    complete_through: datetime


def store_draft(archive: OplogArchive, draft: SliceDraft) -> OplogSlice:
    """Compress and store one draft. Raises StorageError."""
    piece, members = draft.compress()
    archive.put(piece, members)
    reach("oplog.slice_put")
    return piece


class SlicePipeline:
    """One thread that stores drafts in the order in which they are submitted."""

    def __init__(
        self,
        archive: OplogArchive,
        *,
        on_stored: Callable[[StoredSlice], None],
        check: Callable[[], None],
        name: str,
    ) -> None:
        """`on_stored` is called in the pipeline's thread; `check` raises ArchiverStopped to stop all waiting."""
        self._archive = archive
        self._on_stored = on_stored
        self._check = check
        self._waiting: queue.Queue[tuple[SliceDraft, datetime] | None] = queue.Queue(maxsize=1)
        self._failure: Exception | None = None
        self._unfinished = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether everything that was submitted is stored."""
        with self._lock:
            return self._unfinished == 0

    def submit(self, draft: SliceDraft, *, complete_through: datetime) -> None:
        """Have a draft stored; waits while another one waits. Raises what made an earlier one fail."""
        with self._lock:
            self._unfinished += 1
        while True:
            self.raise_failure()
            self._check()
            try:
                self._waiting.put((draft, complete_through), timeout=SUBMIT_LOOK_SECONDS)
            except queue.Full:
                continue
            return

    def raise_failure(self) -> None:
        """Raise what made a slice fail, if one did."""
        if self._failure is not None:
            raise self._failure
        if not self._thread.is_alive():
            raise ArchiverStopped("the thread that stores slices has ended")

    def stop(self) -> None:
        """Let go of what is not stored, and wait for the slice in hand."""
        self._failure = self._failure or ArchiverStopped("the archiver stops")
        while self._thread.is_alive():
            try:
                self._waiting.put(None, timeout=SUBMIT_LOOK_SECONDS)
            except queue.Full:
                continue
            break
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._failure is not None:
                continue
            draft, complete_through = item
            try:
                piece = store_draft(self._archive, draft)
                self._on_stored(
                    StoredSlice(piece=piece, last_wall=draft.last_wall, complete_through=complete_through)
                )
            except (EbbtideError, OSError, ValueError) as error:
                self._failure = error
                _log.debug("oplog.slice_failed", message=str(error))
            with self._lock:
                self._unfinished -= 1
