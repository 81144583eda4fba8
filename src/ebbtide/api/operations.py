"""What an operation of the API is, and the call that its handler gets.

The table of operations says all that must be known before the handler runs (who may, about what); `prepare_call` makes
sure of it in the order of contract 4.5. A handler is a plain function that runs in a thread, returns an Answer or
raises a Refusal, and starts with a caller, a group, a cluster and a page that were already checked.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from functools import cached_property

from ebbtide.api.bodies import Body
from ebbtide.api.context import ApiContext
from ebbtide.api.families import Family, family_of
from ebbtide.api.queries import Page, Query, parse_page, parse_presentation
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Addresses
from ebbtide.domain.access import Caller, is_global_owner, is_member, is_owner, may_look_everywhere, may_write
from ebbtide.domain.access_list import Address
from ebbtide.domain.cluster import CLUSTER_NAME, Cluster
from ebbtide.domain.group import Group
from ebbtide.domain.ids import ClusterId, GroupId, is_id

GROUP_SEGMENT = "groupId"
CLUSTER_SEGMENT = "clusterName"
CLUSTER_ID_SEGMENT = "clusterId"


class Scope(Enum):
    """What the path of an operation names, and so what exists when its handler runs."""

    SERVICE = "service"
    GROUP = "group"
    CLUSTER = "cluster"


class Need(Enum):
    """What the caller's key must be allowed in the group."""

    READ = "read"  # any role in the group
    WRITE = "write"  # may start backups and restores
    OWN = "own"  # owns the group
    SURVEY = "survey"  # may start backups and restores, or look at every group
    RULE = "rule"  # owns the whole service


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request of a known caller from an allowed address."""

    context: ApiContext
    method: str
    path: str
    path_values: Mapping[str, str]
    query: Query
    body: Body
    address: Address
    caller: Caller
    now: datetime
    found_group: Group | None = None
    found_cluster: Cluster | None = None
    asked_page: Page | None = None

    @property
    def group(self) -> Group:
        """The path's group; only where the operation's scope has one."""
        if self.found_group is None:
            raise LookupError("this operation's path names no group")
        return self.found_group

    @property
    def cluster(self) -> Cluster:
        """The path's cluster; only where the operation's scope has one."""
        if self.found_cluster is None:
            raise LookupError("this operation's path names no cluster")
        return self.found_cluster

    @property
    def page(self) -> Page:
        """The page asked for; only where the operation answers with a list."""
        if self.asked_page is None:
            raise LookupError("this operation answers with no list")
        return self.asked_page

    @cached_property
    def family(self) -> Family:
        return family_of(self.path)

    @property
    def cluster_href(self) -> str:
        """The address of the path's cluster in the path's family; only where the operation's scope has one."""
        return self.addresses.cluster(self.group.id, self.cluster.id, self.cluster.name)

    @cached_property
    def addresses(self) -> Addresses:
        return Addresses(self.context.external_url, self.family)

    @property
    def actor(self) -> str:
        """Who did it and from where, for events."""
        return f"{self.caller.name} from {self.address}"

    @cached_property
    def may_download(self) -> bool:
        """Whether the caller may see download links of the group: who could have created the job (contract 4.4)."""
        may_create = may_write if self.family is Family.CLOUD else is_owner
        return may_create(self.caller, self.group.id) or self.context.settings.flag(
            "downloads.links_for_readers"
        )


Handler = Callable[[Call], Answer]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One row of the table. `name` is the operation id. `slow` ones ask other machines and have their own threads."""

    name: str
    method: str
    path: str
    handler: Handler
    scope: Scope
    need: Need = Need.READ
    is_list: bool = False
    needs_listed_address: bool = False
    slow: bool = False
    reads_by_post: bool = False

    @property
    def only_reads(self) -> bool:
        """Whether it changes nothing, whatever its method."""
        return self.method == "GET" or self.reads_by_post

    @property
    def takes_body(self) -> bool:
        return self.method in ("POST", "PATCH", "PUT")

    @property
    def family(self) -> Family:
        return family_of(self.path)


def prepare_call(operation: Operation, call: Call) -> Call:
    """Check group, membership, role, cluster and query, in this order; raises the first refusal."""
    if operation.scope is not Scope.SERVICE:
        call = replace(call, found_group=_find_group(call, operation))
    if operation.scope is Scope.CLUSTER:
        call = replace(call, found_cluster=_find_path_cluster(call))
    parse_presentation(call.query)
    if operation.is_list:
        call = replace(call, asked_page=parse_page(call.query))
    return call


def _find_group(call: Call, operation: Operation) -> Group:
    """The path's group, where the caller's key has what is needed there.

    An unknown group and a foreign one get the same answer.
    """
    text = call.path_values[GROUP_SEGMENT]
    if not is_id(text):
        raise refusal("INVALID_GROUP_ID", text)
    group_id = GroupId(text)
    # About a cluster nothing of its group is told but its id.
    groups = call.context.known_groups if operation.scope is Scope.CLUSTER else call.context.catalog.groups
    group = groups.find(group_id) if is_member(call.caller, group_id) else None
    if group is None:
        raise refusal("NOT_IN_GROUP", text)
    allowed = {
        Need.READ: True,
        Need.WRITE: may_write(call.caller, group_id),
        Need.OWN: is_owner(call.caller, group_id),
        Need.SURVEY: may_write(call.caller, group_id) or may_look_everywhere(call.caller),
        Need.RULE: is_global_owner(call.caller),
    }
    if not allowed[operation.need]:
        raise refusal("USER_UNAUTHORIZED")
    return group


def _find_path_cluster(call: Call) -> Cluster:
    if call.family.names_clusters_by_id:
        return find_cluster_by_id(call, call.path_values[CLUSTER_ID_SEGMENT])
    return find_cluster(call, call.path_values[CLUSTER_SEGMENT])


def find_cluster_by_id(call: Call, text: str) -> Cluster:
    """The cluster of that id in the path's group."""
    if not is_id(text):
        raise refusal("INVALID_CLUSTER_ID", text)
    cluster = call.context.catalog.clusters.find(ClusterId(text))
    if cluster is None or cluster.group_id != call.group.id:
        raise refusal("CLUSTER_NOT_FOUND", text, call.group.id)
    return cluster


def find_cluster(call: Call, segment: str) -> Cluster:
    """The cluster of that name; else, where the segment has the shape of an id, the one of that id."""
    if not re.fullmatch(CLUSTER_NAME, segment):
        raise refusal("CLUSTER_NAME_INVALID", segment)
    clusters = call.context.catalog.clusters
    cluster = clusters.find_by_name(call.group.id, segment)
    if cluster is None and is_id(segment):
        by_id = clusters.find(ClusterId(segment))
        cluster = by_id if by_id is not None and by_id.group_id == call.group.id else None
    if cluster is None:
        raise refusal("CLUSTER_NAME_NOT_FOUND", segment, call.group.id)
    return cluster
