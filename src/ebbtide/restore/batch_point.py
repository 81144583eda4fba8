"""One moment for all parts of a sharded cluster, and what each part is built on there.

Asked by whoever asks for a restore. A moment that was asked for comes to the latest consistent point that is not after
it; every part's archive must have reached what was asked for, or an earlier point than need be would be chosen.

Nothing is changed, but that archives may be told to hurry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ebbtide.backup.archive_wait import ArchiveBehind, wait_until_archived
from ebbtide.backup.consistent_points import find_consistent_point
from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.checkpoint import checkpoint_restore_point
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.consistent_point import NoConsistentPoint
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_point import (
    AtCheckpoint,
    AtNow,
    AtOplog,
    AtSnapshot,
    Refusal,
    RestorePoint,
    find_limit,
)
from ebbtide.domain.sharded_parts import parts_at
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import NotFound, Refused
from ebbtide.repository.repository import Repository, never_cancelled
from ebbtide.restore.automated_request import BatchPart
from ebbtide.restore.restore_points import resolve_asked
from ebbtide.sealing import ServiceKey

ARCHIVE_SECONDS = 20.0
"""So long whoever asks waits for all archives; they are at most 15 s behind where all is well."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What is asked."""

    catalog: Catalog
    repository: Repository
    service_key: ServiceKey
    clock: Clock


@dataclass(frozen=True, kw_only=True)
class BatchPoint:
    """`limit` cuts no transaction and no operation over several parts in two."""

    limit: OplogTimestamp
    config: BatchPart
    shards: tuple[BatchPart, ...]


def resolve_batch(cluster: Cluster, point: RestorePoint, *, surroundings: Surroundings) -> BatchPoint:
    """What a restore point comes to for a sharded cluster.

    A snapshot is the latest consistent point up to the time that was noted on all its parts. Raises NotFound for a
    snapshot of another cluster, Refused with the reason where the point cannot be had, and what `find_batch_point` raises.
    """
    live = surroundings.catalog.clusters.list_parts(cluster.id)
    archived = _archived_by_all(live, surroundings.catalog)
    if archived is None:
        raise Refused(f"not every part of {cluster.name} is archived yet", hint="ask again in a minute")
    at_most = _limit(cluster, point, archived, surroundings)
    parts = _parts_of(cluster, point, at_most, surroundings.catalog)
    _await_archives(parts, at_most, surroundings)
    return find_batch_point(cluster, at_most=at_most, surroundings=surroundings, parts=parts)


def find_batch_point(
    cluster: Cluster,
    *,
    at_most: OplogTimestamp,
    surroundings: Surroundings,
    parts: Sequence[Cluster] | None = None,
    check: Callable[[], None] = never_cancelled,
) -> BatchPoint:
    """The latest moment up to `at_most` at which all parts of a sharded cluster can be restored; `parts` are those that it
    had then, where that is known.

    Raises Refused with the reason where there is none, and what `find_consistent_point` raises.
    """
    if parts is None:
        parts = surroundings.catalog.clusters.list_parts(cluster.id)
    point = find_consistent_point(parts, at_most=at_most, context=surroundings, check=check)
    if isinstance(point, NoConsistentPoint):
        raise Refused(
            f"{cluster.name} cannot be restored to {at_most.date.isoformat()}: {point.reason}",
            hint="choose a later moment",
        )
    found = [_resolve(part, point.timestamp, surroundings) for part in parts]
    config = [part for part in found if part.cluster.is_config_server]
    if len(config) != 1:
        raise Refused(f"{cluster.name} has no config server among its parts")
    return BatchPoint(
        limit=point.timestamp,
        config=config[0],
        shards=tuple(part for part in found if not part.cluster.is_config_server),
    )


