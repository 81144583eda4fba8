"""Ebbtide's own API: snapshots on demand, with their progress."""

from datetime import datetime

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.cluster_snapshots import find_parts, is_sharded, list_wholes, show_own_whole
from ebbtide.api.lists import list_answer
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.paging import plan_window
from ebbtide.api.queries import parse_boolean
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.snapshots import find_any
from ebbtide.api.wire import Document
from ebbtide.api.wire_own import own_snapshot_document
from ebbtide.backup.cluster_snapshot_requesting import request_cluster_snapshot
from ebbtide.backup.requesting import HeadNotReady, SnapshotInProgress, request_snapshot
from ebbtide.domain.cluster_snapshot import AnySnapshot, ClusterSnapshot
from ebbtide.domain.job import JobKind, job_id
from ebbtide.domain.snapshot import SnapshotState


def list_snapshots(call: Call) -> Answer:
    """Newest first, whatever their state but DELETED; those alone with `deleted=true`."""
    skip, limit = plan_window(call.page)
    snapshots, deleted = call.context.catalog.snapshots, SnapshotState.DELETED
    states = tuple(state for state in SnapshotState if state is not deleted)
    if parse_boolean(call.query, "deleted", default=False):
        states = (deleted,)
    href = f"{call.addresses.own_cluster(call.group.id, call.cluster.name)}/snapshots"
    if is_sharded(call):
        return list_wholes(call, href=href, states=states, show=show_own_whole)
    return list_answer(
        call,
        href=href,
        found=snapshots.page(call.cluster.id, states=states, skip=skip, limit=limit),
        to_document=lambda snapshot: show_own_snapshot(call, snapshot),
        count=lambda: snapshots.count(call.cluster.id, states=states),
    )


def get_snapshot(call: Call) -> Answer:
    return Answer(document=show_own_snapshot(call, find_any(call)))


def create_snapshot(call: Call) -> Answer:
    """Ask for a snapshot now; a worker takes it."""
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)
    return Answer(document=show_own_snapshot(call, ask_for_snapshot(call)))


def ask_for_snapshot(call: Call, *, expires: datetime | None = None) -> AnySnapshot:
    """A snapshot of the path's cluster, kept until `expires` or as long as its schedule says."""
    request = request_cluster_snapshot if is_sharded(call) else request_snapshot
    try:
        return request(
            call.cluster,
            catalog=call.context.catalog,
            clock=call.context.clock,
            actor=call.actor,
            expires=expires,
        )
    except SnapshotInProgress as refused:
        raise refusal("SNAPSHOT_IN_PROGRESS", str(refused)) from refused
    except HeadNotReady as refused:
        raise refusal("HEAD_NOT_READY", str(refused)) from refused


def show_own_snapshot(call: Call, snapshot: AnySnapshot) -> Document:
    """The snapshot with the work on it."""
    if isinstance(snapshot, ClusterSnapshot):
        return show_own_whole(call, snapshot, find_parts(call, [snapshot]))
    job = None
    # A complete snapshot's job tells nothing more, and a list of them would ask for each.
    if snapshot.state is not SnapshotState.COMPLETE:
        job = call.context.catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))
    return own_snapshot_document(snapshot, job=job, addresses=call.addresses)


_PATH = "/api/ebbtide/v1/groups/{groupId}/clusters/{clusterName}/snapshots"

OPERATIONS = (
    Operation(
        name="listOwnSnapshots",
        method="GET",
        path=_PATH,
        handler=list_snapshots,
        scope=Scope.CLUSTER,
        is_list=True,
    ),
    Operation(
        name="createSnapshot",
        method="POST",
        path=_PATH,
        handler=create_snapshot,
        scope=Scope.CLUSTER,
        need=Need.WRITE,
        needs_listed_address=True,
    ),
    Operation(
        name="getOwnSnapshot",
        method="GET",
        path=f"{_PATH}/{{snapshotId}}",
        handler=get_snapshot,
        scope=Scope.CLUSTER,
    ),
)
