"""Snapshots of a cluster: list and get, in the families of the hosted services.

Failed and deleted snapshots are not shown here; Ebbtide's own API lists them.
"""

from ebbtide.api.cluster_snapshots import find_parts, find_whole, is_sharded, list_wholes, show_whole
from ebbtide.api.entities import CLUSTER, GROUP, entity_answer
from ebbtide.api.lists import list_answer
from ebbtide.api.operations import Call, Operation, Scope
from ebbtide.api.paging import plan_window
from ebbtide.api.queries import parse_choice
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document, snapshot_document
from ebbtide.domain.cluster_snapshot import AnySnapshot, ClusterSnapshot
from ebbtide.domain.ids import SnapshotId, is_id
from ebbtide.domain.snapshot import Snapshot, SnapshotState

STATES = {
    "true": (SnapshotState.COMPLETE,),
    "false": (SnapshotState.IN_PROGRESS,),
    "all": (SnapshotState.COMPLETE, SnapshotState.IN_PROGRESS),
}


SNAPSHOT_RELATIONS = (CLUSTER, GROUP)


def list_snapshots(call: Call) -> Answer:
    """Newest first; complete ones unless `completed` says otherwise."""
    states = STATES[parse_choice(call.query, "completed", choices=tuple(STATES), default="true")]
    if is_sharded(call):
        return list_wholes(call, href=f"{call.cluster_href}/snapshots", states=states, show=show_whole)
    skip, limit = plan_window(call.page)
    snapshots = call.context.catalog.snapshots
    return list_answer(
        call,
        href=f"{call.cluster_href}/snapshots",
        found=snapshots.page(call.cluster.id, states=states, skip=skip, limit=limit),
        to_document=lambda s: show_snapshot(call, s),
        count=lambda: snapshots.count(call.cluster.id, states=states),
    )


def get_snapshot(call: Call) -> Answer:
    return entity_answer(call, show_snapshot(call, find_present(call)), relations=SNAPSHOT_RELATIONS)


def show_snapshot(call: Call, snapshot: AnySnapshot) -> Document:
    """The snapshot as the hosted services show it."""
    if isinstance(snapshot, ClusterSnapshot):
        return show_whole(call, snapshot, find_parts(call, [snapshot]))
    return snapshot_document(
        snapshot, addresses=call.addresses, is_config_server=call.cluster.is_config_server
    )


def find_present(call: Call) -> AnySnapshot:
    """The path's snapshot, of a set or of a sharded cluster, unless it failed or was deleted."""
    snapshot = find_any(call)
    if snapshot.state in (SnapshotState.FAILED, SnapshotState.DELETED):
        raise refusal("SNAPSHOT_NOT_FOUND", snapshot.id, call.cluster.name)
    return snapshot


def find_any(call: Call) -> AnySnapshot:
    """The path's snapshot, of a set or of a sharded cluster, whatever its state."""
    return find_whole(call) if is_sharded(call) else find_snapshot(call)


def find_snapshot(call: Call) -> Snapshot:
    """The path's snapshot of a set, whatever its state."""
    text = call.path_values["snapshotId"]
    if not is_id(text):
        raise refusal("INVALID_SNAPSHOT_ID", text)
    snapshot = call.context.catalog.snapshots.find(SnapshotId(text))
    # By name too: links made before a cluster was removed and registered anew keep working.
    if (
        snapshot is None
        or snapshot.group_id != call.group.id
        or (snapshot.cluster_id != call.cluster.id and snapshot.cluster_name != call.cluster.name)
    ):
        raise refusal("SNAPSHOT_NOT_FOUND", text, call.cluster.name)
    return snapshot


_PATH = "/api/atlas/v1.0/groups/{groupId}/clusters/{clusterName}/snapshots"

OPERATIONS = (
    Operation(
        name="listLegacySnapshots",
        method="GET",
        path=_PATH,
        handler=list_snapshots,
        scope=Scope.CLUSTER,
        is_list=True,
    ),
    Operation(
        name="getLegacySnapshot",
        method="GET",
        path=f"{_PATH}/{{snapshotId}}",
        handler=get_snapshot,
        scope=Scope.CLUSTER,
    ),
)
