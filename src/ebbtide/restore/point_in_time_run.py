"""Carrying out a restore job whose result is a download of any moment, not only of a snapshot.

    begin          the delivery says IN_PROGRESS
    archive        waited for, until the oplog archive has reached the moment that was asked for
    build          a snapshot's files in scratch, brought to that moment by mongod (`restore.source`)
    store result   what differs from the snapshot goes into the repository, as a result that can only be delivered
    publish, hash  as for any download (`restore.download_run`): the archive is stored blocks

A base that turns out to be damaged, or of another history than the archive, is said and passed over: the next older one
will do, with more to replay. Crash before `store result` has ended: all of it is done again. After it: the result is
there, and the next attempt goes on with publishing.
"""

import structlog

from ebbtide.backup.archive_wait import wait_until_archived
from ebbtide.backup.context import BackupContext
from ebbtide.backup.prune_guard import wait_until_not_pruned
from ebbtide.backup.space_guard import SpaceGuard
from ebbtide.crash_points import reach
from ebbtide.domain.event import EventLevel
from ebbtide.domain.job import STORE_RESULT_STEP
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import RestoreJob, RestoreStatus, archive_name
from ebbtide.domain.result import result_id_of
from ebbtide.errors import EbbtideError, NotFound
from ebbtide.jobs.runner import Ending, JobRun, Step
from ebbtide.repository.manifest import Manifest
from ebbtide.repository.repository import ReplicaSetStore
from ebbtide.restore.download_run import DownloadRun
from ebbtide.restore.job_record import RestoreJobRecord
from ebbtide.restore.source import BuiltSource, scratch_directory, wipe_scratch
from ebbtide.restore.store_back import store_result
from ebbtide.restore.whole_base import build_on_whole_base
from ebbtide.storage.throttled import stoppable

ARCHIVE_SECONDS = 300.0
"""So long the archive may take to reach the moment; then the job is tried again, like after any failure that passes."""

_log = structlog.get_logger()


class PointInTimeRun:
    """One attempt at one restore job. `steps` and `ending` are for the runner."""

    def __init__(self, run: JobRun, *, context: BackupContext) -> None:
        self._run = run
        self._context = context
        self._catalog = context.catalog
        self._record = RestoreJobRecord(run, context=context)
        self._id = self._record.id
        self._download = DownloadRun(run, context=context)
        self._scratch = scratch_directory(context, self._id)
        self._built: BuiltSource | None = None

    def steps(self) -> list[Step]:
        begin, publish, hash_ = self._download.steps()
        return [
            begin,
            Step(name="archive", run=self._await_archive),
            Step(name="build", run=self._build),
            Step(name=STORE_RESULT_STEP, run=self._store_result),
            publish,
            hash_,
        ]

    def ending(self) -> Ending:
        download = self._download.ending()
        return Ending(always=self._clean_up, gave_up=download.gave_up, cancelled=self._discard_attempts)

    # --- steps ------------------------------------------------------------------------------------------------------

    def _await_archive(self) -> None:
        """Crash: it is waited for again."""
        job = self._load()
        if job is None or self._store(job).has_result(result_id_of(job)):
            return
        wait_until_archived(
            self._catalog,
            job.cluster_id,
            _limit_of(job),
            clock=self._context.clock,
            check=self._run.check,
            seconds=ARCHIVE_SECONDS,
        )

    def _build(self) -> None:
        """Crash: a scratch directory, which the next attempt wipes."""
        job = self._load()
        if job is None or self._store(job).has_result(result_id_of(job)):
            return
        # Before hours of work: what comes of it has to be stored.
        self._space().check_now()
        self._built = build_on_whole_base(self._context, self._run, self._record, directory=self._scratch)
        self._say_half_done(self._built)

    def _store_result(self) -> None:
        """Crash before the manifest: packs that the next attempt removes. After it: the result is found there."""
        job = self._load()
        if job is None:
            return
        wait_until_not_pruned(
            job.cluster_id,
            catalog=self._catalog,
            clock=self._context.clock,
            check_cancelled=self._run.check,
        )
        manifest = self._stored_manifest(job)
        reach("replay.result_committed")
        # The parts of a sharded cluster end with different entries; what they have in common is the moment.
        timestamp = manifest.stable_timestamp if job.batch_id is None else job.timestamp
        cluster = self._catalog.clusters.find(job.cluster_id)
        self._record.change(
            result_id=result_id_of(job),
            timestamp=timestamp,
            file_name=archive_name(
                replica_set_name=job.replica_set_name,
                timestamp=timestamp,
                job_id=job.id,
                config_server_of=None if cluster is None else cluster.config_server_of,
            ),
        )
        wipe_scratch(self._scratch)

    # --- what the steps are made of ---------------------------------------------------------------------------------

    def _stored_manifest(self, job: RestoreJob) -> Manifest:
        """The result's manifest: stored by this attempt, or by one before."""
        store = self._store(job)
        if self._built is None:
            return store.load_result(result_id_of(job))
        space = self._space()

        def check() -> None:
            self._run.check()
            space.check()

        return store_result(
            store,
            self._built,
            job,
            attempt=self._run.job.failures + self._run.job.attempts,
            threads=self._context.threads,
            now=self._context.clock.now(),
            progress=self._run.progress,
            check=check,
            check_owner=self._run.check_owner,
        )

    def _load(self) -> RestoreJob | None:
        """The restore job, while it is to be brought to READY; None once it is there."""
        job = self._record.load()
        return job if job.status is RestoreStatus.IN_PROGRESS else None

    def _store(self, job: RestoreJob) -> ReplicaSetStore:
        storage = stoppable(self._context.repository.storage, self._run.check)
        return ReplicaSetStore(storage, cluster_id=job.cluster_id, replica_set_name=job.replica_set_name)

    def _space(self) -> SpaceGuard:
        context = self._context
        return SpaceGuard(context.repository.storage, settings=context.settings, clock=context.clock)

    # --- endings and events -----------------------------------------------------------------------------------------

    def _clean_up(self) -> None:
        try:
            wipe_scratch(self._scratch)
        except EbbtideError as error:
            _log.warning("restore.scratch_not_wiped", message=str(error))

    def _discard_attempts(self) -> None:
        """What a cancelled attempt stored, prune would find too; it need not wait for that."""
        job = self._catalog.restore_jobs.find(self._id)
        if job is not None and not self._store(job).has_result(result_id_of(job)):
            self._store(job).discard_result_attempts(result_id_of(job), check_owner=self._run.check_owner)

    def _say_half_done(self, built: BuiltSource) -> None:
        for index in built.settled.unfinished_indexes:
            self._record.event(
                EventLevel.WARNING,
                "restore.index_unfinished",
                f"index {index.name} of {index.namespace} was still being built at {built.restored}: "
                f"it is not in the result of restore job {self._id}",
            )


def _limit_of(job: RestoreJob) -> OplogTimestamp:
    if job.limit is None:
        raise NotFound(f"restore job {job.id} does not say up to which moment")
    return job.limit
