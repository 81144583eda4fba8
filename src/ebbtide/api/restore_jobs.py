"""Restore jobs of a cluster: list, create, get, in the families of the hosted services."""

from collections.abc import Sequence
from datetime import timedelta

from ebbtide.api.automated import TargetName, build_request, record_request
from ebbtide.api.bodies import parse_object
from ebbtide.api.entities import CLUSTER, GROUP, SNAPSHOT, entity_answer
from ebbtide.api.families import Family
from ebbtide.api.lists import list_answer, slice_answer
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.paging import plan_window
from ebbtide.api.queries import parse_id_parameter
from ebbtide.api.refusals import refusal, refuse_fields, violation
from ebbtide.api.resolving import resolve_batch_point
from ebbtide.api.responses import Answer, Shape
from ebbtide.api.restore_requests import AutomatedRestore, HttpRestore, parse_restore_request
from ebbtide.api.shown_jobs import job_document
from ebbtide.api.wire import Document, self_links
from ebbtide.domain.cluster import ClusterKind
from ebbtide.domain.cluster_snapshot import AnySnapshot
from ebbtide.domain.ids import BatchId, ClusterId, RestoreJobId, SnapshotId, is_id
from ebbtide.domain.restore_job import RestoreJob, hours_until
from ebbtide.domain.restore_point import AtSnapshot
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.restore.batch_requesting import request_http_batch
from ebbtide.restore.requesting import request_http_restore


def list_restore_jobs(call: Call) -> Answer:
    """Newest first. With `batchId` the jobs of that batch, where the cluster is the one that was restored, or a part."""
    href = f"{call.cluster_href}/restoreJobs"
    batch_id = _parse_batch_id(call)
    if batch_id is not None:
        found = [
            job
            for job in call.context.catalog.restore_jobs.list_batch(BatchId(batch_id))
            if _is_of(job, call)
        ]
        return slice_answer(call, href=href, records=found, to_document=lambda j: shown_job(call, j))
    skip, limit = plan_window(call.page)
    jobs = call.context.catalog.restore_jobs
    cluster_ids = _job_cluster_ids(call)
    view = call.context.shown_jobs.view(call.addresses, may_download=call.may_download)
    return list_answer(
        call,
        href=href,
        found=jobs.page_as_stored(*cluster_ids, skip=skip, limit=limit),
        to_document=lambda stored: view.document(stored, now=call.now),
        count=lambda: jobs.count(*cluster_ids),
    )


def _job_cluster_ids(call: Call) -> list[ClusterId]:
    """Whose jobs the path's cluster lists: its own, and of a sharded cluster those of its parts."""
    if call.cluster.kind is not ClusterKind.SHARDED:
        return [call.cluster.id]
    return [call.cluster.id, *call.context.catalog.clusters.list_part_ids(call.cluster.id)]


def _is_of(job: RestoreJob, call: Call) -> bool:
    """Whether a job of a batch is of the path's cluster, or of a part of it."""
    part = call.context.catalog.clusters.find(job.cluster_id)
    return call.cluster.id in (job.cluster_id, None if part is None else part.parent_id)


def _parse_batch_id(call: Call) -> str | None:
    """Cloud and Ops Manager's oldest pages spell it in lower case."""
    batch_id = parse_id_parameter(call.query, "batchId")
    if batch_id is None and call.family is Family.CLOUD:
        return parse_id_parameter(call.query, "batchid")
    return batch_id


def get_restore_job(call: Call) -> Answer:
    job_id = call.path_values["jobId"]
    if not is_id(job_id):
        raise refusal("INVALID_JOB_ID", job_id)
    job = call.context.catalog.restore_jobs.find(RestoreJobId(job_id))
    if job is None or not _belongs(job, call):
        raise refusal("RESTORE_JOB_NOT_FOUND", job_id, call.cluster.name)
    return entity_answer(call, shown_job(call, job), relations=(CLUSTER, SNAPSHOT, GROUP))


def _belongs(job: RestoreJob, call: Call) -> bool:
    # By name too: the link of a job made before its cluster was removed and registered anew keeps working.
    same_cluster = job.cluster_id == call.cluster.id or job.cluster_name == call.cluster.name
    return job.group_id == call.group.id and (same_cluster or _is_of(job, call))


def shown_job(call: Call, job: RestoreJob) -> Document:
    """Its document, with a link for whoever may have one."""
    return job_document(
        job,
        now=call.now,
        addresses=call.addresses,
        may_download=call.may_download,
        service_key=call.context.service_key,
    )


def create_restore_job(call: Call) -> Answer:
    """Ask for a restore. Answers with a list: of one job for a replica set, of each part's for a sharded cluster."""
    is_sharded = call.cluster.kind is ClusterKind.SHARDED
    match parse_restore_request(parse_object(call.body), family=call.family, is_sharded=is_sharded):
        case AutomatedRestore() as automated:
            return _create_automated_restore(call, automated)
        case HttpRestore() as wanted:
            return _create_http_restore(call, wanted)


def _create_automated_restore(call: Call, wanted: AutomatedRestore) -> Answer:
    target = TargetName(
        group_id=wanted.target_group_id, cluster_id=wanted.target_cluster_id, name=wanted.target_cluster_name
    )
    job = record_request(call, build_request(call, target, wanted.point))
    if job.batch_id is None:
        return _answer_created(call, job)
    return answer_batch(call, call.context.catalog.restore_jobs.list_batch(job.batch_id))


