"""Backing up again a cluster whose backup was terminated: same id, new head.

Crash between the two writes: the cluster is still terminated, only its old head's record is gone; asking again works.
"""

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.backup_config import forgot_secrets
from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.event import EventLevel
from ebbtide.errors import NotFound, Refused
from ebbtide.events import record_event


def revive_cluster(cluster: Cluster, *, catalog: Catalog, clock: Clock, actor: str) -> Cluster:
    """Give a terminated cluster a head again; a worker makes it.

    Raises Refused where its secrets were forgotten with its termination, NameTaken where its name is another's now.
    """
    if cluster.state is not ClusterState.REMOVED:
        raise Refused(f"{cluster.name} is not terminated")
    if forgot_secrets(cluster):
        raise Refused(
            f"the credentials of {cluster.name} were forgotten when its backup was terminated",
            hint="register it again: ebbtide clusters add",
        )
    # The worker makes a new record for a live cluster without one.
    catalog.heads.forget_gone(cluster.id)
    catalog.clusters.revive(cluster.id)
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="cluster.revived",
        message=f"{cluster.name} is backed up again: it gets a new head",
        group_id=cluster.group_id,
        cluster_id=cluster.id,
        actor=actor,
    )
    revived = catalog.clusters.find(cluster.id)
    if revived is None:
        raise NotFound(f"{cluster.name} is gone")
    return revived
