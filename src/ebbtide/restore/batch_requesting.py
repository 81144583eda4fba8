"""Asking for a download of a sharded cluster: a job for each part, all of one batch and of one moment.

Whatever becomes of one of them leaves the others as they are (contract 13): they hold the same moment, whichever of them
arrive.

Crash in between: some parts have their job and the others none; who asked has no answer, and asks again.
"""

from datetime import datetime

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.ids import BatchId, new_id
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.restore.batch_point import BatchPoint
from ebbtide.restore.requesting import Batch, SnapshotNotComplete, request_http_restore


def request_http_batch(
    cluster: Cluster,
    point: BatchPoint,
    *,
    expiration_hours: int,
    max_downloads: int,
    catalog: Catalog,
    clock: Clock,
    actor: str,
    asked_expires: datetime | None = None,
) -> list[RestoreJob]:
    """Record a restore job for each part of the sharded `cluster`, the config server's first.

    Raises SnapshotNotComplete where a base went meanwhile; then nothing was recorded.
    """
    parts = (point.config, *point.shards)
    for part in parts:
        if part.base.state is not SnapshotState.COMPLETE:
            raise SnapshotNotComplete(f"snapshot {part.base.id} is {part.base.state}", hint="ask again")
    batch = Batch(id=BatchId(new_id()), cluster_name=cluster.name)
    return [
        request_http_restore(
            cluster=part.cluster,
            snapshot=part.base,
            limit=point.limit,
            batch=batch,
            expiration_hours=expiration_hours,
            max_downloads=max_downloads,
            asked_expires=asked_expires,
            catalog=catalog,
            clock=clock,
            actor=actor,
        )
        for part in parts
    ]