def _create_http_batch(call: Call, wanted: HttpRestore) -> Answer:
    """A download for each part of a sharded cluster, all of one moment."""
    snapshot = call.context.catalog.cluster_snapshots.find(wanted.snapshot_id)
    if snapshot is None or snapshot.cluster_id != call.cluster.id:
        raise refusal("SNAPSHOT_NOT_FOUND", wanted.snapshot_id, call.cluster.name)
    _require_restorable(call, snapshot)
    _check_expiry(call, snapshot, wanted)
    jobs = request_http_batch(
        call.cluster,
        resolve_batch_point(call, AtSnapshot(snapshot.id)),
        expiration_hours=(
            wanted.expiration_hours if wanted.expires is None else hours_until(wanted.expires, now=call.now)
        ),
        max_downloads=wanted.max_downloads,
        asked_expires=wanted.expires,
        catalog=call.context.catalog,
        clock=call.context.clock,
        actor=call.actor,
    )
    return answer_batch(call, jobs)


def _require_restorable(call: Call, snapshot: AnySnapshot) -> None:
    """Refuse one that is not complete; one that failed holds nothing, and so does not exist for restores."""
    if snapshot.state is SnapshotState.FAILED:
        raise refusal("SNAPSHOT_NOT_FOUND", snapshot.id, call.cluster.name)
    if snapshot.state is SnapshotState.IN_PROGRESS:
        raise refusal("CANNOT_START_RESTORE_JOB_FOR_INCOMPLETE_CLUSTER_SNAPSHOT", snapshot.id)
    if snapshot.state is SnapshotState.DELETED:
        raise refusal("CANNOT_START_RESTORE_JOB_FOR_DELETED_SNAPSHOT", snapshot.id)


def _create_http_restore(call: Call, wanted: HttpRestore) -> Answer:
    if call.cluster.kind is ClusterKind.SHARDED:
        return _create_http_batch(call, wanted)
    snapshot = _find_snapshot(call, wanted.snapshot_id)
    _require_restorable(call, snapshot)
    _check_expiry(call, snapshot, wanted)
    job = request_http_restore(
        cluster=call.cluster,
        snapshot=snapshot,
        expiration_hours=(
            wanted.expiration_hours if wanted.expires is None else hours_until(wanted.expires, now=call.now)
        ),
        max_downloads=wanted.max_downloads,
        asked_expires=wanted.expires,
        catalog=call.context.catalog,
        clock=call.context.clock,
        actor=call.actor,
    )
    return _answer_created(call, job)


def _answer_created(call: Call, job: RestoreJob) -> Answer:
    """`job` is as it was recorded: IN_PROGRESS and NOT_STARTED, however far a worker is by now."""
    document = {
        "results": [shown_job(call, job)],
        "links": self_links(call.addresses.restore_job(job)),
        "totalCount": 1,
    }
    return Answer(document=document, shape=Shape.LIST)


def answer_batch(call: Call, jobs: Sequence[RestoreJob]) -> Answer:
    """The jobs of all parts of a sharded cluster, as they were recorded."""
    document = {
        "results": [shown_job(call, job) for job in jobs],
        "links": self_links(f"{call.cluster_href}/restoreJobs?batchId={jobs[0].batch_id}"),
        "totalCount": len(jobs),
    }
    return Answer(document=document, shape=Shape.LIST)


def _find_snapshot(call: Call, snapshot_id: SnapshotId) -> Snapshot:
    """A snapshot of the path's cluster."""
    snapshot = call.context.catalog.snapshots.find(snapshot_id)
    if snapshot is None or snapshot.cluster_id != call.cluster.id:
        raise refusal("SNAPSHOT_NOT_FOUND", snapshot_id, call.cluster.name)
    return snapshot


def _check_expiry(call: Call, snapshot: AnySnapshot, wanted: HttpRestore) -> None:
    if wanted.expires is not None and wanted.expires <= call.now:
        raise refuse_fields([violation("INVALID_ATTRIBUTE", "delivery.expires", "it has passed already")])
    if snapshot.do_not_delete or snapshot.expires is None:
        return
    if (wanted.expires or call.now + timedelta(hours=wanted.expiration_hours)) > snapshot.expires:
        raise refusal("LINK_EXPIRATION_AFTER_SNAPSHOT_DELETION", snapshot.id, call.cluster.name)


_PATH = "/api/atlas/v1.0/groups/{groupId}/clusters/{clusterName}/restoreJobs"

OPERATIONS = (
    Operation(
        name="listLegacyBackupRestoreJobs",
        method="GET",
        path=_PATH,
        handler=list_restore_jobs,
        scope=Scope.CLUSTER,
        is_list=True,
    ),
    Operation(
        name="createLegacyBackupRestoreJob",
        method="POST",
        path=_PATH,
        handler=create_restore_job,
        slow=True,
        scope=Scope.CLUSTER,
        need=Need.OWN,
        needs_listed_address=True,
    ),
    Operation(
        name="getLegacyBackupRestoreJob",
        method="GET",
        path=f"{_PATH}/{{jobId}}",
        handler=get_restore_job,
        scope=Scope.CLUSTER,
    ),
)
