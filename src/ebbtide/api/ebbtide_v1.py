"""Ebbtide's own API: what the Atlas family has no place for. Described in docs/api.md.

Here are the events and the status; clusters, snapshots, restore jobs and keys have modules of their own.
"""

from ebbtide import __version__
from ebbtide.api import (
    checkpoints,
    oplog_ranges,
    own_automated,
    own_clusters,
    own_credentials,
    own_heads,
    own_hosts,
    own_keys,
    own_projects,
    own_repository,
    own_restore_jobs,
    own_restores,
    own_snapshots,
    service_accounts,
)
from ebbtide.api.lists import list_answer
from ebbtide.api.operations import Call, Operation, Scope, find_cluster
from ebbtide.api.paging import plan_window
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire_own import event_document, status_document
from ebbtide.domain.access import is_global_owner


def list_events(call: Call) -> Answer:
    """Newest first; with `clusterName` those of one cluster."""
    name = call.query.get("clusterName")
    cluster_id = None if name is None else find_cluster(call, name).id
    skip, limit = plan_window(call.page)
    events = call.context.catalog.events
    return list_answer(
        call,
        href=f"{call.addresses.own_group(call.group.id)}/events",
        found=events.page(call.group.id, cluster_id=cluster_id, skip=skip, limit=limit),
        to_document=event_document,
        count=lambda: events.count(call.group.id, cluster_id=cluster_id),
    )


def list_all_events(call: Call) -> Answer:
    """Of every project and of the service itself, newest first; for owners of the whole service."""
    if not is_global_owner(call.caller):
        raise refusal("USER_UNAUTHORIZED")
    skip, limit = plan_window(call.page)
    events = call.context.catalog.events
    return list_answer(
        call,
        href=f"{call.addresses.ebbtide}/events",
        found=events.page_of_all(skip=skip, limit=limit),
        to_document=event_document,
        count=events.count_all,
    )


def get_status(_: Call) -> Answer:
    return Answer(document=status_document(version=__version__))


OPERATIONS: tuple[Operation, ...] = (
    *own_projects.OPERATIONS,
    *own_clusters.OPERATIONS,
    *own_heads.OPERATIONS,
    *own_hosts.OPERATIONS,
    *oplog_ranges.OPERATIONS,
    *own_snapshots.OPERATIONS,
    *checkpoints.OWN_OPERATIONS,
    *own_restore_jobs.OPERATIONS,
    *own_restores.OPERATIONS,
    *own_automated.OPERATIONS,
    *own_credentials.OPERATIONS,
    *own_keys.OPERATIONS,
    *service_accounts.OPERATIONS,
    *own_repository.OPERATIONS,
    Operation(
        name="listEvents",
        method="GET",
        path="/api/ebbtide/v1/groups/{groupId}/events",
        handler=list_events,
        scope=Scope.GROUP,
        is_list=True,
    ),
    Operation(
        name="listAllEvents",
        method="GET",
        path="/api/ebbtide/v1/events",
        handler=list_all_events,
        scope=Scope.SERVICE,
        is_list=True,
    ),
    Operation(
        name="getStatus",
        method="GET",
        path="/api/ebbtide/v1/status",
        handler=get_status,
        scope=Scope.SERVICE,
    ),
)
