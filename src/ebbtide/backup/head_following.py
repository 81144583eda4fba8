"""A head that runs and is a member: how far its copy is, how far it lags, and whether its mongod is still the right one.

Snapshot jobs are claimed only while `HeadHandle.ready` is set, which is done here and nowhere else.
"""

from pathlib import Path
from typing import Any

import structlog

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.backup.head_handle import HeadHandle
from ebbtide.backup.head_version import head_binary, look_at_version, runs_another
from ebbtide.domain.cluster import Cluster, Head, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.replica_set import join_host_port, member_lag_seconds
from ebbtide.errors import HeadUnavailable, MongodBinaryMissing, Unreachable
from ebbtide.mongod import deployment
from ebbtide.mongod.process import MongodProcess

Document = dict[str, Any]

VERSION_CHECK_SECONDS = 30.0

_log = structlog.get_logger()


class HeadFollowing:
    """What there is to do for a head that its set keeps in step."""

    def __init__(self, handle: HeadHandle) -> None:
        self._handle = handle
        self._version_at = float("-inf")
        self._said_missing = ""

    def watch_sync(self, head: Head) -> None:
        """Record how far initial sync, or catching up, is."""
        if head.state in (HeadState.RESEEDING, HeadState.TOO_STALE):
            return
        if head.state is HeadState.DOWN:
            self._handle.update(message="its mongod runs again and catches up")
            return
        # Files shrink now and then; progress that was told does not.
        done = max(_bytes_below(self._handle.place / "db"), head.sync_done_bytes or 0)
        total = head.sync_total_bytes
        self._handle.update(sync_done_bytes=min(done, total) if total else done)

    def follow(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        """Record the lag of a secondary; from then on snapshots may be taken. Raises HeadUnavailable."""
        lag = self._measure_lag(head, access)
        if head.state is HeadState.FOLLOWING:
            self._handle.update(lag_seconds=lag, message="")
        else:
            was_syncing = head.state in (HeadState.SYNCING, HeadState.RESEEDING)
            self._handle.set_state(
                HeadState.FOLLOWING, "", lag_seconds=lag, sync_done_bytes=head.sync_total_bytes
            )
            if was_syncing:
                message = f"the head of {cluster.name} follows its set"
                self._handle.event(cluster, EventLevel.INFO, "head.synced", message)
        if not self._tend_version(cluster, head, access):
            self._handle.ready.set()

    def _measure_lag(self, head: Head, access: ClusterAccess) -> float | None:
        try:
            status = deployment.run_admin(self._handle.head_client(access), "replSetGetStatus")
        except deployment.DeploymentError as error:
            if error.code == deployment.AUTHENTICATION_FAILED:
                # The users arrive with the data: log in anew next time.
                self._handle.close_clients()
            raise HeadUnavailable(f"the head cannot be asked: {error.message}") from error
        return member_lag_seconds(status, join_host_port(head.host, head.port))

    # --- the right mongod -----------------------------------------------------------------------------------------

    def _tend_version(self, cluster: Cluster, head: Head, access: ClusterAccess) -> bool:
        """Look which version the set runs; whether the head was stopped to go on with another mongod."""
        process = self._handle.process
        if process is None:
            return False
        cluster = self._look_at_version(cluster, process, access)
        binary = self._find_binary(cluster, process)
        if binary is None or head.lock_job_id is not None or not runs_another(process.identity, binary):
            return False
        self._handle.ready.clear()
        self._handle.set_state(HeadState.DOWN, f"it is being started again with {binary}")
        message = f"the head of {cluster.name} goes over to {binary}, from mongod {process.version}"
        self._handle.event(cluster, EventLevel.INFO, "head.mongod_changed", message)
        self._handle.stop_to_start_again()
        return True

    def _look_at_version(self, cluster: Cluster, process: MongodProcess, access: ClusterAccess) -> Cluster:
        """The cluster as its set is now, or as it is recorded where the set was asked just now or does not answer."""
        clock = self._handle.clock
        if clock.monotonic() - self._version_at <= VERSION_CHECK_SECONDS:
            return cluster
        self._version_at = clock.monotonic()
        try:
            return look_at_version(
                cluster,
                running_version=process.version,
                set_client=self._handle.set_client(access),
                context=self._handle.context,
            )
        except (deployment.DeploymentError, Unreachable) as error:
            # A set without a primary is no reason not to take snapshots.
            _log.info("head.version_not_asked", cluster_id=cluster.id, message=error.message)
            return cluster

    def _find_binary(self, cluster: Cluster, process: MongodProcess) -> Path | None:
        """The mongod that the head should run; None, said once, where there is none: then it goes on as it is."""
        try:
            binary = head_binary(cluster, settings=self._handle.context.settings)
        except MongodBinaryMissing as error:
            if self._said_missing != error.message:
                self._said_missing = error.message
                message = f"the head of {cluster.name} goes on with mongod {process.version}: {error}"
                self._handle.event(cluster, EventLevel.WARNING, "head.mongod_missing", message)
            return None
        self._said_missing = ""
        return binary


def _bytes_below(directory: Path) -> int:
    """Bytes that data files take below `directory`; files that vanish meanwhile count as nothing."""
    total = 0
    for path in directory.rglob("*.wt"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
