"""Asking for an automated restore, in every family: the target, the caller's rights in both groups, the moment.

The path's group and the right to restore from it were checked before; here is what the body adds. Order of checks
(contract 4.5): rights in the target's group, the target, its owner's consent, the restore point, and whether the target
is free.
"""

from dataclasses import dataclass, replace

from ebbtide.api.operations import Call
from ebbtide.api.refusals import Refusal, refusal, refuse_fields, violation
from ebbtide.api.resolving import resolve_batch_point, resolve_point
from ebbtide.domain.access import is_owner, may_write
from ebbtide.domain.automated_restore import AutomatedRestore, RestoreScope, keeps_undo
from ebbtide.domain.cluster import Cluster, ClusterKind
from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.restore_point import AtOplog, RestorePoint
from ebbtide.domain.snapshot import Snapshot
from ebbtide.errors import Refused
from ebbtide.restore.automated_request import (
    AutomatedRequest,
    BatchPart,
    NoConsent,
    RestoreInProgress,
    request_automated_restore,
    require_target,
    undo_scope,
)


@dataclass(frozen=True, kw_only=True)
class TargetName:
    """What a body says about the target: an id, a name, or both, of a cluster in `group_id`."""

    group_id: GroupId
    cluster_id: ClusterId | None
    name: str | None
    prefix: str = "delivery."


def build_request(
    call: Call,
    target: TargetName,
    point: RestorePoint,
    *,
    scope: RestoreScope | None = None,
    compares: bool = True,
    with_users_and_roles: bool = False,
    wants_undo: bool = True,
) -> AutomatedRequest:
    """All that is known of a restore that may begin now; nothing is recorded. Raises the contract's refusals."""
    cluster = find_target(call, target)
    check_target(call, cluster)
    chosen = _choose_bases(call, point)
    return AutomatedRequest(
        source=call.cluster,
        base=chosen.base,
        limit=chosen.limit,
        config=chosen.config,
        shards=chosen.shards,
        target=cluster,
        scope=scope or RestoreScope(),
        compares=compares,
        with_users_and_roles=with_users_and_roles,
        # What was on a sharded cluster cannot be brought back; the plan says so before anything is begun.
        wants_undo=wants_undo and cluster.kind is not ClusterKind.SHARDED,
    )


@dataclass(frozen=True, kw_only=True)
class _Bases:
    """What a restore is built on, as in AutomatedRequest."""

    base: Snapshot
    limit: OplogTimestamp | None
    config: Cluster | None = None
    shards: tuple[BatchPart, ...] = ()


def _choose_bases(call: Call, point: RestorePoint) -> _Bases:
    """What the moment comes to. Raises the contract's refusals."""
    if call.cluster.kind is not ClusterKind.SHARDED:
        resolution = resolve_point(call, point)
        return _Bases(base=resolution.base, limit=resolution.limit)
    found = resolve_batch_point(call, point)
    return _Bases(base=found.config.base, limit=found.limit, config=found.config.cluster, shards=found.shards)


def build_undo(call: Call, restore: AutomatedRestore, point: OplogTimestamp) -> AutomatedRequest:
    """The restore that takes `restore` back: its target, into itself, at `point`. Raises the contract's refusals."""
    cluster = call.context.catalog.clusters.find(restore.target_cluster_id)
    if cluster is None:
        raise refusal("CLUSTER_NOT_FOUND", restore.target_cluster_id, restore.target_group_id)
    if not is_owner(call.caller, restore.target_group_id):
        raise refusal("CANNOT_RESTORE_TO_TARGET", restore.target_group_id)
    check_target(call, cluster)
    resolution = resolve_point(
        replace(call, found_cluster=cluster),
        AtOplog(seconds=point.seconds, increment=point.increment),
        is_kept=keeps_undo(restore, now=call.now),
    )
    return AutomatedRequest(
        source=cluster,
        base=resolution.base,
        limit=resolution.limit,
        target=cluster,
        scope=undo_scope(restore),
        undoes=restore.id,
    )


def record_request(call: Call, request: AutomatedRequest) -> RestoreJob:
    """Begin it. Raises the contract's refusals."""
    try:
        return request_automated_restore(
            request, catalog=call.context.catalog, clock=call.context.clock, actor=call.actor
        )
    except NoConsent as error:
        raise cannot_restore(request.target.name, str(error)) from None
    except RestoreInProgress as error:
        raise refusal("CLUSTER_RESTORE_IN_PROGRESS_CANNOT_UPDATE", str(error)) from None
    except Refused as error:
        raise refusal("REFUSED", str(error)) from None


def find_target(call: Call, target: TargetName) -> Cluster:
    """The target, where the caller may restore into its group."""
    if not may_write(call.caller, target.group_id):
        # A group that does not exist gets the same answer.
        raise refusal("CANNOT_RESTORE_TO_TARGET", target.group_id)
    clusters = call.context.catalog.clusters
    by_id = None if target.cluster_id is None else clusters.find(target.cluster_id)
    if target.cluster_id is not None and (by_id is None or by_id.group_id != target.group_id):
        raise refusal("CLUSTER_NOT_FOUND", target.cluster_id, target.group_id)
    if not target.name:
        if by_id is None:
            raise refusal("CLUSTER_NAME_NOT_FOUND", "", target.group_id)
        return by_id
    by_name = clusters.find_by_name(target.group_id, target.name)
    if by_name is None:
        raise refusal("CLUSTER_NAME_NOT_FOUND", target.name, target.group_id)
    if by_id is not None and by_id.id != by_name.id:
        field = f"{target.prefix}targetClusterName"
        raise refuse_fields(
            [violation("INVALID_ATTRIBUTE", field, f"it is not the name of {target.cluster_id}")]
        )
    return by_name


def check_target(call: Call, cluster: Cluster) -> None:
    """Refuse a target whose owner did not consent, or that is busy."""
    try:
        require_target(cluster, catalog=call.context.catalog)
    except NoConsent as error:
        raise cannot_restore(cluster.name, str(error)) from None
    except RestoreInProgress as error:
        raise refusal("CLUSTER_RESTORE_IN_PROGRESS_CANNOT_UPDATE", str(error)) from None


def cannot_restore(name: str, why: str) -> Refusal:
    """CANNOT_RESTORE_TO_TARGET, for another reason than the caller's rights."""
    return Refusal(
        status=403,
        detail=f"Restoring into cluster {name} is not allowed: {why}.",
        code="CANNOT_RESTORE_TO_TARGET",
        parameters=(name,),
    )
