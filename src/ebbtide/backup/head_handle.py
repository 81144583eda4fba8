"""What a keeper holds of its head: the process, the connections, the lease, and the head's record in the catalog.

The parts of a head's life (starting, joining, following, leaving) share one handle and keep nothing of each other.

Every write to the record names this worker: one that lost the lease changes nothing any more, and raises LeaseLost.
Crash: nothing here outlives the worker but what the record says and the identity file of the running mongod.
Threads: the keeper's own, except `ready` and `stopping`, which anybody may look at.
"""

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from ebbtide.backup.context import BackupContext
from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.domain.cluster import Cluster, Head, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import ClusterId
from ebbtide.errors import LeaseLost
from ebbtide.events import record_event
from ebbtide.mongod.process import MongodProcess

Document = dict[str, Any]

LEASE = timedelta(seconds=15)
STOP_SECONDS = 10.0


class HeadHandle:
    """One head, as the worker that holds its lease has it in hand."""

    def __init__(self, cluster_id: ClusterId, context: BackupContext) -> None:
        self.cluster_id = cluster_id
        self.context = context
        self.catalog = context.catalog
        self.clock = context.clock
        self.stopping = threading.Event()
        self.ready = threading.Event()
        self.process: MongodProcess | None = None
        self.restart_at = float("-inf")
        """Monotonic seconds before which the mongod is not started again."""
        self.lock_recovered = False
        self._set_client: MongoClient[Document] | None = None
        self._head_client: MongoClient[Document] | None = None
        self._anonymous_client: MongoClient[Document] | None = None

    # --- process --------------------------------------------------------------------------------------------------

    def find_process(self) -> MongodProcess | None:
        """The head's mongod, which may have been started by a worker before us; None where none was found."""
        if self.process is None:
            self.process = MongodProcess.find_running(self.identity_path)
        return self.process

    def stop_process(self) -> None:
        """Stop the mongod where one is known."""
        if self.process is not None:
            self.process.stop(timeout_seconds=STOP_SECONDS)

    def stop_to_start_again(self) -> None:
        """Stop the mongod, and let the next look start it without a delay."""
        self.stop_process()
        self.process, self.restart_at = None, float("-inf")

    # --- records --------------------------------------------------------------------------------------------------

    def claim(self) -> Head:
        """Take or renew the lease; the head as it is recorded. Raises LeaseLost."""
        now = self.clock.now()
        head = self.catalog.heads.claim(
            self.cluster_id, worker_id=self.context.worker_id, now=now, until=now + LEASE
        )
        if head is None:
            raise LeaseLost("another worker keeps this head")
        return head

    def set_state(self, state: HeadState, message: str, **changes: Any) -> None:
        """Record a state and what it means; `state_since` moves only where the state does. Raises LeaseLost."""
        head = self.catalog.heads.find(self.cluster_id)
        if head is not None and head.state is not state:
            changes["state_since"] = self.clock.now()
        self.update(state=state, message=message, **changes)

    def update(self, **changes: Any) -> None:
        """Change fields of the head's record. Raises LeaseLost."""
        updated = self.catalog.heads.update(
            self.cluster_id, worker_id=self.context.worker_id, now=self.clock.now(), **changes
        )
        if updated is None:
            raise LeaseLost("another worker keeps this head")

    def event(self, cluster: Cluster, level: EventLevel, kind: str, message: str) -> None:
        record_event(
            self.catalog,
            self.clock,
            level=level,
            kind=kind,
            message=message,
            group_id=cluster.group_id,
            cluster_id=cluster.id,
        )

    # --- connections ----------------------------------------------------------------------------------------------

    def set_client(self, access: ClusterAccess) -> MongoClient[Document]:
        if self._set_client is None:
            self._set_client = access.set_client()
        return self._set_client

    def head_client(self, access: ClusterAccess) -> MongoClient[Document]:
        if self._head_client is None:
            self._head_client = access.head_client(timeout_seconds=5)
        return self._head_client

    def anonymous_client(self, access: ClusterAccess) -> MongoClient[Document]:
        """The head without login, for `hello`: it answers that before it has any users."""
        if self._anonymous_client is None:
            self._anonymous_client = access.head_client(login=False, timeout_seconds=3)
        return self._anonymous_client

    def close_clients(self) -> None:
        """Close what is open; the next use connects, and logs in, anew."""
        for client in (self._set_client, self._head_client, self._anonymous_client):
            if client is not None:
                client.close()
        self._set_client = self._head_client = self._anonymous_client = None

    # --- places ---------------------------------------------------------------------------------------------------

    @property
    def place(self) -> Path:
        """The directory that holds the head's files."""
        return self.context.directory.heads / self.cluster_id

    @property
    def identity_path(self) -> Path:
        return self.place / "mongod.json"
