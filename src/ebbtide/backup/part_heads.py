"""Which head says how a cluster is backed up: its own, or of a sharded cluster that of the part that is least far."""

from ebbtide.catalog.catalog import Catalog
from ebbtide.domain.cluster import Cluster, ClusterKind, Head


def deciding_head(cluster: Cluster, catalog: Catalog) -> Head | None:
    """The cluster's head; of a sharded cluster the one that joined not yet, or was heard of longest ago.

    None where there is none, or a part has none.
    """
    if cluster.kind is ClusterKind.REPLICA_SET:
        return catalog.heads.find(cluster.id)
    heads = [catalog.heads.find(part.id) for part in catalog.clusters.list_parts(cluster.id)]
    known = [head for head in heads if head is not None]
    if not known or len(known) < len(heads):
        return None
    return min(known, key=lambda head: (head.joined_once, head.updated))
