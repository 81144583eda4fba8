"""Keeping one head: start → join → follow, restart it when it dies, and take it out of its set in the end.

A keeper holds the head's lease and acts alone. It looks at what is there (process, set, catalog), asks
`decide_head_action` for the next step, does that, and looks again; so a crash anywhere is taken up from what is there.

Files of a head, in heads/<cluster id>/:  db/ (dbpath)  mongod.log  mongod.json (identity)  and those of head_files

Threads: `tick` is called by the keeper's own thread; `is_ready` and `stop` from others.
"""

import shutil
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ebbtide.backup.context import BackupContext
from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.backup.head_files import head_options, secrets_are_current, write_secrets
from ebbtide.backup.head_lock import unlock_wholly
from ebbtide.backup.head_version import head_binary, look_at_version, runs_another
from ebbtide.backup.reseed import HeadRebuild, has_files, is_too_stale, log_length, read_log_from, wipe
from ebbtide.crash_points import reach
from ebbtide.domain.cluster import Cluster, ClusterState, Head, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.head import HeadAction, HeadSight, certificate_warning_due, decide_head_action
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.replica_set import (
    find_in_status,
    find_member,
    hosts_without_our_user,
    initial_sync_preference,
    join_host_port,
    plan_add_head,
    plan_remove_head,
    voting_hosts,
)
from ebbtide.domain.reseed import says_damaged
from ebbtide.domain.sealed import Sealed
from ebbtide.errors import (
    EbbtideError,
    HeadUnavailable,
    LeaseLost,
    MongodBinaryMissing,
    MongodDied,
    MongodError,
    MongodStartFailed,
    Unreachable,
)
from ebbtide.events import record_event
from ebbtide.mongod import deployment
from ebbtide.mongod.process import MongodProcess

Document = dict[str, Any]

LEASE = timedelta(seconds=15)
TICK_SECONDS = 1.0
LISTED_CHECK_SECONDS = 30.0
VERSION_CHECK_SECONDS = 30.0
STALE_CHECK_SECONDS = 10.0
DAMAGED_STARTS_MAX = 2
"""So many starts in a row must fail over unreadable files before they are replaced."""
LISTED_CHECK_AGAIN_SECONDS = 2.0
"""While the head is no secondary: that may be because it was taken out."""
RESTART_DELAY_MAX_SECONDS = 30.0
STOP_SECONDS = 10.0

_STOPPED_KNOWINGLY = (HeadState.DOWN, HeadState.TOO_STALE, HeadState.RESEEDING)
"""States in which a head without a mongod is no news."""

_log = structlog.get_logger()


