"""What is written down of a download while it is sent: how far it is, how it ended, what damage it met.

Rules of counting are in `domain.download`; this module feeds them with what was really sent. Everything here asks the
catalog and waits for it: call it from threads, never from the event loop.

Crash: a transfer keeps what it last told, and counts as broken off after `TRANSFER_STALE_AFTER`.
"""

import structlog

from ebbtide.api.context import ApiContext
from ebbtide.catalog.damage import Damage
from ebbtide.domain.download import IN_FLIGHT_BYTES, Transfer
from ebbtide.domain.event import EventLevel
from ebbtide.domain.restore_job import RestoreEvent, RestoreJob
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import EbbtideError, ObjectNotFound
from ebbtide.events import record_event
from ebbtide.restore.download_count import count_downloads

_log = structlog.get_logger("ebbtide.api")


class TransferBooks:
    """The transfers of this process, as the catalog is told of them. Safe to use from many threads."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    def note_progress(self, transfer: Transfer, sent_bytes: int) -> None:
        """Tell how far a running transfer is; it goes on where the catalog does not answer for a moment."""
        try:
            self._context.catalog.transfers.record_progress(
                transfer.id,
                sent_bytes=max(0, sent_bytes - IN_FLIGHT_BYTES),
                now=self._context.clock.now(),
                ended=None,
            )
        except EbbtideError as error:
            _log.warning("download.progress_lost", job_id=transfer.job_id, problem=str(error))

    def note_end(self, job: RestoreJob, transfer: Transfer, *, sent_bytes: int, is_complete: bool) -> None:
        """Write down the end of a transfer, and count what it completes."""
        sent = sent_bytes if is_complete else max(0, sent_bytes - IN_FLIGHT_BYTES)
        catalog, now = self._context.catalog, self._context.clock.now()
        catalog.transfers.record_progress(transfer.id, sent_bytes=sent, now=now, ended=now)
        count_downloads(job, last=transfer, catalog=catalog, clock=self._context.clock)

    def note_damage(self, job: RestoreJob, damage: EbbtideError) -> None:
        """The stored data is damaged: the link dies, and somebody must hear of it.

        What was deleted meanwhile is not damaged: that link has merely expired.
        """
        snapshot = self._context.catalog.snapshots.find(job.snapshot_id)
        was_deleted = snapshot is not None and snapshot.state is SnapshotState.DELETED
        if was_deleted and isinstance(damage, ObjectNotFound):
            self._context.catalog.restore_jobs.apply(job.id, RestoreEvent.LINK_EXPIRED)
            return
        reason = f"stored data is damaged: {damage.message}"
        _log.error("download.damage_found", job_id=job.id, problem=damage.message)
        found = Damage(id=job.cluster_id, found=self._context.clock.now(), problem=damage.message)
        self._context.catalog.damage.note(found)
        if self._context.catalog.restore_jobs.apply(job.id, RestoreEvent.DAMAGE_FOUND, reason=reason) is None:
            return
        record_event(
            self._context.catalog,
            self._context.clock,
            level=EventLevel.ERROR,
            kind="restore.damaged",
            message=f"restore job {job.id} cannot be downloaded: {reason}",
            group_id=job.group_id,
            cluster_id=job.cluster_id,
            subject_id=job.id,
        )
