"""What the worker that carries out a restore job asks and changes of its record, and the events that it tells of it.

Crash: each call is one write, which the next attempt makes again.
"""

from ebbtide.backup.context import BackupContext
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import RestoreJobId
from ebbtide.domain.restore_job import RestoreEvent, RestoreJob, RestoreStatus
from ebbtide.errors import JobCancelled, NotFound
from ebbtide.events import record_event
from ebbtide.jobs.runner import JobRun


class RestoreJobRecord:
    """The record of the restore job that `run` carries out, or of another one, `restore_id`, that it does with it."""

    def __init__(
        self, run: JobRun, *, context: BackupContext, restore_id: RestoreJobId | None = None
    ) -> None:
        self._catalog = context.catalog
        self._clock = context.clock
        self.id = restore_id or RestoreJobId(run.job.subject_id)

    def load(self) -> RestoreJob:
        """The restore job as it is now. Raises NotFound, and JobCancelled once somebody has cancelled it."""
        job = self._catalog.restore_jobs.find(self.id)
        if job is None:
            raise NotFound(f"restore job {self.id} is not in the catalog")
        if job.status is RestoreStatus.KILLED:
            raise JobCancelled("the restore job was cancelled")
        return job

    def change(self, **changes: object) -> RestoreJob:
        """Change fields of a job that is being worked on; as it is then. Raises JobCancelled where it is not any more."""
        changed = self._catalog.restore_jobs.apply(self.id, RestoreEvent.WORKER_BEGAN, **changes)
        if changed is None:
            raise JobCancelled("the restore job was cancelled")
        return changed

    def event(self, level: EventLevel, kind: str, message: str) -> None:
        """Record an event of the cluster that the data is of."""
        job = self._catalog.restore_jobs.find(self.id)
        if job is None:
            return
        record_event(
            self._catalog,
            self._clock,
            level=level,
            kind=kind,
            message=message,
            group_id=job.group_id,
            cluster_id=job.cluster_id,
            subject_id=self.id,
        )
