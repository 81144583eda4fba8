"""One moment for all parts of a sharded cluster, and what each part is built on there.

Asked by whoever asks for a restore. Nothing is changed, but that archives may be told to hurry.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ebbtide.backup.consistent_points import find_consistent_point
from ebbtide.backup.context import BackupContext
from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.consistent_point import NoConsistentPoint
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_point import AtOplog, Refusal
from ebbtide.errors import Refused
from ebbtide.repository.repository import never_cancelled
from ebbtide.restore.automated_request import BatchPart
from ebbtide.restore.restore_points import resolve_asked


@dataclass(frozen=True, kw_only=True)
class BatchPoint:
    """`limit` cuts no transaction and no operation over several parts in two."""

    limit: OplogTimestamp
    config: BatchPart
    shards: tuple[BatchPart, ...]


def find_batch_point(
    cluster: Cluster,
    *,
    at_most: OplogTimestamp,
    context: BackupContext,
    check: Callable[[], None] = never_cancelled,
) -> BatchPoint:
    """The latest moment up to `at_most` at which all parts of a sharded cluster can be restored.

    Raises Refused with the reason where there is none, and what `find_consistent_point` raises.
    """
    parts = [
        part
        for part in context.catalog.clusters.list_parts(cluster.id)
        if part.state is not ClusterState.REMOVED
    ]
    point = find_consistent_point(parts, at_most=at_most, context=context, check=check)
    if isinstance(point, NoConsistentPoint):
        raise Refused(
            f"{cluster.name} cannot be restored to {at_most}: {point.reason}",
            hint="choose a later moment, once every part's archive has reached it",
        )
    found = [_resolve(part, point.timestamp, context) for part in parts]
    config = [part for part in found if part.cluster.is_config_server]
    if len(config) != 1:
        raise Refused(f"{cluster.name} has no config server among its parts")
    return BatchPoint(
        limit=point.timestamp,
        config=config[0],
        shards=tuple(part for part in found if not part.cluster.is_config_server),
    )


def _resolve(part: Cluster, limit: OplogTimestamp, context: BackupContext) -> BatchPart:
    resolved = resolve_asked(
        AtOplog(seconds=limit.seconds, increment=limit.increment),
        access=context.access(part),
        catalog=context.catalog,
        repository=context.repository,
        now_seconds=int(context.clock.now().timestamp()),
    )
    if isinstance(resolved, Refusal):
        raise Refused(f"{part.name} cannot be restored to {limit}: {resolved.message}")
    return BatchPart(cluster=part, base=resolved.base)
