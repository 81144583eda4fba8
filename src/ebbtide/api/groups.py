"""Groups, and the clusters of a group: where clients discover what there is."""

from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.paging import list_document, plan_window
from ebbtide.api.responses import Answer, Shape
from ebbtide.api.wire import cluster_document, group_document
from ebbtide.domain.access import is_member
from ebbtide.domain.group import Group


def list_groups(call: Call) -> Answer:
    """The caller's own groups, oldest first."""
    groups = [g for g in call.context.catalog.groups.list_all() if is_member(call.key, g.id)]
    skip, limit = plan_window(call.page)
    window = groups[skip : skip + limit]
    document = list_document(
        href=f"{call.addresses.atlas}/groups",
        query=call.query,
        page=call.page,
        entities=[_document(call, group) for group in window[: call.page.items_per_page]],
        has_next=len(window) > call.page.items_per_page,
        total_count=len(groups) if call.page.include_count else None,
    )
    return Answer(document=document, shape=Shape.LIST)


def get_group(call: Call) -> Answer:
    return Answer(document=_document(call, call.group))


def _document(call: Call, group: Group) -> dict[str, object]:
    count = call.context.catalog.clusters.count_in_group(group.id)
    return group_document(group, cluster_count=count, addresses=call.addresses)


def list_clusters(call: Call) -> Answer:
    """The group's clusters by name; removed ones are not listed."""
    clusters = call.context.catalog.clusters.list_in_group(call.group.id)
    skip, limit = plan_window(call.page)
    window = clusters[skip : skip + limit]
    document = list_document(
        href=f"{call.addresses.group(call.group.id)}/clusters",
        query=call.query,
        page=call.page,
        entities=[cluster_document(c, addresses=call.addresses) for c in window[: call.page.items_per_page]],
        has_next=len(window) > call.page.items_per_page,
        total_count=len(clusters) if call.page.include_count else None,
    )
    return Answer(document=document, shape=Shape.LIST)


def get_cluster(call: Call) -> Answer:
    return Answer(document=cluster_document(call.cluster, addresses=call.addresses))


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
        need=Need.READ,
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
