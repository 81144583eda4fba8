"""The hosts family of Cloud and Ops Manager, which is for mirrored (SCCC) config servers alone (contract 6.6).

Those ended with MongoDB 3.2; here they are what their operator declares to be one. Creating answers with one job, not
with a list, and takes what the published example sends: states, and both ways to say until when.
"""

from typing import Any

from ebbtide.api.bodies import parse_object
from ebbtide.api.entities import GROUP, Relation, entity_answer
from ebbtide.api.families import Family
from ebbtide.api.lists import list_answer
from ebbtide.api.operations import Call
from ebbtide.api.paging import plan_window
from ebbtide.api.queries import parse_choice
from ebbtide.api.refusals import refusal, refuse_fields, violation
from ebbtide.api.responses import Answer
from ebbtide.api.restore_jobs import shown_job
from ebbtide.api.restore_requests import HttpRestore, parse_restore_request
from ebbtide.api.snapshots import STATES
from ebbtide.api.wire import Document
from ebbtide.api.wire_hosts import host_address, host_restore_job_document, host_snapshot_document
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.host import HOST_ID, Host, HostId, host_id
from ebbtide.domain.ids import RestoreJobId, SnapshotId, is_id
from ebbtide.domain.replica_set import join_host_port
from ebbtide.domain.restore_job import RestoreJob, hours_until
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.restore.requesting import request_http_restore

_STATE_FIELDS = ("statusName", "url")
_HOST = Relation("cluster", lambda d: f"/hosts/{d['hostId']}")
_SNAPSHOT = Relation("snapshot", lambda d: f"/hosts/{d['hostId']}/snapshots/{d['snapshotId']}")


def find_host(call: Call) -> Host:
    """The path's host, removed or not: what is stored of it stays. A head is known, and no config server."""
    text = call.path_values["hostId"]
    host = call.context.catalog.hosts.find(HostId(text)) if HOST_ID.fullmatch(text) else None
    if host is not None and host.group_id == call.group.id:
        return host
    if text in {_head_id(c) for c in call.context.catalog.clusters.list_in_group(call.group.id)}:
        raise refusal("NOT_CONFIG_SERVER", text)
    raise refusal("HOST_NOT_FOUND", text, call.group.id)


def _head_id(cluster: Cluster) -> HostId:
    return host_id(cluster.group_id, join_host_port(cluster.head_host, cluster.head_port))


# --- snapshots --------------------------------------------------------------------------------------------------------


def list_snapshots(call: Call) -> Answer:
    """Newest first; complete ones unless `completed` says otherwise."""
    host = find_host(call)
    states = STATES[parse_choice(call.query, "completed", choices=tuple(STATES), default="true")]
    skip, limit = plan_window(call.page)
    snapshots = call.context.catalog.snapshots
    return list_answer(
        call,
        href=f"{host_address(call.addresses, host.group_id, host.id)}/snapshots",
        found=snapshots.page(host.store_id, states=states, skip=skip, limit=limit),
        to_document=lambda s: host_snapshot_document(host, s, addresses=call.addresses),
        count=lambda: snapshots.count(host.store_id, states=states),
    )


def get_snapshot(call: Call) -> Answer:
    host = find_host(call)
    snapshot = find_snapshot(call, host, call.path_values["snapshotId"])
    if snapshot.state in (SnapshotState.FAILED, SnapshotState.DELETED):
        raise refusal("CONFIG_SNAPSHOT_NOT_FOUND", snapshot.id, host.id)
    document = host_snapshot_document(host, snapshot, addresses=call.addresses)
    return entity_answer(call, document, relations=(_HOST, GROUP))


def find_snapshot(call: Call, host: Host, text: str) -> Snapshot:
    """A snapshot of the host, whatever its state."""
    if not is_id(text):
        raise refusal("INVALID_SNAPSHOT_ID", text)
    snapshot = call.context.catalog.snapshots.find(SnapshotId(text))
    if snapshot is None or snapshot.cluster_id != host.store_id:
        raise refusal("CONFIG_SNAPSHOT_NOT_FOUND", text, host.id)
    return snapshot


# --- restore jobs -----------------------------------------------------------------------------------------------------


def list_restore_jobs(call: Call) -> Answer:
    """Newest first."""
    host = find_host(call)
    skip, limit = plan_window(call.page)
    jobs = call.context.catalog.restore_jobs
    return list_answer(
        call,
        href=f"{host_address(call.addresses, host.group_id, host.id)}/restoreJobs",
        found=jobs.page(host.store_id, skip=skip, limit=limit),
        to_document=lambda job: _job_document(call, host, job),
        count=lambda: jobs.count(host.store_id),
    )


def get_restore_job(call: Call) -> Answer:
    host = find_host(call)
    text = call.path_values["jobId"]
    if not is_id(text):
        raise refusal("INVALID_JOB_ID", text)
    job = call.context.catalog.restore_jobs.find(RestoreJobId(text))
    if job is None or job.cluster_id != host.store_id:
        raise refusal("CONFIG_RESTORE_JOB_NOT_FOUND", text, host.id)
    return _job_answer(call, host, job)


def create_restore_job(call: Call) -> Answer:
    """Ask for a download of one snapshot."""
    host = find_host(call)
    wanted = parse_host_restore(parse_object(call.body))
    snapshot = find_snapshot(call, host, wanted.snapshot_id)
    if snapshot.state is SnapshotState.FAILED:
        raise refusal("CONFIG_SNAPSHOT_NOT_FOUND", snapshot.id, host.id)
    if snapshot.state is SnapshotState.IN_PROGRESS:
        raise refusal("CANNOT_START_RESTORE_JOB_FOR_INCOMPLETE_CLUSTER_SNAPSHOT", snapshot.id)
    if snapshot.state is SnapshotState.DELETED:
        raise refusal("CANNOT_START_RESTORE_JOB_FOR_DELETED_SNAPSHOT", snapshot.id)
    if wanted.expires is not None and wanted.expires <= call.now:
        raise refuse_fields([violation("INVALID_ATTRIBUTE", "delivery.expires", "it has passed already")])
    hours = wanted.expiration_hours if wanted.expires is None else hours_until(wanted.expires, now=call.now)
    job = request_http_restore(
        cluster=None,
        snapshot=snapshot,
        expiration_hours=hours,
        max_downloads=wanted.max_downloads,
        asked_expires=wanted.expires,
        catalog=call.context.catalog,
        clock=call.context.clock,
        actor=call.actor,
    )
    return _job_answer(call, host, job)


def parse_host_restore(values: dict[str, Any]) -> HttpRestore:
    """The download that a body asks for. Raises one refusal that names every bad field. Pure."""
    delivery = values.get("delivery")
    if isinstance(delivery, dict):
        ignored = {*_STATE_FIELDS, *(("expirationHours",) if delivery.get("expires") is not None else ())}
        values = {**values, "delivery": {k: v for k, v in delivery.items() if k not in ignored}}
    wanted = parse_restore_request(values, family=Family.CLOUD)
    if not isinstance(wanted, HttpRestore):
        problem = violation(
            "UNSUPPORTED_DELIVERY_METHOD", "delivery.methodName", "AUTOMATED_RESTORE", " for a config server"
        )
        raise refuse_fields([problem])
    return wanted


def _job_answer(call: Call, host: Host, job: RestoreJob) -> Answer:
    return entity_answer(call, _job_document(call, host, job), relations=(_HOST, _SNAPSHOT, GROUP))


def _job_document(call: Call, host: Host, job: RestoreJob) -> Document:
    return host_restore_job_document(shown_job(call, job), host, job, addresses=call.addresses)
