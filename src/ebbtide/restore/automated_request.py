"""Asking for a restore into a running cluster: the target is claimed, then the job recorded and enqueued.

The claim is the record of `catalog.automated_restores`: one active one per target. Crash between claim and job: a claim
without a job, which `restore.abandoned` gives back.

The data of a sharded cluster is asked for with a job for each of its parts, all of one batch. That of the config server
leads: the claim has its id, its worker does the work of all and says how all of them end (`restore.batch_follower`).
"""

from dataclasses import dataclass, field
from datetime import datetime

from ebbtide.catalog.automated_restores import TargetBusy
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.crash_points import reach
from ebbtide.domain.automated_restore import (
    AutomatedRestore,
    RestoreScope,
    TargetState,
    WriteBlock,
    refuse_target,
)
from ebbtide.domain.cluster import Cluster, ClusterKind
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import BatchId, RestoreJobId, new_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import NEW, DeliveryMethod, RestoreJob, RestoreStatus
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import Refused
from ebbtide.events import record_event
from ebbtide.restore.requesting import SnapshotNotComplete, enqueue_restore


class NoConsent(Refused):
    """The owner of the target has not made it one."""


class RestoreInProgress(Refused):
    """Another restore into the target is not over."""


class NothingToUndo(Refused):
    """The restore has changed nothing that could be brought back, or was asked for without an undo point."""


@dataclass(frozen=True, kw_only=True)
class BatchPart:
    """A part of a sharded cluster, and the snapshot that its data is built on."""

    cluster: Cluster
    base: Snapshot


@dataclass(frozen=True, kw_only=True)
class AutomatedRequest:
    """What is asked for: the data of `source` on `base`, up to `limit` (None: the snapshot as it is), into `target`.

    Where `source` is a sharded cluster, `base` is its config server's, `shards` are its other parts, and `limit` is a
    moment at which all of them may be cut.
    """

    source: Cluster
    base: Snapshot
    limit: OplogTimestamp | None
    target: Cluster
    scope: RestoreScope = field(default_factory=RestoreScope)
    compares: bool = True
    with_users_and_roles: bool = False
    wants_undo: bool = True
    undoes: RestoreJobId | None = None
    config: Cluster | None = None
    shards: tuple[BatchPart, ...] = ()

    @property
    def leader(self) -> BatchPart:
        """Whose job does the work."""
        return BatchPart(cluster=self.config or self.source, base=self.base)


def require_target(cluster: Cluster, *, catalog: Catalog) -> None:
    """Raise NoConsent or RestoreInProgress unless a restore into this cluster may begin."""
    problem = refuse_target(cluster)
    if problem is not None:
        raise NoConsent(problem)
    active = catalog.automated_restores.find_active(cluster.id)
    if active is not None and not _has_ended(active, catalog):
        raise RestoreInProgress(
            f"restore job {active.id} into {cluster.name} is not over",
            hint=f"ebbtide restores watch {active.id}",
        )


def _has_ended(active: AutomatedRestore, catalog: Catalog) -> bool:
    """Whether its worker has said that it is done with it, and was only about to give the claim back: then it is given.

    One that was cancelled is still its worker's, until that has noticed.
    """
    job = catalog.restore_jobs.find(active.id)
    said = job is not None and job.status in (RestoreStatus.FINISHED, RestoreStatus.BROKEN)
    if said and active.write_block is WriteBlock.OFF:
        catalog.automated_restores.release(active.id)
        return True
    return False


def request_automated_restore(
    request: AutomatedRequest, *, catalog: Catalog, clock: Clock, actor: str
) -> RestoreJob:
    """Record a restore job that replaces data of the target.

    Raises SnapshotNotComplete, NoConsent, RestoreInProgress; then nothing was recorded.
    """
    target = request.target
    _require_shape(request)
    for part in (request.leader, *request.shards):
        if part.base.state is not SnapshotState.COMPLETE or part.base.stable_timestamp is None:
            raise SnapshotNotComplete(
                f"snapshot {part.base.id} is {part.base.state}", hint="choose a complete one"
            )
    require_target(target, catalog=catalog)
    batch_id = BatchId(new_id()) if request.shards else None
    now = clock.now()
    job = _job(request, request.leader, batch_id=batch_id, now=now, actor=actor)
    try:
        catalog.automated_restores.insert(_claim(request, job))
    except TargetBusy:
        raise RestoreInProgress(f"a restore into {target.name} was begun this moment") from None
    reach("automated.claimed")
    for part in request.shards:
        # Before the one that leads: it begins as soon as it is there.
        catalog.restore_jobs.insert(_job(request, part, batch_id=batch_id, now=now, actor=actor))
    catalog.restore_jobs.insert(job)
    enqueue_restore(job, catalog=catalog, clock=clock)
    record_event(
        catalog,
        clock,
        level=EventLevel.WARNING,
        kind="restore.into_requested",
        message=f"{_what(request)} of {request.source.name} is to replace what is on {target.name}",
        group_id=target.group_id,
        cluster_id=target.id,
        subject_id=job.id,
        actor=actor,
    )
    return job