def _parts_of(cluster: Cluster, point: RestorePoint, at: OplogTimestamp, catalog: Catalog) -> list[Cluster]:
    """The parts that the cluster had at a moment: a snapshot says it itself, else what was registered then tells.

    Raises Refused where that is no whole cluster. What neither tells, as a shard that was never registered, is found out
    before anything is written, from the config server's own data.
    """
    whole = catalog.cluster_snapshots.find(point.snapshot_id) if isinstance(point, AtSnapshot) else None
    if whole is not None:
        found = [catalog.clusters.find(part.cluster_id) for part in whole.parts]
        return [part for part in found if part is not None]
    known = [catalog.clusters.find(part_id) for part_id in catalog.clusters.list_part_ids(cluster.id)]
    reached = {}
    for part in known:
        state = None if part is None else catalog.archives.find(part.id)
        if state is not None and state.archived_to is not None:
            reached[state.id] = state.archived_to.timestamp
    parts = parts_at([part for part in known if part is not None], reached, at=at)
    if not any(part.is_config_server for part in parts) or len(parts) == 1:
        raise Refused(
            f"{cluster.name} was not backed up at {at.date.isoformat()}", hint="choose a later moment"
        )
    return parts


def _await_archives(parts: Sequence[Cluster], at_most: OplogTimestamp, surroundings: Surroundings) -> None:
    """Have every archive reach `at_most`. Raises Refused where one does not in time: no part is cut earlier for it."""
    deadline = surroundings.clock.monotonic() + ARCHIVE_SECONDS
    for part in parts:
        try:
            wait_until_archived(
                surroundings.catalog,
                part.id,
                at_most,
                clock=surroundings.clock,
                check=never_cancelled,
                seconds=max(0.0, deadline - surroundings.clock.monotonic()),
            )
        except ArchiveBehind as error:
            raise Refused(f"{part.name} is behind: {error.message}", hint=error.hint) from error


def _archived_by_all(parts: Sequence[Cluster], catalog: Catalog) -> OplogTimestamp | None:
    """How far the archive reaches that is furthest behind; None where one has not begun."""
    states = [catalog.archives.find(part.id) for part in parts]
    reached = [None if state is None else state.archived_to for state in states]
    known = [optime.timestamp for optime in reached if optime is not None]
    return min(known, default=None) if len(known) == len(reached) else None


def _limit(
    cluster: Cluster, point: RestorePoint, archived: OplogTimestamp, surroundings: Surroundings
) -> OplogTimestamp:
    match point:
        case AtNow():
            return archived
        case AtSnapshot(snapshot_id=snapshot_id):
            snapshot = surroundings.catalog.cluster_snapshots.find(snapshot_id)
            if snapshot is None or snapshot.cluster_id != cluster.id:
                raise NotFound(f"{cluster.name} has no snapshot {snapshot_id}")
            if snapshot.state is not SnapshotState.COMPLETE or snapshot.cluster_time is None:
                raise Refused(f"snapshot {snapshot_id} is {snapshot.state}", hint="choose a complete one")
            return snapshot.cluster_time
        case AtCheckpoint(checkpoint_id=checkpoint_id):
            checkpoint = surroundings.catalog.checkpoints.find(checkpoint_id)
            if checkpoint is None or checkpoint.cluster_id != cluster.id:
                raise NotFound(f"{cluster.name} has no checkpoint {checkpoint_id}")
            comes_to = checkpoint_restore_point(checkpoint)
            if isinstance(comes_to, Refusal):
                raise Refused(comes_to.message)
            return OplogTimestamp(seconds=comes_to.seconds, increment=comes_to.increment)
    now = OplogTimestamp(seconds=int(surroundings.clock.now().timestamp()), increment=2**32 - 1)
    limit = find_limit(point, now=now)
    if isinstance(limit, Refusal):
        raise Refused(limit.message)
    return limit


def _resolve(part: Cluster, limit: OplogTimestamp, surroundings: Surroundings) -> BatchPart:
    resolved = resolve_asked(
        AtOplog(seconds=limit.seconds, increment=limit.increment),
        access=ClusterAccess(cluster=part, service_key=surroundings.service_key),
        catalog=surroundings.catalog,
        repository=surroundings.repository,
        now_seconds=int(surroundings.clock.now().timestamp()),
    )
    if isinstance(resolved, Refusal):
        raise Refused(f"{part.name} cannot be restored to {limit.date.isoformat()}: {resolved.message}")
    return BatchPart(cluster=part, base=resolved.base)
