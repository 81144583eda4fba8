"""Keeping one head: start → join → follow, restart it when it dies, and take it out of its set in the end.

A keeper holds the head's lease and acts alone. It looks at what is there (process, set, catalog), asks
`decide_head_action` for the next step, has it done by the module that knows how (head_starting, head_joining,
head_following, head_leaving), and looks again; so a crash anywhere is taken up from what is there.

Files of a head, in heads/<cluster id>/:  db/ (dbpath)  mongod.log  mongod.json (identity)  and those of head_files

Threads: `tick` is called by the keeper's own thread; `is_ready` and `stop` from others.
"""

import structlog
from pymongo.errors import PyMongoError

from ebbtide.backup import head_leaving
from ebbtide.backup.context import BackupContext
from ebbtide.backup.head_certificate import HeadCertificate
from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.backup.head_credentials import HeadCredentials
from ebbtide.backup.head_following import HeadFollowing
from ebbtide.backup.head_handle import HeadHandle
from ebbtide.backup.head_joining import HeadJoining
from ebbtide.backup.head_lock import unlock_wholly
from ebbtide.backup.head_starting import HeadStarting
from ebbtide.domain.cluster import Cluster, ClusterState, Head, HeadState
from ebbtide.domain.head import HeadAction, HeadSight, decide_head_action
from ebbtide.domain.ids import ClusterId
from ebbtide.errors import EbbtideError, HeadUnavailable, LeaseLost, MongodError
from ebbtide.mongod import deployment
from ebbtide.mongod.log_rotation import rotate_log

TICK_SECONDS = 1.0

_log = structlog.get_logger()