class HeadKeeper:
    """Looks after the head of one cluster for as long as this worker holds its lease."""

    def __init__(self, cluster_id: ClusterId, context: BackupContext) -> None:
        self.cluster_id = cluster_id
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._process: MongodProcess | None = None
        self._lock_recovered = False
        self._listed: bool | None = None
        self._listed_at = float("-inf")
        self._restart_at = float("-inf")
        self._set_client: MongoClient[Document] | None = None
        self._head_client: MongoClient[Document] | None = None
        self._anonymous_client: MongoClient[Document] | None = None
        self._total_bytes: int | None = None
        self._shown: Sealed | None = None
        self._version_at = float("-inf")
        self._stale_at = float("-inf")
        self._damaged_starts = 0
        self._said_missing = ""

    # --- from other threads -------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether the head is ours, running and following: snapshot jobs of this cluster may be claimed."""
        return self._ready.is_set()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def run(self) -> None:
        """Keep the head until `stop`. Never raises for what the head or its set does."""
        while not self._stopping.is_set():
            try:
                if not self.tick():
                    break
            except LeaseLost as error:
                _log.warning("head.lease_lost", cluster_id=self.cluster_id, message=str(error))
                break
            except EbbtideError as error:
                self._ready.clear()
                _log.warning("head.trouble", cluster_id=self.cluster_id, message=str(error))
                self._note_trouble(error)
            except (OSError, PyMongoError) as error:
                # What was not translated at its boundary (a full disk, say) must not end the keeper unseen.
                self._ready.clear()
                _log.error("head.trouble", cluster_id=self.cluster_id, exc_info=error)
                self._note_trouble(HeadUnavailable(f"{type(error).__name__}: {error}"))
            self._stopping.wait(TICK_SECONDS)
        self._ready.clear()
        self._close_clients()

    def stop(self) -> None:
        """Ask `run` to return; the head's mongod goes on running."""
        self._stopping.set()

    def stop_mongod(self) -> None:
        """Stop the head's mongod, for a worker that shuts down. Call it after `run` has returned."""
        self._note_stop()
        process = self._process or MongodProcess.find_running(self._identity_path())
        if process is not None:
            process.stop(timeout_seconds=STOP_SECONDS)

    def _note_stop(self) -> None:
        """Say that it is we who stop the head, so that the next start does not take it for an accident."""
        try:
            head = self._catalog.heads.find(self.cluster_id)
            if head is not None and head.state is HeadState.FOLLOWING:
                self._set_state(HeadState.DOWN, "it was stopped together with Ebbtide")
        except EbbtideError as error:
            _log.debug("head.stop_not_recorded", cluster_id=self.cluster_id, message=str(error))

    # --- one look ------------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Look and act once; False when there is nothing left to keep."""
        cluster = self._catalog.clusters.find(self.cluster_id)
        now = self._clock.now()
        head = self._catalog.heads.claim(
            self.cluster_id, worker_id=self._context.worker_id, now=now, until=now + LEASE
        )
        if head is None:
            raise LeaseLost("another worker keeps this head")
        if cluster is None or (cluster.state is ClusterState.REMOVED and head.state is HeadState.GONE):
            return False
        if head.state is HeadState.GONE and cluster.state is ClusterState.REMOVING:
            # Its keeper went no further than that, or the catalog did not answer.
            self._finish_removal(cluster)
            return False
        if cluster.is_detached:
            self._detach(cluster)
            return False
        access = self._context.access(cluster)
        action = decide_head_action(
            is_wanted=cluster.state is ClusterState.ACTIVE,
            state=head.state,
            joined_once=head.joined_once,
            sight=self._look(cluster, head, access),
            may_rejoin=head.rejoin_wanted or head.put_back is None,
        )
        if action is not HeadAction.FOLLOW:
            self._ready.clear()
        match action:
            case HeadAction.NOTHING:
                pass
            case HeadAction.START:
                self._start(cluster, head, access)
            case HeadAction.JOIN:
                self._join(cluster, head, access)
            case HeadAction.WATCH_SYNC:
                self._watch_sync(cluster, head, access)
            case HeadAction.FOLLOW:
                self._follow(cluster, head, access)
            case HeadAction.LEAVE:
                self._leave(cluster, head, access)
            case HeadAction.REJOIN:
                self._rejoin(cluster, head, access)
            case HeadAction.REPORT_DROPPED:
                self._report_dropped(cluster)
        return True

    def _look(self, cluster: Cluster, head: Head, access: ClusterAccess) -> HeadSight:
        if self._process is None:
            self._process = MongodProcess.find_running(self._identity_path())
        running = self._process is not None and self._process.is_running()
        if not running:
            self._process = None
            self._shown = None
            if head.state is HeadState.REMOVED:
                self._check_listed(head, access, after_seconds=LISTED_CHECK_SECONDS)
            return HeadSight(is_running=False, is_listed=self._listed, is_secondary=False)
        if not self._lock_recovered:
            self._recover_lock(head, access)
        self._tend_certificate(cluster, head, access)
        hello: Document = {}
        try:
            hello = deployment.run_admin(self._head(access), "hello")
        except EbbtideError as error:
            _log.debug("head.no_answer", cluster_id=cluster.id, message=str(error))
        is_secondary = bool(hello.get("secondary", False))
        if head.joined_once and cluster.state is ClusterState.ACTIVE:
            follows = is_secondary or head.state is HeadState.SYNCING
            self._check_listed(
                head, access, after_seconds=LISTED_CHECK_SECONDS if follows else LISTED_CHECK_AGAIN_SECONDS
            )
        return HeadSight(is_running=True, is_listed=self._listed, is_secondary=is_secondary)

    def _tend_certificate(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        """Let the head show the certificate that the catalog has, and warn before it ends."""
        if cluster.tls_certificate is None:
            return
        if cluster.tls_certificate != self._shown:
            directory = self._directory(cluster)
            if not secrets_are_current(directory, access):
                write_secrets(directory, access)
                self._show_certificate(access)
                self._update(certificate_warned=None)
                message = f"the head of {cluster.name} shows another certificate"
                self._event(cluster, EventLevel.INFO, "head.certificate_renewed", message)
            self._shown = cluster.tls_certificate
        now = self._clock.now()
        if cluster.tls_expires is not None and certificate_warning_due(
            expires=cluster.tls_expires, warned=head.certificate_warned, now=now
        ):
            self._update(certificate_warned=now)
            self._event(
                cluster,
                EventLevel.WARNING,
                "head.certificate_expires",
                f"the certificate of the head of {cluster.name} ends at {cluster.tls_expires:%Y-%m-%d %H:%M} UTC; "
                f"give it another: ebbtide clusters certificate {cluster.name} --tls-certificate FILE",
            )

    def _show_certificate(self, access: ClusterAccess) -> None:
        """Have the running head read its certificate again, with a restart where it cannot otherwise."""
        self._close_clients()
        try:
            deployment.run_admin(self._head(access, login=True), "rotateCertificates")
        except EbbtideError as error:
            _log.info("head.certificate_not_rotated", cluster_id=self.cluster_id, message=str(error))
            if self._process is not None:
                self._process.stop(timeout_seconds=STOP_SECONDS)

    def _check_listed(self, head: Head, access: ClusterAccess, *, after_seconds: float) -> None:
        """Ask the set whether it lists the head, unless that was asked less than `after_seconds` ago."""
        if self._clock.monotonic() - self._listed_at > after_seconds:
            self._listed = self._ask_listed(head, access)
            self._listed_at = self._clock.monotonic()

    def _ask_listed(self, head: Head, access: ClusterAccess) -> bool | None:
        try:
            configuration = deployment.get_configuration(self._set(access))
        except EbbtideError:
            return None
        return find_member(configuration, head.host, head.port) is not None

    def _recover_lock(self, head: Head, access: ClusterAccess) -> None:
        """Undo a lock that a worker before us left: the catalog says that there may be one."""
        if head.lock_job_id is not None:
            client = access.head_client(timeout_seconds=5)
            try:
                undone = unlock_wholly(client)
            finally:
                client.close()
            self._update(lock_job_id=None)
            _log.info("head.lock_recovered", cluster_id=self.cluster_id, locks=undone)
        self._lock_recovered = True

    # --- actions --------------------------------------------------------------------------------------------------

    def _start(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        if head.joined_once and head.state not in _STOPPED_KNOWINGLY:
            self._set_state(HeadState.DOWN, "its mongod is not running; it is being started again")
            self._event(
                cluster, EventLevel.WARNING, "head.down", f"the head of {cluster.name} is not running"
            )
        if self._clock.monotonic() < self._restart_at:
            return
        delay = min(RESTART_DELAY_MAX_SECONDS, 2.0 ** min(head.restarts, 5))
        self._restart_at = self._clock.monotonic() + delay
        binary = head_binary(cluster, settings=self._context.settings)
        directory = self._directory(cluster)
        if head.joined_once and not has_files(directory / "db"):
            HeadRebuild(cluster, head, context=self._context, access=access, stopping=self._stopping).run()
        write_secrets(directory, access)
        options = head_options(
            cluster,
            head,
            directory=directory,
            cache_gb=self._context.settings.number("head.cache_gb"),
            sync_preference=self._sync_preference(access),
        )
        # A head that died alone has lost its lock; one that we find later may still hold it.
        log_start_bytes = log_length(options.log_path)
        try:
            self._process = MongodProcess.start(
                binary, options, identity_path=self._identity_path(), ready_seconds=60
            )
        except MongodStartFailed:
            self._count_damaged_start(cluster, head, read_log_from(options.log_path, log_start_bytes))
            raise
        self._damaged_starts = 0
        self._lock_recovered = False
        reach("head.started")
        if head.joined_once:
            self._update(restarts=head.restarts + 1)
            self._event(cluster, EventLevel.INFO, "head.restarted", f"the head of {cluster.name} runs again")

    def _count_damaged_start(self, cluster: Cluster, head: Head, log: str) -> None:
        """Files that cannot be read, twice in a row, are removed: the next look gives the head its data anew."""
        self._damaged_starts = self._damaged_starts + 1 if says_damaged(log) else 0
        if not head.joined_once or self._damaged_starts < DAMAGED_STARTS_MAX:
            return
        self._event(
            cluster,
            EventLevel.WARNING,
            "head.files_damaged",
            f"the files of the head of {cluster.name} cannot be read and are replaced; its mongod.log says more",
        )
        wipe(self._directory(cluster) / "db")
        self._damaged_starts, self._restart_at = 0, float("-inf")

    def _tend_version(self, cluster: Cluster, head: Head, access: ClusterAccess) -> bool:
        """Look which version the set runs; whether the head was stopped to go on with another mongod."""
        process = self._process
        if process is None:
            return False
        if self._clock.monotonic() - self._version_at > VERSION_CHECK_SECONDS:
            self._version_at = self._clock.monotonic()
            try:
                cluster = look_at_version(
                    cluster,
                    running_version=process.version,
                    set_client=self._set(access),
                    context=self._context,
                )
            except (deployment.DeploymentError, Unreachable) as error:
                # A set without a primary is no reason not to take snapshots.
                _log.info("head.version_not_asked", cluster_id=cluster.id, message=error.message)
        try:
            binary = head_binary(cluster, settings=self._context.settings)
        except MongodBinaryMissing as error:
            if self._said_missing != error.message:
                self._said_missing = error.message
                message = f"the head of {cluster.name} goes on with mongod {process.version}: {error}"
                self._event(cluster, EventLevel.WARNING, "head.mongod_missing", message)
            return False
        self._said_missing = ""
        if head.lock_job_id is not None or not runs_another(process.identity, binary):
            return False
        self._ready.clear()
        self._set_state(HeadState.DOWN, f"it is being started again with {binary}")
        message = f"the head of {cluster.name} goes over to {binary}, from mongod {process.version}"
        self._event(cluster, EventLevel.INFO, "head.mongod_changed", message)
        process.stop(timeout_seconds=STOP_SECONDS)
        self._process, self._restart_at = None, float("-inf")
        return True

    def _replace_if_stale(self, cluster: Cluster, head: Head, access: ClusterAccess) -> bool:
        """Whether the head fell off the oplog; then it is stopped, and its files are gone."""
        if self._clock.monotonic() - self._stale_at < STALE_CHECK_SECONDS:
            return False
        self._stale_at = self._clock.monotonic()
        try:
            if not is_too_stale(head, access=access, head_client=self._head(access, login=True)):
                return False
        except (deployment.DeploymentError, Unreachable) as error:
            # It knows no users before initial sync has brought them: log in anew next time.
            self._close_clients()
            _log.info("head.staleness_not_asked", cluster_id=cluster.id, message=error.message)
            return False
        message = "the set's oplog does not reach back to where the head stopped; its files are replaced"
        self._set_state(HeadState.TOO_STALE, message)
        self._event(cluster, EventLevel.WARNING, "head.too_stale", f"{cluster.name}: {message}")
        if self._process is not None:
            self._process.stop(timeout_seconds=STOP_SECONDS)
        wipe(self._directory(cluster) / "db")
        self._process, self._restart_at = None, float("-inf")
        return True

    def _sync_preference(self, access: ClusterAccess) -> str:
        try:
            return initial_sync_preference(deployment.get_configuration(self._set(access)))
        except EbbtideError:
            # A set that has no primary now must not keep a head from starting that has its data already.
            return "secondaryPreferred"

    def _join(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        self._set_state(HeadState.JOINING, "the set is being asked to take the head")
        self._total_bytes = deployment.data_bytes(self._set(access))
        deployment.reconfigure(self._set(access), lambda c: plan_add_head(c, host=head.host, port=head.port))
        reach("head.joined")
        problems = self._find_unreached(head, access)
        if problems:
            self._take_out(head, access)
            self._fail(
                cluster,
                "the head was taken out of the set again: "
                + "; ".join(problems)
                + ". Register the cluster again "
                "with --head-host, a name of this machine that every member can resolve and reach",
            )
            return
        configuration = deployment.get_configuration(self._set(access))
        member = find_member(configuration, head.host, head.port)
        self._listed, self._listed_at = True, self._clock.monotonic()
        self._set_state(
            HeadState.SYNCING,
            "initial sync copies the data",
            joined_once=True,
            member_id=int(member["_id"]) if member is not None else None,
            sync_started=self._clock.now(),
            sync_done_bytes=0,
            sync_total_bytes=self._total_bytes,
        )
        self._event(
            cluster,
            EventLevel.INFO,
            "head.joined",
            f"the head of {cluster.name} is a hidden member of the set: {join_host_port(head.host, head.port)}",
        )

    def _find_unreached(self, head: Head, access: ClusterAccess) -> list[str]:
        """Who could not reach the head within the time that the settings give, one sentence each."""
        deadline = self._clock.monotonic() + self._context.settings.number("head.reach_seconds")
        address = join_host_port(head.host, head.port)
        configuration = deployment.get_configuration(self._set(access))
        without_user = hosts_without_our_user(configuration)
        waiting = {host: f"{host} does not list it yet" for host in voting_hosts(configuration)}
        while waiting and self._clock.monotonic() < deadline and not self._stopping.is_set():
            if self._process is None or not self._process.is_running():
                raise MongodDied("the head's mongod ended while it joined; it is started again")
            for host in list(waiting):
                problem = self._ask_reaches(host, address, access, as_fellow=host in without_user)
                if problem is None:
                    del waiting[host]
                else:
                    waiting[host] = problem
            if waiting:
                self._renew_lease()
                self._stopping.wait(0.3)
        if self._stopping.is_set() and waiting:
            raise HeadUnavailable("the worker stops")
        return sorted(waiting.values())

    def _ask_reaches(self, host: str, address: str, access: ClusterAccess, *, as_fellow: bool) -> str | None:
        """None if the member `host` reaches the head at `address`, else a sentence."""
        connect = access.arbiter_client if as_fellow else access.member_client
        client = connect(host, timeout_seconds=3)
        try:
            seen = find_in_status(deployment.run_admin(client, "replSetGetStatus"), address)
        except EbbtideError as error:
            return f"{host} could not be asked whether it reaches {address} ({error.message})"
        finally:
            client.close()
        if seen is None:
            return f"{host} does not list {address} yet"
        if seen.get("health") == 1:
            return None
        reason = seen.get("lastHeartbeatMessage") or "no heartbeat was answered"
        return f"{host} could not reach the head at {address} ({reason})"

    def _rejoin(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        """Put back a head that somebody else took out.

        Crash: the wish stays until it is done, and what Ebbtide does by itself is noted first, so it happens once.
        """
        by_itself = not head.rejoin_wanted
        if by_itself:
            self._update(put_back=self._clock.now(), rejoin_wanted=True)
        deployment.reconfigure(self._set(access), lambda c: plan_add_head(c, host=head.host, port=head.port))
        configuration = deployment.get_configuration(self._set(access))
        member = find_member(configuration, head.host, head.port)
        self._listed, self._listed_at = True, self._clock.monotonic()
        self._set_state(
            HeadState.DOWN,
            "it is a member again, and catches up",
            rejoin_wanted=False,
            member_id=int(member["_id"]) if member is not None else head.member_id,
        )
        if by_itself:
            self._event(
                cluster,
                EventLevel.WARNING,
                "head.put_back",
                f"somebody took the head of {cluster.name} out of its set; it was put back, this once",
            )
        else:
            self._event(
                cluster, EventLevel.INFO, "head.rejoined", f"the head of {cluster.name} is a member again"
            )

    def _report_dropped(self, cluster: Cluster) -> None:
        message = (
            "somebody took the head out of its set, and it stays out until it is asked back: "
            f"ebbtide clusters rejoin {cluster.name}"
        )
        self._set_state(HeadState.REMOVED, message)
        self._event(cluster, EventLevel.ERROR, "head.removed", f"{cluster.name}: {message}")

    def _watch_sync(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        if self._replace_if_stale(cluster, head, access):
            return
        if head.state in (HeadState.RESEEDING, HeadState.TOO_STALE):
            return
        if head.state is HeadState.DOWN:
            self._update(message="its mongod runs again and catches up")
            return
        # Files shrink now and then; progress that was told does not.
        done = max(_bytes_below(self._directory(cluster) / "db"), head.sync_done_bytes or 0)
        total = head.sync_total_bytes
        self._update(sync_done_bytes=min(done, total) if total else done)

    def _follow(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        try:
            lag = _lag_seconds(deployment.run_admin(self._head(access, login=True), "replSetGetStatus"), head)
        except deployment.DeploymentError as error:
            if error.code == deployment.AUTHENTICATION_FAILED:
                # The users arrive with the data: log in anew next time.
                self._close_clients()
            raise HeadUnavailable(f"the head cannot be asked: {error.message}") from error
        if head.state is HeadState.FOLLOWING:
            self._update(lag_seconds=lag, message="")
        else:
            was_syncing = head.state in (HeadState.SYNCING, HeadState.RESEEDING)
            self._set_state(
                HeadState.FOLLOWING,
                "",
                lag_seconds=lag,
                sync_done_bytes=head.sync_total_bytes,
            )
            if was_syncing:
                self._event(
                    cluster, EventLevel.INFO, "head.synced", f"the head of {cluster.name} follows its set"
                )
        if not self._tend_version(cluster, head, access):
            self._ready.set()

    def _leave(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        self._set_state(HeadState.LEAVING, "it is being taken out of the set")
        if self._process is None:
            self._process = MongodProcess.find_running(self._identity_path())
        self._take_out(head, access)
        reach("head.left")
        self._end(cluster)

    def _detach(self, cluster: Cluster) -> None:
        """Let go of a head whose set, or whose machine, is lost: nobody is asked."""
        self._ready.clear()
        self._set_state(HeadState.LEAVING, "it is let go without its set being asked")
        self._process = self._process or MongodProcess.find_running(self._identity_path())
        self._end(cluster)

    def _end(self, cluster: Cluster) -> None:
        """End the head's mongod, remove its files, and with that the cluster."""
        if self._process is not None:
            self._process.stop(timeout_seconds=STOP_SECONDS)
        shutil.rmtree(self._directory(cluster), ignore_errors=True)
        reach("head.files_removed")
        self._set_state(HeadState.GONE, "")
        self._finish_removal(cluster)

    def _take_out(self, head: Head, access: ClusterAccess) -> None:
        """Take the head out of its set's configuration; harmless where it is not in it."""
        try:
            deployment.reconfigure(
                self._set(access), lambda c: plan_remove_head(c, host=head.host, port=head.port)
            )
        except ValueError as error:
            raise HeadUnavailable(
                f"the head is not taken out of its set: {error}",
                hint="give it votes: 0 and priority: 0 with rs.reconfig(), and it leaves by itself",
            ) from error

    def _finish_removal(self, cluster: Cluster) -> None:
        self._catalog.clusters.set_state(cluster.id, ClusterState.REMOVED)
        self._event(
            cluster, EventLevel.INFO, "cluster.removed", f"{cluster.name} is removed; its last snapshot stays"
        )

    # --- records --------------------------------------------------------------------------------------------------

    def _fail(self, cluster: Cluster, message: str) -> None:
        self._set_state(HeadState.FAILED, message)
        self._event(cluster, EventLevel.ERROR, "head.failed", f"the head of {cluster.name} failed: {message}")

    def _set_state(self, state: HeadState, message: str, **changes: Any) -> None:
        head = self._catalog.heads.find(self.cluster_id)
        if head is not None and head.state is not state:
            changes["state_since"] = self._clock.now()
        self._update(state=state, message=message, **changes)

    def _update(self, **changes: Any) -> None:
        updated = self._catalog.heads.update(
            self.cluster_id, worker_id=self._context.worker_id, now=self._clock.now(), **changes
        )
        if updated is None:
            raise LeaseLost("another worker keeps this head")

    def _renew_lease(self) -> None:
        now = self._clock.now()
        until = now + LEASE
        if (
            self._catalog.heads.claim(
                self.cluster_id, worker_id=self._context.worker_id, now=now, until=until
            )
            is None
        ):
            raise LeaseLost("another worker keeps this head")

    def _note_trouble(self, error: EbbtideError) -> None:
        try:
            self._update(message=error.message)
        except EbbtideError:
            _log.debug("head.trouble_not_recorded", cluster_id=self.cluster_id)
        if isinstance(error, MongodError):
            self._process = None

    def _event(self, cluster: Cluster, level: EventLevel, kind: str, message: str) -> None:
        record_event(
            self._catalog,
            self._clock,
            level=level,
            kind=kind,
            message=message,
            group_id=cluster.group_id,
            cluster_id=cluster.id,
        )

    # --- connections and places -----------------------------------------------------------------------------------

    def _set(self, access: ClusterAccess) -> MongoClient[Document]:
        if self._set_client is None:
            self._set_client = access.set_client()
        return self._set_client

    def _head(self, access: ClusterAccess, *, login: bool = False) -> MongoClient[Document]:
        """The head without login for `hello`, which it answers before it has any users."""
        if login:
            if self._head_client is None:
                self._head_client = access.head_client(timeout_seconds=5)
            return self._head_client
        if self._anonymous_client is None:
            self._anonymous_client = access.head_client(login=False, timeout_seconds=3)
        return self._anonymous_client

    def _close_clients(self) -> None:
        for client in (self._set_client, self._head_client, self._anonymous_client):
            if client is not None:
                client.close()
        self._set_client = self._head_client = self._anonymous_client = None

    def _directory(self, cluster: Cluster) -> Path:
        return self._context.head_directory(cluster)

    def _identity_path(self) -> Path:
        return self._context.directory.heads / self.cluster_id / "mongod.json"


def _bytes_below(directory: Path) -> int:
    """Bytes that data files take below `directory`; files that vanish meanwhile count as nothing."""
    total = 0
    for path in directory.rglob("*.wt"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _lag_seconds(status: Document, head: Head) -> float | None:
    """How far the head is behind the primary; None while there is no primary."""
    own = find_in_status(status, join_host_port(head.host, head.port))
    primary = next((m for m in status["members"] if m.get("stateStr") == "PRIMARY"), None)
    if own is None or primary is None or "optimeDate" not in own or "optimeDate" not in primary:
        return None
    return max(0.0, float((primary["optimeDate"] - own["optimeDate"]).total_seconds()))
