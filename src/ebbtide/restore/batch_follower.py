"""The job of a shard in an automated restore of a sharded cluster: the config server's does its work.

The leader is the job of the batch that has claimed the target. It moves the records of all jobs of the batch; this one
only sees to it that there is a leader.

Crash: nothing is begun here.
"""

from datetime import timedelta

from ebbtide.backup.context import BackupContext
from ebbtide.domain.ids import RestoreJobId
from ebbtide.domain.restore_job import RestoreEvent
from ebbtide.errors import NotFound
from ebbtide.jobs.runner import Ending, JobPaused, JobRun, Step
from ebbtide.restore.abandoned import CLAIM_SECONDS


class BatchFollower:
    """One look at one job. `steps` and `ending` are for the runner."""

    def __init__(self, run: JobRun, *, context: BackupContext) -> None:
        self._id = RestoreJobId(run.job.subject_id)
        self._context = context

    def steps(self) -> list[Step]:
        return [Step(name="follow", run=self._follow)]

    def ending(self) -> Ending:
        return Ending(always=lambda: None, gave_up=self._give_up, cancelled=lambda: None)

    def _follow(self) -> None:
        jobs = self._context.catalog.restore_jobs
        job = jobs.find(self._id)
        if job is None or job.batch_id is None:
            raise NotFound(f"restore job {self._id} is not in the catalog, or in no batch")
        restores = self._context.catalog.automated_restores
        if any(restores.find(part.id) is not None for part in jobs.list_batch(job.batch_id)):
            return
        if self._context.clock.now() - job.created < timedelta(seconds=CLAIM_SECONDS):
            raise JobPaused("waits for the job that leads the restore")
        self._give_up("whoever asked for the restore was interrupted: ask again")

    def _give_up(self, reason: str) -> None:
        self._context.catalog.restore_jobs.apply(self._id, RestoreEvent.FAILED, reason=reason)
