"""The undo point: the last moment of a target before a restore removes anything, kept so that it can be brought back.

A target is a cluster under backup, so all that it takes is a snapshot to build on, and an archive that reaches that
moment. A snapshot is asked for where none leads there; the job then waits, out of everybody's way, until it is taken.
From the moment that it is recorded on, what it takes is kept for `restore.undo_hours`: retention, prune and the trimming
of the archive ask `kept_undos`.

Crash: the snapshot that was asked for is in the record, and is waited for by the next attempt.
"""

from datetime import datetime, timedelta

from ebbtide.backup.archive_wait import newest_committed, wait_until_archived
from ebbtide.backup.context import BackupContext
from ebbtide.backup.requesting import HeadNotReady, SnapshotInProgress, request_snapshot
from ebbtide.catalog.catalog import Catalog
from ebbtide.domain.automated_restore import AutomatedRestore, keeps_undo
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.restore_point import AtNow, AtOplog, Refusal, Resolution, RestorePoint
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.jobs.runner import JobPaused, JobRun
from ebbtide.restore.preflight import PreflightFailed
from ebbtide.restore.restore_points import resolve_asked

ARCHIVE_SECONDS = 120.0
"""How long the archive of the target may take to reach the undo point; while it does, writes are blocked."""

ACTOR = "automated restore"
_WITHOUT = "or restore without being able to undo it: --no-undo"


def prepare_undo(context: BackupContext, restore: AutomatedRestore, target: Cluster) -> None:
    """See that a moment of the target that is near can be restored.

    Raises JobPaused while the snapshot that this takes is not complete, PreflightFailed where it cannot be taken.
    """
    if restore.undo_snapshot_id is not None:
        snapshot = context.catalog.snapshots.find(restore.undo_snapshot_id)
        if snapshot is not None and snapshot.state is SnapshotState.IN_PROGRESS:
            raise JobPaused(f"waits for snapshot {snapshot.id} of {target.name}, so that it can be undone")
        if snapshot is None or snapshot.state is not SnapshotState.COMPLETE:
            problem = "is gone" if snapshot is None else snapshot.error or snapshot.state
            raise PreflightFailed(
                f"the snapshot of {target.name} that undoing takes failed: {problem}", hint=_WITHOUT
            )
    resolved = _resolve(context, target, AtNow())
    if isinstance(resolved, Resolution):
        return
    if restore.undo_snapshot_id is not None:
        raise JobPaused(
            f"waits until the archive of {target.name} has gone on from its snapshot: {resolved.message}"
        )
    _ask_for_snapshot(context, restore, target)


def record_undo_point(
    context: BackupContext, restore: AutomatedRestore, target: Cluster, run: JobRun
) -> None:
    """Archive the target up to now, and record that moment. Nothing of it may have been removed yet.

    Raises PreflightFailed where that moment could not be restored.
    """
    point = newest_committed(context.access(target)).timestamp
    wait_until_archived(
        context.catalog,
        target.id,
        point,
        clock=context.clock,
        check=run.check,
        seconds=ARCHIVE_SECONDS,
    )
    resolved = _resolve(context, target, AtOplog(point.seconds, point.increment))
    if isinstance(resolved, Refusal):
        raise PreflightFailed(
            f"what is on {target.name} now could not be brought back: {resolved.message}", hint=_WITHOUT
        )
    hours = timedelta(hours=context.settings.number("restore.undo_hours"))
    context.catalog.automated_restores.update(
        restore.id,
        undo_point=point,
        undo_base_id=resolved.base.id,
        undo_until=context.clock.now() + hours,
    )


def kept_undos(catalog: Catalog, target_id: ClusterId, *, now: datetime) -> list[AutomatedRestore]:
    """The restores into a cluster of which nothing may go that undoing them takes."""
    return [r for r in catalog.automated_restores.list_with_undo(target_id, now) if keeps_undo(r, now=now)]


def _resolve(context: BackupContext, target: Cluster, point: RestorePoint) -> Resolution | Refusal:
    return resolve_asked(
        point,
        access=context.access(target),
        catalog=context.catalog,
        repository=context.repository,
        now_seconds=int(context.clock.now().timestamp()),
    )


def _ask_for_snapshot(context: BackupContext, restore: AutomatedRestore, target: Cluster) -> None:
    try:
        snapshot = request_snapshot(target, catalog=context.catalog, clock=context.clock, actor=ACTOR)
    except SnapshotInProgress as error:
        raise JobPaused(f"waits for the snapshot that is being taken: {error.message}") from error
    except HeadNotReady as error:
        raise PreflightFailed(
            f"{error.message}; so this restore could not be undone", hint=_WITHOUT
        ) from error
    context.catalog.automated_restores.update(restore.id, undo_snapshot_id=snapshot.id)
    raise JobPaused(f"waits for snapshot {snapshot.id} of {target.name}, so that it can be undone")