def _job(
    request: AutomatedRequest, part: BatchPart, *, batch_id: BatchId | None, now: datetime, actor: str
) -> RestoreJob:
    base, target = part.base, request.target
    if base.stable_timestamp is None:
        raise SnapshotNotComplete(f"snapshot {base.id} has no moment")
    return RestoreJob(
        id=RestoreJobId(new_id()),
        group_id=part.cluster.group_id,
        cluster_id=part.cluster.id,
        # The jobs of a batch bear the name of the whole (contract 6.1).
        cluster_name=part.cluster.name if batch_id is None else request.source.name,
        replica_set_name=base.replica_set_name,
        snapshot_id=base.id,
        created=now,
        status=NEW[0],
        delivery_status=NEW[1],
        timestamp=request.limit or base.stable_timestamp,
        # There is no link, so neither of these means anything.
        expiration_hours=0,
        max_downloads=0,
        requested_by=actor,
        method=DeliveryMethod.AUTOMATED_RESTORE,
        point_in_time=request.limit is not None,
        limit=request.limit,
        target_group_id=target.group_id,
        target_cluster_id=target.id,
        target_cluster_name=target.name,
        batch_id=batch_id,
    )


def _require_shape(request: AutomatedRequest) -> None:
    """Raise Refused for what cannot be put into a sharded cluster, or taken out of one."""
    if bool(request.shards) != (request.source.kind is ClusterKind.SHARDED):
        raise Refused(f"{request.source.name} is restored with a job for each of its parts, or for none")
    if request.target.kind is not ClusterKind.SHARDED:
        return
    if not request.shards:
        raise Refused(
            f"{request.target.name} is a sharded cluster, and {request.source.name} is none",
            hint="restore into a replica set",
        )
    if not request.scope.is_everything:
        raise Refused(f"{request.target.name} is a sharded cluster: all of it is replaced, or nothing")
    if request.wants_undo:
        raise Refused(
            f"a restore into the sharded cluster {request.target.name} cannot be undone",
            hint="take a snapshot of it first, and restore without being able to undo it: --no-undo",
        )


def _claim(request: AutomatedRequest, job: RestoreJob) -> AutomatedRestore:
    return AutomatedRestore(
        id=job.id,
        target_group_id=request.target.group_id,
        target_cluster_id=request.target.id,
        target_name=request.target.name,
        scope=request.scope,
        requested=job.created,
        compares=request.compares,
        with_users_and_roles=request.with_users_and_roles,
        wants_undo=request.wants_undo,
        undoes=request.undoes,
    )


def _what(request: AutomatedRequest) -> str:
    if request.scope.is_everything:
        return "all data"
    renamed = f" as {request.scope.rename_to}" if request.scope.rename_to else ""
    return f"{', '.join(request.scope.namespaces)}{renamed}"


def undo_scope(restore: AutomatedRestore) -> RestoreScope:
    """What undoing a restore replaces: what it had replaced."""
    return RestoreScope(namespaces=restore.scope.written)


def require_undo_point(restore: AutomatedRestore) -> OplogTimestamp:
    """The moment that undoing restores. Raises NothingToUndo."""
    if restore.undo_point is None:
        why = "nothing was removed yet" if restore.wants_undo else "it was asked for without"
        raise NothingToUndo(f"restore job {restore.id} has no undo point: {why}")
    if restore.target_state is TargetState.UNTOUCHED:
        raise NothingToUndo(f"restore job {restore.id} changed nothing on {restore.target_name}")
    return restore.undo_point
