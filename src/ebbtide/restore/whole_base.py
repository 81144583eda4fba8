"""Building the source of a restore on the newest base that turns out to be whole.

Only laying a base down tells whether it is damaged, or of another history than the archive. Such a one is said and
passed over: an older base brings the same data, with more of the oplog to replay. A snapshot that is to be restored as
it is has a moment too, T_s, and so another base where the archive leads there.

Invariants
  * the record says on what is built, and up to where, in one write, before it is built
  * damage of a slice is no reason to pass a base over: an older one needs that slice as well
Crash: the next attempt begins with the newest base again.
"""

from contextlib import suppress
from pathlib import Path

from ebbtide.backup.archive_wait import ArchiveBehind, wait_until_archived
from ebbtide.backup.context import BackupContext
from ebbtide.catalog.damage import Damage
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.progress import ProgressReporter
from ebbtide.domain.replay import HistoryDiverged
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.restore_point import Refusal
from ebbtide.domain.snapshot import Snapshot
from ebbtide.errors import EbbtideError, IntegrityError, NotFound, ObjectNotFound, Refused
from ebbtide.jobs.runner import JobRun
from ebbtide.oplog.slice import FOLDER
from ebbtide.restore.job_record import RestoreJobRecord
from ebbtide.restore.restore_points import resolve_archived
from ebbtide.restore.source import BuiltSource, build_source

ARCHIVE_SECONDS = 60.0
"""So long the archive may take to reach a moment for which the first base had all it takes."""


def build_on_whole_base(
    context: BackupContext,
    run: JobRun,
    record: RestoreJobRecord,
    *,
    directory: Path,
    progress: ProgressReporter | None = None,
) -> BuiltSource:
    """Build the source of a job in `directory`, on the first base that is whole; the job's record names it then.

    `progress` is the job's own, unless it is another.

    Raises Refused where none is left, with what was wrong with each; and what `build_source` raises for anything but a
    damaged or diverged base.
    """
    passed_over: dict[SnapshotId, EbbtideError] = {}
    job, base = _first_base(context, record)
    while True:
        try:
            return build_source(
                context,
                run,
                cluster_id=job.cluster_id,
                replica_set_name=job.replica_set_name,
                base=base,
                limit=job.limit,
                directory=directory,
                progress=progress or run.progress,
            )
        except HistoryDiverged as error:
            passed_over[base.id] = error
        except (IntegrityError, ObjectNotFound) as error:
            if _is_of_archive(context, job, error):
                raise
            passed_over[base.id] = error
            _tell_damage(context, record, base, error)
        job, base = _next_base(context, run, record, job, passed_over)


def _first_base(context: BackupContext, record: RestoreJobRecord) -> tuple[RestoreJob, Snapshot]:
    job = record.load()
    if job.limit is not None:
        return _resolve(context, record, job, {})
    base = context.catalog.snapshots.find(job.snapshot_id)
    if base is None:
        raise NotFound(f"snapshot {job.snapshot_id} is not in the catalog")
    return job, base


def _next_base(
    context: BackupContext,
    run: JobRun,
    record: RestoreJobRecord,
    job: RestoreJob,
    passed_over: dict[SnapshotId, EbbtideError],
) -> tuple[RestoreJob, Snapshot]:
    last, why = list(passed_over.items())[-1]
    with suppress(ArchiveBehind):
        wait_until_archived(
            context.catalog,
            job.cluster_id,
            _moment_of(job),
            clock=context.clock,
            check=run.check,
            seconds=ARCHIVE_SECONDS,
        )
    job, base = _resolve(context, record, job, passed_over)
    record.event(
        EventLevel.WARNING,
        "restore.base_passed_over",
        f"restore job {job.id} is built on snapshot {base.id} in place of {last}: {why.message}",
    )
    return job, base


def _resolve(
    context: BackupContext,
    record: RestoreJobRecord,
    job: RestoreJob,
    passed_over: dict[SnapshotId, EbbtideError],
) -> tuple[RestoreJob, Snapshot]:
    """The best base that is left, pinned by the job's record. Raises Refused where there is none."""
    limit = _moment_of(job)
    match resolve_archived(context, job, limit, excluded=passed_over):
        case Refusal(message=message):
            problems = "".join(f"; snapshot {name}: {error.message}" for name, error in passed_over.items())
            raise Refused(message + problems, hint="choose a moment that `ebbtide oplog ranges` lists")
        case resolution:
            return record.change(snapshot_id=resolution.base.id, limit=limit), resolution.base


def _moment_of(job: RestoreJob) -> OplogTimestamp:
    """Up to where the oplog is replayed; for a snapshot that is restored as it is, its own moment."""
    return job.timestamp if job.limit is None else job.limit


def _is_of_archive(context: BackupContext, job: RestoreJob, error: IntegrityError | ObjectNotFound) -> bool:
    store = context.repository.replica_set(job.cluster_id, job.replica_set_name)
    return error.object_name.startswith(store.object_name(FOLDER))


def _tell_damage(
    context: BackupContext, record: RestoreJobRecord, base: Snapshot, error: IntegrityError | ObjectNotFound
) -> None:
    context.catalog.damage.note(Damage(id=base.cluster_id, found=context.clock.now(), problem=error.message))
    record.event(
        EventLevel.ERROR,
        "repository.damaged",
        f"snapshot {base.id} cannot be the base of restore job {record.id}: {error}",
    )
