"""A head's end: out of its set, then its mongod stops, then its files go, and with that the cluster is removed.

In this order the set never counts on a member that is gone for good.

Crash: each step is done again where it was not recorded, and is harmless then.
"""

import shutil

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.backup.head_handle import HeadHandle
from ebbtide.crash_points import reach
from ebbtide.domain.cluster import Cluster, ClusterState, Head, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.replica_set import plan_remove_head
from ebbtide.errors import HeadUnavailable
from ebbtide.mongod import deployment


def leave(handle: HeadHandle, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
    """Take the head out of its set and end it. Raises EbbtideError where the set does not let it go now."""
    handle.set_state(HeadState.LEAVING, "it is being taken out of the set")
    take_out(handle, head, access)
    reach("head.left")
    _end(handle, cluster)


def detach(handle: HeadHandle, cluster: Cluster) -> None:
    """Let go of a head whose set, or whose machine, is lost: nobody is asked."""
    handle.ready.clear()
    handle.set_state(HeadState.LEAVING, "it is let go without its set being asked")
    _end(handle, cluster)


def finish_removal(handle: HeadHandle, cluster: Cluster) -> None:
    """Say that the cluster is removed; its head is gone."""
    handle.catalog.clusters.set_state(cluster.id, ClusterState.REMOVED)
    message = f"{cluster.name} is removed; its last snapshot stays"
    handle.event(cluster, EventLevel.INFO, "cluster.removed", message)


def take_out(handle: HeadHandle, head: Head, access: ClusterAccess) -> None:
    """Take the head out of its set's configuration; harmless where it is not in it. Raises HeadUnavailable."""
    try:
        deployment.reconfigure(
            handle.set_client(access), lambda c: plan_remove_head(c, host=head.host, port=head.port)
        )
    except ValueError as error:
        raise HeadUnavailable(
            f"the head is not taken out of its set: {error}",
            hint="give it votes: 0 and priority: 0 with rs.reconfig(), and it leaves by itself",
        ) from error


def _end(handle: HeadHandle, cluster: Cluster) -> None:
    """End the head's mongod, remove its files, and with that the cluster."""
    handle.find_process()
    handle.stop_process()
    shutil.rmtree(handle.place, ignore_errors=True)
    reach("head.files_removed")
    handle.set_state(HeadState.GONE, "")
    finish_removal(handle, cluster)
