"""Snapshots of a sharded cluster, where the operations on snapshots of a cluster meet one: finding, listing, showing."""

from collections.abc import Callable, Sequence

from ebbtide.api.lists import list_answer
from ebbtide.api.operations import Call
from ebbtide.api.paging import plan_window
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document
from ebbtide.api.wire_sharded import Parts, cluster_snapshot_document, own_cluster_snapshot_document
from ebbtide.domain.cluster import ClusterKind
from ebbtide.domain.cluster_snapshot import ClusterSnapshot
from ebbtide.domain.ids import SnapshotId, is_id
from ebbtide.domain.job import Job, JobKind, job_id
from ebbtide.domain.snapshot import SnapshotState

Show = Callable[[Call, ClusterSnapshot, Parts], Document]


def is_sharded(call: Call) -> bool:
    """Whether the path's cluster is one whose snapshots have several parts."""
    return call.cluster.kind is ClusterKind.SHARDED


def list_wholes(call: Call, *, href: str, states: tuple[SnapshotState, ...], show: Show) -> Answer:
    """A page, newest first."""
    skip, limit = plan_window(call.page)
    wholes = call.context.catalog.cluster_snapshots
    found = wholes.page(call.cluster.id, states=states, skip=skip, limit=limit)
    parts = find_parts(call, found)
    return list_answer(
        call,
        href=href,
        found=found,
        to_document=lambda whole: show(call, whole, parts),
        count=lambda: wholes.count(call.cluster.id, states=states),
    )


def find_whole(call: Call) -> ClusterSnapshot:
    """The path's snapshot, whatever its state. As for a replica set, one of an earlier cluster of this name counts."""
    text = call.path_values["snapshotId"]
    if not is_id(text):
        raise refusal("INVALID_SNAPSHOT_ID", text)
    whole = call.context.catalog.cluster_snapshots.find(SnapshotId(text))
    if (
        whole is None
        or whole.group_id != call.group.id
        or (whole.cluster_id != call.cluster.id and whole.cluster_name != call.cluster.name)
    ):
        raise refusal("SNAPSHOT_NOT_FOUND", text, call.cluster.name)
    return whole


def find_parts(call: Call, wholes: Sequence[ClusterSnapshot]) -> Parts:
    """The parts' snapshots of all of `wholes`."""
    return call.context.catalog.snapshots.find_many(
        part.snapshot_id for whole in wholes for part in whole.parts
    )


def show_whole(call: Call, whole: ClusterSnapshot, parts: Parts) -> Document:
    return cluster_snapshot_document(whole, parts, addresses=call.addresses)


def show_own_whole(call: Call, whole: ClusterSnapshot, parts: Parts) -> Document:
    # A complete snapshot's jobs tell nothing more, and a list of them would ask for each.
    jobs = {} if whole.state is SnapshotState.COMPLETE else _jobs_of(call, whole)
    return own_cluster_snapshot_document(whole, parts, jobs=jobs, addresses=call.addresses)


def _jobs_of(call: Call, whole: ClusterSnapshot) -> dict[str, Job]:
    asked = [(JobKind.CLUSTER_SNAPSHOT, whole.id)]
    asked += [(JobKind.SNAPSHOT, part.snapshot_id) for part in whole.parts]
    found = ((subject, call.context.catalog.jobs.find(job_id(kind, subject))) for kind, subject in asked)
    return {subject: job for subject, job in found if job is not None}
