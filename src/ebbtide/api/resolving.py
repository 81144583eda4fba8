"""A restore point that somebody asks for: what it comes to for the path's cluster, or the refusal that says why not."""

from ebbtide.api.operations import Call
from ebbtide.api.refusals import Refusal as ApiRefusal
from ebbtide.api.refusals import refusal, refuse_fields, violation
from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.domain.restore_point import (
    AtCheckpoint,
    AtMillis,
    AtNow,
    AtOplog,
    AtSnapshot,
    Refusal,
    Resolution,
    RestorePoint,
)
from ebbtide.errors import EbbtideError, NotFound
from ebbtide.repository.repository import Repository
from ebbtide.restore.batch_point import BatchPoint, Surroundings, resolve_batch
from ebbtide.restore.restore_points import resolve_asked
from ebbtide.storage.directory import DirectoryStorage


def open_repository(call: Call) -> Repository:
    """The repository, to read what is in it."""
    return Repository.open(DirectoryStorage(call.context.repository_path))


def resolve_point(call: Call, point: RestorePoint, *, is_kept: bool = False) -> Resolution:
    """What it comes to; `is_kept`: also before the window. May ask the set. Raises the contract's refusals."""
    if isinstance(point, AtSnapshot):
        _require_own_snapshot(call, point)
    try:
        found = resolve_asked(
            point,
            access=ClusterAccess(cluster=call.cluster, service_key=call.context.service_key),
            catalog=call.context.catalog,
            repository=open_repository(call),
            now_seconds=int(call.now.timestamp()),
            is_kept=is_kept,
        )
    except EbbtideError as error:
        raise refusal("REFUSED", str(error)) from None
    match found:
        case Resolution():
            return found
        case Refusal(code="INVALID_ATTRIBUTE", message=message):
            raise refuse_fields([violation("INVALID_ATTRIBUTE", _field(point), message)])
        case Refusal(code=code):
            raise _refuse_snapshot(call, point, code)


def resolve_batch_point(call: Call, point: RestorePoint) -> BatchPoint:
    """What it comes to for the path's sharded cluster. Raises the contract's refusals."""
    context = call.context
    try:
        return resolve_batch(
            call.cluster,
            point,
            surroundings=Surroundings(
                catalog=context.catalog,
                repository=open_repository(call),
                service_key=context.service_key,
                clock=context.clock,
            ),
        )
    except NotFound:
        if isinstance(point, AtCheckpoint):
            raise refusal("CHECKPOINT_NOT_FOUND", point.checkpoint_id, call.cluster.name) from None
        name = point.snapshot_id if isinstance(point, AtSnapshot) else ""
        raise refusal("SNAPSHOT_NOT_FOUND", name, call.cluster.name) from None
    except EbbtideError as error:
        raise refusal("REFUSED", str(error)) from None


def _require_own_snapshot(call: Call, point: AtSnapshot) -> None:
    snapshot = call.context.catalog.snapshots.find(point.snapshot_id)
    if snapshot is None or snapshot.cluster_id != call.cluster.id:
        raise refusal("SNAPSHOT_NOT_FOUND", point.snapshot_id, call.cluster.name)


def _refuse_snapshot(call: Call, point: RestorePoint, code: str) -> ApiRefusal:
    snapshot_id = point.snapshot_id if isinstance(point, AtSnapshot) else ""
    return refusal(code, snapshot_id, call.cluster.name)


def _field(point: RestorePoint) -> str:
    match point:
        case AtSnapshot():
            return "snapshotId"
        case AtOplog():
            return "oplogTs"
        case AtMillis():
            return "pointInTimeUTCMillis"
        case AtCheckpoint():
            return "checkpointId"
        case AtNow():
            return "now"
