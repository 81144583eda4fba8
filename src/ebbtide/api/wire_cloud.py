"""Wire names that only Cloud and Ops Manager's family has (contract section 10). As `wire`, of which it is a part."""

from ebbtide.api.wire import Addresses, Document, iso_date, self_links
from ebbtide.domain.backup_config import backup_status
from ebbtide.domain.cluster import Cluster, ClusterKind, Head
from ebbtide.domain.cluster_snapshot import AnySnapshot
from ebbtide.domain.replica_set import TlsMode

STORAGE_ENGINE = "WIRED_TIGER"
AUTH_NONE = "NONE"
AUTH_SCRAM = "MONGODB_CR"
"""What the family calls user name and password, whatever the server makes of them."""
SYNC_SOURCE = "SECONDARY"
"""A head copies from a secondary where there is one."""


def deployment_document(cluster: Cluster, *, head: Head | None, addresses: Addresses) -> Document:
    """A cluster, which may be a sharded one, or a part of one. Its head is what we hear from."""
    heartbeat = {} if head is None else {"lastHeartbeat": iso_date(head.updated)}
    is_set = cluster.kind is ClusterKind.REPLICA_SET
    return {
        "id": cluster.id,
        "groupId": cluster.group_id,
        "clusterName": cluster.name,
        "typeName": deployment_type(cluster),
        **({"replicaSetName": cluster.replica_set_name} if is_set else {}),
        **({} if cluster.shard_name is None else {"shardName": cluster.shard_name}),
        **heartbeat,
        "links": self_links(addresses.cluster(cluster.group_id, cluster.id, cluster.name)),
    }


def deployment_type(cluster: Cluster) -> str:
    """A cluster's `typeName`."""
    if cluster.kind is ClusterKind.SHARDED:
        return "SHARDED_REPLICA_SET"
    return "CONFIG_SERVER_REPLICA_SET" if cluster.is_config_server else "REPLICA_SET"


def backup_config_document(cluster: Cluster, *, head: Head | None, addresses: Addresses) -> Document:
    """Whether a cluster is backed up, and how. Never a password."""
    username = {} if cluster.username is None else {"username": cluster.username}
    return {
        "groupId": cluster.group_id,
        "clusterId": cluster.id,
        "statusName": backup_status(cluster, head).value,
        "storageEngineName": STORAGE_ENGINE,
        "authMechanismName": AUTH_NONE if cluster.username is None else AUTH_SCRAM,
        **username,
        "sslEnabled": cluster.tls_mode is not TlsMode.DISABLED,
        "syncSource": SYNC_SOURCE,
        "encryptionEnabled": False,
        "excludedNamespaces": [],
        "provisioned": head is not None and head.joined_once,
        "links": self_links(addresses.backup_config(cluster.group_id, cluster.id)),
    }


def on_demand_document(snapshot: AnySnapshot) -> Document:
    """A snapshot that was asked for; `timestamp` is when, and its `time` the same in seconds since 1970."""
    asked = snapshot.created
    return {
        "clusterName": snapshot.cluster_name,
        "description": f"on-demand snapshot {snapshot.id}",
        "timestamp": {"date": iso_date(asked), "time": int(asked.timestamp()), "increment": 1},
    }
