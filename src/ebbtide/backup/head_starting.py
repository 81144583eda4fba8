"""Starting a head's mongod, and giving it its data again where its files are gone, damaged or too old.

    files gone        `HeadRebuild` lays down a snapshot, or leaves an empty dbpath to initial sync
    files damaged     so many starts in a row must fail over them, then they are removed
    files too old     the head fell off the oplog: it is stopped and its files are removed

What is removed is built anew by the next start.

Crash: a dbpath without the file `WiredTiger` counts as none; a mongod that runs already is found by its identity file.
"""

import structlog

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.backup.head_files import head_options, write_secrets
from ebbtide.backup.head_handle import HeadHandle
from ebbtide.backup.head_version import head_binary
from ebbtide.backup.reseed import HeadRebuild, has_files, is_too_stale, log_length, read_log_from, wipe
from ebbtide.crash_points import reach
from ebbtide.domain.cluster import Cluster, Head, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.replica_set import initial_sync_preference
from ebbtide.domain.reseed import says_damaged
from ebbtide.errors import EbbtideError, MongodStartFailed, Unreachable
from ebbtide.mongod import deployment
from ebbtide.mongod.options import MongodOptions
from ebbtide.mongod.process import MongodProcess

STALE_CHECK_SECONDS = 10.0
DAMAGED_STARTS_MAX = 2
"""So many starts in a row must fail over unreadable files before they are replaced."""
RESTART_DELAY_MAX_SECONDS = 30.0
READY_SECONDS = 60.0

_STOPPED_KNOWINGLY = (HeadState.DOWN, HeadState.TOO_STALE, HeadState.RESEEDING)
"""States in which a head without a mongod is no news."""

_log = structlog.get_logger()


class HeadStarting:
    """How one head comes to run, with data that its set can bring up to date."""

    def __init__(self, handle: HeadHandle) -> None:
        self._handle = handle
        self._context = handle.context
        self._clock = handle.clock
        self._stale_at = float("-inf")
        self._damaged_starts = 0

    def start(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        """Start the mongod, unless it was started just now. Raises MongodError, and what a rebuild raises."""
        if head.joined_once and head.state not in _STOPPED_KNOWINGLY:
            self._say_down(cluster)
        if self._clock.monotonic() < self._handle.restart_at:
            return
        delay = min(RESTART_DELAY_MAX_SECONDS, 2.0 ** min(head.restarts, 5))
        self._handle.restart_at = self._clock.monotonic() + delay
        binary = head_binary(cluster, settings=self._context.settings)
        if head.joined_once and not has_files(self._handle.place / "db"):
            rebuild = HeadRebuild(
                cluster, head, context=self._context, access=access, stopping=self._handle.stopping
            )
            rebuild.run()
        write_secrets(self._handle.place, access)
        options = self._options(cluster, head, access)
        log_start_bytes = log_length(options.log_path)
        try:
            self._handle.process = MongodProcess.start(
                binary, options, identity_path=self._handle.identity_path, ready_seconds=READY_SECONDS
            )
        except MongodStartFailed:
            self._count_damaged_start(cluster, head, read_log_from(options.log_path, log_start_bytes))
            raise
        self._damaged_starts = 0
        # A head that died alone has lost its lock; one that we find later may still hold it.
        self._handle.lock_recovered = False
        reach("head.started")
        if head.joined_once:
            self._handle.update(restarts=head.restarts + 1)
            message = f"the head of {cluster.name} runs again"
            self._handle.event(cluster, EventLevel.INFO, "head.restarted", message)

    def replace_if_stale(self, cluster: Cluster, head: Head, access: ClusterAccess) -> bool:
        """Whether the head fell off the oplog; then it is stopped, and its files are gone."""
        if self._clock.monotonic() - self._stale_at < STALE_CHECK_SECONDS:
            return False
        self._stale_at = self._clock.monotonic()
        try:
            if not is_too_stale(head, access=access, head_client=self._handle.head_client(access)):
                return False
        except (deployment.DeploymentError, Unreachable) as error:
            # It knows no users before initial sync has brought them: log in anew next time.
            self._handle.close_clients()
            _log.info("head.staleness_not_asked", cluster_id=cluster.id, message=error.message)
            return False
        message = "the set's oplog does not reach back to where the head stopped; its files are replaced"
        self._handle.set_state(HeadState.TOO_STALE, message)
        self._handle.event(cluster, EventLevel.WARNING, "head.too_stale", f"{cluster.name}: {message}")
        self._handle.stop_to_start_again()
        wipe(self._handle.place / "db")
        return True

    def _say_down(self, cluster: Cluster) -> None:
        self._handle.set_state(HeadState.DOWN, "its mongod is not running; it is being started again")
        message = f"the head of {cluster.name} is not running"
        self._handle.event(cluster, EventLevel.WARNING, "head.down", message)

    def _options(self, cluster: Cluster, head: Head, access: ClusterAccess) -> MongodOptions:
        return head_options(
            cluster,
            head,
            directory=self._handle.place,
            cache_gb=self._context.settings.number("head.cache_gb"),
            sync_preference=self._sync_preference(access),
        )

    def _sync_preference(self, access: ClusterAccess) -> str:
        try:
            return initial_sync_preference(deployment.get_configuration(self._handle.set_client(access)))
        except EbbtideError:
            # A set that has no primary now must not keep a head from starting that has its data already.
            return "secondaryPreferred"

    def _count_damaged_start(self, cluster: Cluster, head: Head, log: str) -> None:
        """Files that cannot be read, twice in a row, are removed: the next look gives the head its data anew."""
        self._damaged_starts = self._damaged_starts + 1 if says_damaged(log) else 0
        if not head.joined_once or self._damaged_starts < DAMAGED_STARTS_MAX:
            return
        self._handle.event(
            cluster,
            EventLevel.WARNING,
            "head.files_damaged",
            f"the files of the head of {cluster.name} cannot be read and are replaced; its mongod.log says more",
        )
        wipe(self._handle.place / "db")
        self._damaged_starts, self._handle.restart_at = 0, float("-inf")
