"""The credentials of a head and its set: connections use those that the catalog has, and so does the running mongod.

A mongod reads its keyfile once, when it starts; so another keyfile is a restart, which waits for a lock to end.

Crash: the file is compared with the catalog at every look, and a start writes it, so a change is not missed.
"""

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.backup.head_files import keyfile_is_current
from ebbtide.backup.head_handle import HeadHandle
from ebbtide.domain.cluster import Cluster, Head, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.sealed import Sealed

Login = tuple[str | None, str, Sealed | None]


class HeadCredentials:
    """Keeps one head's credentials current."""

    def __init__(self, handle: HeadHandle) -> None:
        self._handle = handle
        self._login: Login | None = None
        self._keyfile: Sealed | None = None

    def tend(self, cluster: Cluster, head: Head, access: ClusterAccess) -> bool:
        """Log in as the catalog says from now on. True while the head runs with another keyfile than it should."""
        login = (cluster.username, cluster.auth_source, cluster.password)
        if login != self._login:
            # Open ones would go on as who they logged in as, and fail, at any later time, to connect anew.
            self._handle.close_clients()
            self._login = login
        if cluster.keyfile == self._keyfile or keyfile_is_current(self._handle.place, access):
            self._keyfile = cluster.keyfile
            return False
        if head.lock_job_id is None:
            self._start_with_it(cluster)
        return True

    def _start_with_it(self, cluster: Cluster) -> None:
        message = "its set has another keyfile; it is being started with it"
        self._handle.set_state(HeadState.DOWN, message)
        self._handle.event(cluster, EventLevel.INFO, "head.keyfile_changed", f"{cluster.name}: {message}")
        self._handle.stop_to_start_again()
