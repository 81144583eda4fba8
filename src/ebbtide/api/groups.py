"""Groups, and the clusters of a group: where clients discover what there is."""

from ebbtide.api.entities import GROUP, entity_answer
from ebbtide.api.lists import slice_answer
from ebbtide.api.operations import Call, Operation, Scope
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document, cluster_document, group_document
from ebbtide.api.wire_cloud import deployment_document
from ebbtide.backup.part_heads import deciding_head
from ebbtide.domain.access import is_member
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.group import Group


def list_groups(call: Call) -> Answer:
    """The caller's own groups, oldest first."""
    groups = [g for g in call.context.catalog.groups.list_all() if is_member(call.caller, g.id)]
    href = f"{call.addresses.base}/groups"
    return slice_answer(call, href=href, records=groups, to_document=lambda g: _document(call, g))


def get_group(call: Call) -> Answer:
    return group_answer(call, call.group)


def group_answer(call: Call, group: Group) -> Answer:
    """One group."""
    return Answer(document=_document(call, group))


def _document(call: Call, group: Group) -> Document:
    count = call.context.catalog.clusters.count_in_group(group.id)
    return group_document(group, cluster_count=count, addresses=call.addresses)


def list_clusters(call: Call) -> Answer:
    """The group's clusters by name; removed ones are not listed."""
    return slice_answer(
        call,
        href=f"{call.addresses.group(call.group.id)}/clusters",
        records=call.context.catalog.clusters.list_in_group(call.group.id),
        to_document=lambda c: cluster_document(c, addresses=call.addresses),
    )


def get_cluster(call: Call) -> Answer:
    return Answer(document=cluster_document(call.cluster, addresses=call.addresses))


def list_deployments(call: Call) -> Answer:
    """As `list_clusters`, in the words of Cloud and Ops Manager."""
    return slice_answer(
        call,
        href=f"{call.addresses.group(call.group.id)}/clusters",
        records=call.context.catalog.clusters.list_in_group(call.group.id),
        to_document=lambda c: _deployment(call, c),
    )


def get_deployment(call: Call) -> Answer:
    return entity_answer(call, _deployment(call, call.cluster), relations=(GROUP,))


def _deployment(call: Call, cluster: Cluster) -> Document:
    head = deciding_head(cluster, call.context.catalog)
    return deployment_document(cluster, head=head, addresses=call.addresses)


_BASE = "/api/atlas/v1.0/groups"

OPERATIONS = (
    Operation(
        name="listGroups", method="GET", path=_BASE, handler=list_groups, scope=Scope.SERVICE, is_list=True
    ),
    Operation(
        name="getGroup", method="GET", path=f"{_BASE}/{{groupId}}", handler=get_group, scope=Scope.GROUP
    ),
    Operation(
        name="listClusters",
        method="GET",
        path=f"{_BASE}/{{groupId}}/clusters",
        handler=list_clusters,
        scope=Scope.GROUP,
        is_list=True,
    ),
    Operation(
        name="getCluster",
        method="GET",
        path=f"{_BASE}/{{groupId}}/clusters/{{clusterName}}",
        handler=get_cluster,
        scope=Scope.CLUSTER,
    ),
)
