"""How far each collection of an automated restore is, for people: kept in memory, written to the catalog now and then.

However many there are, writing takes a tenth of the time at most: of very many only some are written, and less often.

Threads: any may report. Crash: what was not written yet is not told; which collections are finished is written at once,
by itself.
"""

import threading
from collections.abc import Iterable
from dataclasses import replace

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.crash_points import reach
from ebbtide.domain.automated_restore import CollectionProgress, choose_shown
from ebbtide.domain.ids import RestoreJobId
from ebbtide.domain.progress import ProgressReporter
from ebbtide.errors import EbbtideError

INTERVAL_SECONDS = 1.0
WRITING_SHARE_MAX = 0.1


class CollectionReport:
    """The progress of all collections of one attempt; `progress` gets the bytes of all together."""

    def __init__(
        self,
        job_id: RestoreJobId,
        collections: Iterable[CollectionProgress],
        *,
        catalog: Catalog,
        clock: Clock,
        progress: ProgressReporter,
    ) -> None:
        self._job_id = job_id
        self._found = {found.namespace: found for found in collections}
        self._catalog = catalog
        self._clock = clock
        self._progress = progress
        self._lock = threading.Lock()
        # Taken before `_lock`: what is written later is never older.
        self._writing = threading.Lock()
        self._next_at = float("-inf")

    def loaded(self, namespace: str, *, documents: int, size_bytes: int) -> None:
        """So many more documents, of so many bytes together, are in place."""
        with self._lock:
            found = self._found[namespace]
            self._found[namespace] = replace(
                found, documents=found.documents + documents, size_bytes=found.size_bytes + size_bytes
            )
        self._progress.advance(size_bytes)
        self._write_if_due()

    def begun_anew(self, namespace: str) -> None:
        """Nothing of it is in place any more. The bytes of all together stay: progress does not go back."""
        with self._lock:
            self._found[namespace] = replace(self._found[namespace], documents=0, size_bytes=0)

    def finished(self, namespace: str) -> None:
        """A collection is in place with its documents: no attempt loads it again. Raises where that is not recorded."""
        with self._lock:
            self._found[namespace] = replace(self._found[namespace], is_done=True)
        self._catalog.automated_restores.finish_collection(self._job_id, namespace)
        reach("automated.collection_loaded")
        self._write_if_due()

    def _write_if_due(self) -> None:
        with self._lock:
            now = self._clock.monotonic()
            if now < self._next_at:
                return
            self._next_at = now + INTERVAL_SECONDS
        self.write()
        with self._lock:
            done = self._clock.monotonic()
            self._next_at = max(self._next_at, done + (done - now) / WRITING_SHARE_MAX)

    def write(self) -> None:
        """Write what is known now. A catalog that does not answer costs the report alone."""
        with self._writing:
            with self._lock:
                found = tuple(self._found.values())
            try:
                self._catalog.automated_restores.update(
                    self._job_id,
                    collections=choose_shown(found),
                    collections_total=len(found),
                    collections_done=sum(progress.is_done for progress in found),
                )
            except EbbtideError:
                return
