"""Carrying out a restore job whose result is a download.

    begin     the delivery says IN_PROGRESS
    publish   the archive's length is worked out from the manifest, and the link becomes usable
    hash      every stored block is read and verified once, and the archive's SHA-1 becomes known

Nothing is copied: the archive is the stored blocks themselves, so the link is ready after one manifest was read,
however large the data is.
"""

from ebbtide.backup.context import BackupContext
from ebbtide.catalog.damage import Damage
from ebbtide.crash_points import reach
from ebbtide.domain.event import EventLevel
from ebbtide.domain.restore_job import RestoreEvent, RestoreJob, RestoreStatus, link_expiry
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import IntegrityError, JobCancelled, ObjectNotFound
from ebbtide.jobs.runner import Ending, JobRun, Step
from ebbtide.restore.job_archive import JobArchive, open_archive
from ebbtide.restore.job_record import RestoreJobRecord
from ebbtide.restore.links import seal_new_download_key


class DownloadRun:
    """One attempt at one restore job. `steps` and `ending` are for the runner."""

    def __init__(self, run: JobRun, *, context: BackupContext) -> None:
        self._run = run
        self._context = context
        self._catalog = context.catalog
        self._record = RestoreJobRecord(run, context=context)
        self._id = self._record.id
        self._archive: JobArchive | None = None

    def steps(self) -> list[Step]:
        return [
            Step(name="begin", run=self._begin),
            Step(name="publish", run=self._publish),
            Step(name="hash", run=self._hash),
        ]

    def ending(self) -> Ending:
        return Ending(always=lambda: None, gave_up=self._give_up, cancelled=lambda: None)

    def _begin(self) -> None:
        """Crash: the next attempt begins again, and nobody sees a difference."""
        job = self._record.load()
        if job.status is not RestoreStatus.IN_PROGRESS:
            return
        self._catalog.restore_jobs.apply(self._id, RestoreEvent.WORKER_BEGAN)
        reach("restore.begun")

    def _publish(self) -> None:
        """Crash before its one write: nothing happened. After it: the link works."""
        job = self._record.load()
        self._archive = open_archive(self._context.repository, job)
        if job.status is not RestoreStatus.IN_PROGRESS:
            return
        now = self._context.clock.now()
        ready = self._catalog.restore_jobs.apply(
            self._id,
            RestoreEvent.LINK_READY,
            ready=now,
            expires=link_expiry(job, ready=now),
            archive_bytes=self._archive.length_bytes,
            restore_info=self._archive.restore_info,
            download_key=seal_new_download_key(job, self._context.service_key),
        )
        if ready is None:
            raise JobCancelled("the restore job was cancelled")
        reach("restore.ready")
        self._record.event(
            EventLevel.INFO, "restore.ready", f"the download of restore job {self._id} is ready"
        )

    def _hash(self) -> None:
        """Crash: it is read again."""
        job = self._record.load()
        if job.sha1 is not None or job.status is not RestoreStatus.FINISHED or self._archive is None:
            return
        try:
            sha1 = self._archive.hash(
                threads=self._context.threads, progress=self._run.progress, check_cancelled=self._run.check
            )
        except (IntegrityError, ObjectNotFound) as error:
            if isinstance(error, ObjectNotFound) and self._is_deleted(job):
                self._catalog.restore_jobs.apply(self._id, RestoreEvent.LINK_EXPIRED)
                return
            self._catalog.restore_jobs.apply(self._id, RestoreEvent.DAMAGE_FOUND, reason=str(error))
            self._catalog.damage.note(
                Damage(id=job.cluster_id, found=self._context.clock.now(), problem=str(error))
            )
            self._record.event(
                EventLevel.ERROR, "repository.damaged", f"restore job {self._id} met damage: {error}"
            )
            raise
        self._catalog.restore_jobs.set_sha1(self._id, sha1)
        reach("restore.hashed")

    def _is_deleted(self, job: RestoreJob) -> bool:
        """Whether the snapshot was deleted meanwhile: then nothing of it that is missing is damage."""
        if job.result_id is not None:
            return False
        snapshot = self._catalog.snapshots.find(job.snapshot_id)
        return snapshot is not None and snapshot.state is SnapshotState.DELETED

    def _give_up(self, reason: str) -> None:
        broken = self._catalog.restore_jobs.apply(self._id, RestoreEvent.FAILED, reason=reason)
        if broken is not None:
            self._record.event(
                EventLevel.ERROR, "restore.broken", f"restore job {self._id} is broken: {reason}"
            )
