"""The archivers of this worker: one for each cluster whose head it keeps, each in a thread of its own."""

import threading
from collections.abc import Collection

import structlog

from ebbtide.backup.archiver import Archiver
from ebbtide.backup.context import BackupContext
from ebbtide.domain.ids import ClusterId


class Archiving:
    """`look` often, from one thread; `stop` and `join` at the end."""

    def __init__(self, context: BackupContext) -> None:
        self._context = context
        self._archivers: dict[ClusterId, tuple[Archiver, threading.Thread]] = {}

    def look(self, kept: Collection[ClusterId]) -> None:
        """Have an archiver for each cluster in `kept`, and for no other."""
        for cluster_id, (archiver, thread) in list(self._archivers.items()):
            if not thread.is_alive():
                del self._archivers[cluster_id]
            elif cluster_id not in kept:
                archiver.stop()
        for cluster_id in kept:
            if cluster_id not in self._archivers:
                self._start(cluster_id)

    def stop(self) -> None:
        """Tell all to stop; what they have in hand is read again by whoever comes next."""
        for archiver, _ in self._archivers.values():
            archiver.stop()

    def join(self, *, seconds: float) -> None:
        """Wait at most so long for each to end."""
        for _, thread in self._archivers.values():
            thread.join(seconds)

    def _start(self, cluster_id: ClusterId) -> None:
        archiver = Archiver(cluster_id, self._context)
        thread = threading.Thread(target=_archive, args=(archiver,), name=f"oplog {cluster_id}", daemon=True)
        self._archivers[cluster_id] = (archiver, thread)
        thread.start()


def _archive(archiver: Archiver) -> None:
    """An archiver's thread; each line that it logs names the cluster."""
    structlog.contextvars.bind_contextvars(cluster_id=archiver.cluster_id)
    archiver.run()
