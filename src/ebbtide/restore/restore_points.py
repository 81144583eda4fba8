"""What a restore point comes to for one cluster: `domain.restore_point` applied to catalog, archive and set.

Asked twice: by whoever asks for a restore (the archive may still have to reach the moment), and by the worker, once it
has. Nothing is changed but that the archive is told to hurry.
"""

from collections.abc import Collection
from datetime import timedelta

from ebbtide.backup.archive_wait import newest_committed
from ebbtide.backup.context import BackupContext
from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.catalog.catalog import Catalog
from ebbtide.domain.ids import ClusterId, SnapshotId
from ebbtide.domain.oplog import OplogGap, OplogRange
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.restore_point import (
    AtNow,
    AtOplog,
    AtSnapshot,
    Refusal,
    Resolution,
    RestorePoint,
    resolve_restore_point,
)
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import EbbtideError, Unreachable
from ebbtide.oplog.archive import OplogArchive
from ebbtide.repository.repository import Repository

FIRST = OplogTimestamp(seconds=0, increment=0)


def resolve_asked(
    point: RestorePoint,
    *,
    access: ClusterAccess,
    catalog: Catalog,
    repository: Repository,
    now_seconds: int,
    is_kept: bool = False,
) -> Resolution | Refusal:
    """What a restore point comes to that somebody asks for at `now_seconds` since 1970.

    `is_kept`: it is an undo point, which may lie before the point-in-time window.
    Where the set does not answer, what is archived is all there is. Raises Unreachable for AtNow then, StorageError,
    and the catalog's errors.
    """
    cluster = access.cluster
    if isinstance(point, AtSnapshot):
        return _resolve(point, cluster.id, catalog, (), now=FIRST, window_first=FIRST, grows=False)
    ranges = OplogArchive(repository.replica_set(cluster.id, cluster.replica_set_name)).ranges()
    archived = max((found.last.timestamp for found in ranges), default=FIRST)
    newest, lives = _newest(point, access, archived)
    window = timedelta(hours=catalog.schedules.get(cluster).point_in_time_window_hours)
    first = 0 if is_kept else max(0, now_seconds - int(window.total_seconds()))
    return _resolve(
        point,
        cluster.id,
        catalog,
        ranges,
        now=max(newest, archived),
        window_first=OplogTimestamp(seconds=first, increment=0),
        grows=lives,
    )


def resolve_archived(
    context: BackupContext,
    job: RestoreJob,
    limit: OplogTimestamp,
    *,
    excluded: Collection[SnapshotId] = (),
) -> Resolution | Refusal:
    """What the moment of a job comes to by what is archived now; `excluded` snapshots will not do."""
    store = context.repository.replica_set(job.cluster_id, job.replica_set_name)
    return _resolve(
        AtOplog(seconds=limit.seconds, increment=limit.increment),
        job.cluster_id,
        context.catalog,
        OplogArchive(store).ranges(),
        now=limit,
        # The window has moved on since the job was asked for, and it holds what the job needs.
        window_first=FIRST,
        grows=False,
        excluded=excluded,
    )


def _newest(
    point: RestorePoint, access: ClusterAccess, archived: OplogTimestamp
) -> tuple[OplogTimestamp, bool]:
    """The newest write that is safe, and whether the archive will come to have it."""
    try:
        return newest_committed(access).timestamp, True
    except EbbtideError as error:
        if isinstance(point, AtNow):
            raise Unreachable(
                f"the set of {access.cluster.name} does not say what its newest write is: {error.message}",
                hint=f"what is archived of it reaches to oplog timestamp {archived}: ask for that one",
            ) from error
        return archived, False


def _resolve(
    point: RestorePoint,
    cluster_id: ClusterId,
    catalog: Catalog,
    ranges: Collection[OplogRange],
    *,
    now: OplogTimestamp,
    window_first: OplogTimestamp,
    grows: bool,
    excluded: Collection[SnapshotId] = (),
) -> Resolution | Refusal:
    return resolve_restore_point(
        point,
        snapshots=catalog.snapshots.list_in_state(cluster_id, *SnapshotState),
        ranges=list(ranges),
        gaps=_gaps(catalog, cluster_id),
        window_first=window_first,
        now=now,
        grows=grows,
        excluded=excluded,
    )


def _gaps(catalog: Catalog, cluster_id: ClusterId) -> tuple[OplogGap, ...]:
    state = catalog.archives.find(cluster_id)
    return () if state is None else state.gaps
