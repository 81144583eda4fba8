"""Ebbtide's own API: a download of any moment. The hosted services' families download snapshots only.

The answer comes before the work: which snapshot it is built on and up to where the oplog is replayed is decided here,
and what was asked for is refused here where it cannot be had.
"""

from typing import Any

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.own_restore_jobs import own_restore_job_answer
from ebbtide.api.resolving import resolve_batch_point, resolve_point
from ebbtide.api.responses import Answer
from ebbtide.api.restore_point_fields import OWN_POINT_FIELDS, parse_restore_point
from ebbtide.api.restore_requests import (
    EXPIRATION_HOURS_DEFAULT,
    EXPIRATION_HOURS_MAX,
    MAX_DOWNLOADS_DEFAULT,
)
from ebbtide.api.wire_own import batch_resolution_document, resolution_document
from ebbtide.domain.cluster import ClusterKind
from ebbtide.domain.restore_point import AtSnapshot, RestorePoint
from ebbtide.restore.batch_requesting import request_http_batch
from ebbtide.restore.requesting import request_http_restore

_LINK = ("expirationHours", "maxDownloads")


def create_point_in_time_restore(call: Call) -> Answer:
    """Ask for a download of a moment; with `dryRun` only say what it comes to. Asks the set what is newest there."""
    values = parse_object(call.body)
    point, hours, downloads, is_dry_run = _parse(values, is_sharded=call.cluster.kind is ClusterKind.SHARDED)
    if call.cluster.kind is ClusterKind.SHARDED:
        return _create_batch(call, point, hours=hours, downloads=downloads, is_dry_run=is_dry_run)
    resolution = resolve_point(call, point)
    if is_dry_run:
        return Answer(document=resolution_document(resolution))
    job = request_http_restore(
        cluster=call.cluster,
        snapshot=resolution.base,
        limit=resolution.limit,
        expiration_hours=hours,
        max_downloads=downloads,
        catalog=call.context.catalog,
        clock=call.context.clock,
        actor=call.actor,
    )
    return own_restore_job_answer(call, job)


def _create_batch(call: Call, point: RestorePoint, *, hours: int, downloads: int, is_dry_run: bool) -> Answer:
    """A download for each part of a sharded cluster, all of the latest consistent point that is not after `point`."""
    found = resolve_batch_point(call, point)
    if is_dry_run:
        return Answer(document=batch_resolution_document(found))
    jobs = request_http_batch(
        call.cluster,
        found,
        expiration_hours=hours,
        max_downloads=downloads,
        catalog=call.context.catalog,
        clock=call.context.clock,
        actor=call.actor,
    )
    return Answer(
        document={
            "batchId": jobs[0].batch_id,
            "jobs": [own_restore_job_answer(call, job).document for job in jobs],
        }
    )


def _parse(values: dict[str, Any], *, is_sharded: bool) -> tuple[RestorePoint, int, int, bool]:
    """The moment, the hours and downloads of its link, and whether it is a dry run."""
    fields = Fields(values)
    point = parse_restore_point(fields, with_now=True, is_sharded=is_sharded)
    if isinstance(point, AtSnapshot):
        fields.blame(
            "INVALID_ATTRIBUTE", "snapshotId", "a snapshot as it is, is asked for in the Atlas family"
        )
    hours = fields.positive("expirationHours")
    if hours is not None and hours > EXPIRATION_HOURS_MAX:
        fields.blame("INVALID_ATTRIBUTE", "expirationHours", f"it must be at most {EXPIRATION_HOURS_MAX}")
    downloads = fields.positive("maxDownloads")
    is_dry_run = fields.boolean("dryRun") is True
    fields.refuse_unknown((*OWN_POINT_FIELDS, *_LINK, "dryRun"))
    raise_violations(fields.violations)
    if point is None:
        raise LookupError("a body without a restore point passed")
    return (
        point,
        EXPIRATION_HOURS_DEFAULT if hours is None else hours,
        MAX_DOWNLOADS_DEFAULT if downloads is None else downloads,
        is_dry_run,
    )


OPERATIONS = (
    Operation(
        name="createPointInTimeRestore",
        method="POST",
        path="/api/ebbtide/v1/groups/{groupId}/clusters/{clusterName}/restoreJobs",
        handler=create_point_in_time_restore,
        scope=Scope.CLUSTER,
        need=Need.OWN,
        needs_listed_address=True,
        slow=True,
    ),
)
