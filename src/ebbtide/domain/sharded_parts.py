"""Which replica sets a sharded cluster consisted of at a moment, as far as its registration tells. Pure."""

from collections.abc import Mapping, Sequence

from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.optime import OplogTimestamp


def parts_at(
    parts: Sequence[Cluster], reached: Mapping[ClusterId, OplogTimestamp], *, at: OplogTimestamp
) -> list[Cluster]:
    """Those of `parts`, live and removed, that were parts at `at`; `reached` is how far each archive goes.

    A shard that was added later was registered later; the archive of one that was removed ends when it left.
    """
    return [
        part
        for part in parts
        if int(part.created.timestamp()) <= at.seconds
        and (part.state is not ClusterState.REMOVED or at <= reached.get(part.id, OplogTimestamp(0, 0)))
    ]
