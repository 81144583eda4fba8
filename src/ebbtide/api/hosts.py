"""The hosts family of Cloud and Ops Manager, which is for mirrored (SCCC) config servers alone (contract 6.6).

Those ended with MongoDB 3.2, and none can be registered: every host that Ebbtide knows is something else.
A host's id is 32 hex digits, made of where it is.
"""

import hashlib
import re

from ebbtide.api.operations import Call
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.ids import GroupId
from ebbtide.domain.replica_set import join_host_port

_SHAPE = re.compile(r"[0-9a-f]{32}")


def host_id(group_id: GroupId, address: str) -> str:
    """The id of the host at `host:port`, in one group."""
    return hashlib.sha256(f"{group_id}/{address}".encode()).hexdigest()[:32]


def refuse_host(call: Call) -> Answer:
    """Refuses every host: a head is no config server, and others are not known."""
    text = call.path_values["hostId"]
    known = {_head_id(c) for c in call.context.catalog.clusters.list_in_group(call.group.id)}
    if not _SHAPE.fullmatch(text) or text not in known:
        raise refusal("HOST_NOT_FOUND", text, call.group.id)
    raise refusal("NOT_CONFIG_SERVER", text)


def _head_id(cluster: Cluster) -> str:
    return host_id(cluster.group_id, join_host_port(cluster.head_host, cluster.head_port))
