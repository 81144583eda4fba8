"""Keeping prune and the snapshots of one cluster apart.

A snapshot that is being taken refers to objects before its manifest says so, and may write again a recipe that nothing
refers to any more. So while one runs, nothing of its cluster is removed. Both sides say what they begin *before* they
look at the other: prune takes its lease and then looks for a running snapshot; a snapshot's job is RUNNING and then
looks for the lease. Of two that begin at once at least one sees the other. Snapshots go first: prune gives way within
about a second, and takes up its work in a later run.

A replayed result is stored in a step of its restore job (STORE_RESULT_STEP) that both sides look at in the same way.

Crash of a pruner: its lease runs out after `LEASE`, and until then snapshots of that cluster wait.
"""

import threading
from collections.abc import Callable
from datetime import timedelta

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.job import STORE_RESULT_STEP, JobKind
from ebbtide.errors import LeaseLost, Refused

LEASE = timedelta(seconds=30)
LEASE_MARGIN_SECONDS = 10.0
"""Nothing is removed in the last seconds of a lease: a removal must be over before somebody else believes it over."""

LOOK_SECONDS = 0.5
WAIT_SECONDS = 0.25


class PruneInterrupted(Refused):
    """Prune stopped in the middle, for something that goes first. What it did was whole; the next run goes on."""


class PruneGuard:
    """The right of one pruner to remove objects of one cluster. For one thread."""

    def __init__(
        self,
        cluster_id: ClusterId,
        *,
        catalog: Catalog,
        clock: Clock,
        worker_id: str,
        stopping: threading.Event,
    ) -> None:
        self._cluster_id = cluster_id
        self._catalog = catalog
        self._clock = clock
        self._worker_id = worker_id
        self._stopping = stopping
        self._name = lease_name(cluster_id)
        self._looked_at = 0.0
        self._believed_until = 0.0

    def enter(self) -> None:
        """Raises PruneInterrupted where a snapshot is being taken, or another worker prunes."""
        believed_from, now = self._clock.monotonic(), self._clock.now()
        if not self._catalog.leases.claim(self._name, worker_id=self._worker_id, now=now, until=now + LEASE):
            raise PruneInterrupted("another worker prunes this cluster")
        self._believe(believed_from)
        try:
            self._require_no_snapshot()
        except BaseException:
            self.leave()
            raise

    def check(self) -> None:
        """To be called before every removal. Raises PruneInterrupted, LeaseLost."""
        if self._stopping.is_set():
            raise PruneInterrupted("the worker stops")
        if self._clock.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._require_no_snapshot()
            believed_from, now = self._clock.monotonic(), self._clock.now()
            if self._catalog.leases.renew(self._name, worker_id=self._worker_id, now=now, until=now + LEASE):
                self._believe(believed_from)
            else:
                self._believed_until = 0.0
        if self._clock.monotonic() >= self._believed_until:
            raise LeaseLost(f"the right to prune cluster {self._cluster_id} ran out")

    def leave(self) -> None:
        """Let snapshots begin."""
        self._believed_until = 0.0
        self._catalog.leases.release(self._name, worker_id=self._worker_id)

    def _believe(self, believed_from: float) -> None:
        self._looked_at = believed_from
        self._believed_until = believed_from + LEASE.total_seconds() - LEASE_MARGIN_SECONDS

    def _require_no_snapshot(self) -> None:
        if self._catalog.jobs.is_running(JobKind.SNAPSHOT, self._cluster_id):
            raise PruneInterrupted("a snapshot of the cluster is being taken")
        if self._catalog.jobs.is_running(JobKind.RESTORE, self._cluster_id, step=STORE_RESULT_STEP):
            raise PruneInterrupted("a replayed result of the cluster is being stored")


def lease_name(cluster_id: ClusterId) -> str:
    return f"prune:{cluster_id}"


def wait_until_not_pruned(
    cluster_id: ClusterId, *, catalog: Catalog, clock: Clock, check_cancelled: Callable[[], None]
) -> None:
    """For a snapshot whose job is RUNNING, or a restore in STORE_RESULT_STEP: return once no pruner removes objects of the cluster.

    Takes about a second at worst, or `LEASE` after a pruner died.
    """
    while catalog.leases.find(lease_name(cluster_id), now=clock.now()) is not None:
        check_cancelled()
        clock.sleep(WAIT_SECONDS)