class HeadKeeper:
    """Looks after the head of one cluster for as long as this worker holds its lease."""

    def __init__(self, cluster_id: ClusterId, context: BackupContext) -> None:
        self.cluster_id = cluster_id
        self._context = context
        self._catalog = context.catalog
        self._handle = HeadHandle(cluster_id, context)
        self._starting = HeadStarting(self._handle)
        self._joining = HeadJoining(self._handle)
        self._following = HeadFollowing(self._handle)
        self._credentials = HeadCredentials(self._handle)
        self._certificate = HeadCertificate(self._handle)

    # --- from other threads -------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether the head is ours, running and following: snapshot jobs of this cluster may be claimed."""
        return self._handle.ready.is_set()

    @property
    def is_stopping(self) -> bool:
        return self._handle.stopping.is_set()

    def run(self) -> None:
        """Keep the head until `stop`. Never raises for what the head or its set does."""
        while not self.is_stopping:
            try:
                if not self.tick():
                    break
            except LeaseLost as error:
                _log.warning("head.lease_lost", cluster_id=self.cluster_id, message=str(error))
                break
            except EbbtideError as error:
                self._handle.ready.clear()
                _log.warning("head.trouble", cluster_id=self.cluster_id, message=str(error))
                self._note_trouble(error)
            except (OSError, PyMongoError) as error:
                # What was not translated at its boundary (a full disk, say) must not end the keeper unseen.
                self._handle.ready.clear()
                _log.error("head.trouble", cluster_id=self.cluster_id, exc_info=error)
                self._note_trouble(HeadUnavailable(f"{type(error).__name__}: {error}"))
            self._handle.stopping.wait(TICK_SECONDS)
        self._handle.ready.clear()
        self._handle.close_clients()

    def stop(self) -> None:
        """Ask `run` to return; the head's mongod goes on running."""
        self._handle.stopping.set()

    def stop_mongod(self) -> None:
        """Stop the head's mongod, for a worker that shuts down. Call it after `run` has returned."""
        self._note_stop()
        self._handle.find_process()
        self._handle.stop_process()

    def _note_stop(self) -> None:
        """Say that it is we who stop the head, so that the next start does not take it for an accident."""
        try:
            head = self._catalog.heads.find(self.cluster_id)
            if head is not None and head.state is HeadState.FOLLOWING:
                self._handle.set_state(HeadState.DOWN, "it was stopped together with Ebbtide")
        except EbbtideError as error:
            _log.debug("head.stop_not_recorded", cluster_id=self.cluster_id, message=str(error))

    def _note_trouble(self, error: EbbtideError) -> None:
        try:
            self._handle.update(message=error.message)
        except EbbtideError:
            _log.debug("head.trouble_not_recorded", cluster_id=self.cluster_id)
        if isinstance(error, MongodError):
            self._handle.process = None

    # --- one look ------------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Look and act once; False when there is nothing left to keep."""
        cluster = self._catalog.clusters.find(self.cluster_id)
        head = self._handle.claim()
        if cluster is None or (cluster.state is ClusterState.REMOVED and head.state is HeadState.GONE):
            return False
        if head.state is HeadState.GONE and cluster.state is ClusterState.REMOVING:
            # Its keeper went no further than that, or the catalog did not answer.
            head_leaving.finish_removal(self._handle, cluster)
            return False
        if cluster.is_detached:
            head_leaving.detach(self._handle, cluster)
            return False
        access = self._context.access(cluster)
        action = decide_head_action(
            is_wanted=cluster.state is ClusterState.ACTIVE,
            state=head.state,
            joined_once=head.joined_once,
            sight=self._look(cluster, head, access),
            may_rejoin=head.rejoin_wanted or head.put_back is None,
            rejoin_wanted=head.rejoin_wanted,
        )
        if action is not HeadAction.FOLLOW:
            self._handle.ready.clear()
        self._act(action, cluster, head, access)
        return True

    def _act(self, action: HeadAction, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        match action:
            case HeadAction.NOTHING:
                pass
            case HeadAction.START:
                self._starting.start(cluster, head, access)
            case HeadAction.JOIN:
                self._joining.join(cluster, head, access)
            case HeadAction.WATCH_SYNC:
                if not self._starting.replace_if_stale(cluster, head, access):
                    self._following.watch_sync(head)
            case HeadAction.FOLLOW:
                self._following.follow(cluster, head, access)
            case HeadAction.LEAVE:
                head_leaving.leave(self._handle, cluster, head, access)
            case HeadAction.REJOIN:
                self._joining.rejoin(cluster, head, access)
            case HeadAction.REPORT_DROPPED:
                self._joining.report_dropped(cluster)

    def _look(self, cluster: Cluster, head: Head, access: ClusterAccess) -> HeadSight:
        process = self._handle.find_process()
        if process is None or not process.is_running():
            self._handle.process = None
            self._certificate.forget()
            if head.state is HeadState.REMOVED:
                self._joining.look_whether_listed(head, access, follows=True)
            return HeadSight(is_running=False, is_listed=self._joining.is_listed, is_secondary=False)
        if not self._handle.lock_recovered:
            self._recover_lock(head, access)
        if not self._credentials.tend(cluster, head, access):
            self._certificate.tend(cluster, head, access)
        if self._handle.process is None:  # stopped just now, to be started with other credentials
            return HeadSight(is_running=False, is_listed=self._joining.is_listed, is_secondary=False)
        is_secondary = self._ask_secondary(access)
        if is_secondary:  # so it is past its start, in which the signal would end it
            rotate_log(process)
        if head.joined_once and cluster.state is ClusterState.ACTIVE:
            follows = is_secondary or head.state is HeadState.SYNCING
            self._joining.look_whether_listed(head, access, follows=follows)
        return HeadSight(is_running=True, is_listed=self._joining.is_listed, is_secondary=is_secondary)

    def _ask_secondary(self, access: ClusterAccess) -> bool:
        """Whether the head says that it is a secondary; one that does not answer is none."""
        try:
            hello = deployment.run_admin(self._handle.anonymous_client(access), "hello")
        except EbbtideError as error:
            _log.debug("head.no_answer", cluster_id=self.cluster_id, message=str(error))
            return False
        return bool(hello.get("secondary", False))

    def _recover_lock(self, head: Head, access: ClusterAccess) -> None:
        """Undo a lock that a worker before us left: the catalog says that there may be one."""
        if head.lock_job_id is not None:
            client = access.head_client(timeout_seconds=5)
            try:
                undone = unlock_wholly(client)
            finally:
                client.close()
            self._handle.update(lock_job_id=None)
            _log.info("head.lock_recovered", cluster_id=self.cluster_id, locks=undone)
        self._handle.lock_recovered = True
