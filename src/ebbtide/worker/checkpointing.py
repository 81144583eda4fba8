"""Taking the checkpoints that schedules and people want; run by the worker that keeps house, in a thread of its own.

Nothing is remembered here that matters: the newest slot asked for is on the checkpoint itself. Two at once would do no
harm: of two that note a time for one checkpoint, one loses.

Crash: as in `ebbtide.backup.checkpoint_taking`.
"""

import threading

import structlog

from ebbtide.backup.checkpoint_requesting import find_refusal, request_checkpoint
from ebbtide.backup.checkpoint_taking import CheckpointTaking
from ebbtide.backup.context import BackupContext
from ebbtide.domain.checkpoint import Checkpoint, CheckpointState, due_checkpoint_slot
from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.ids import CheckpointId, ClusterId
from ebbtide.errors import EbbtideError

JUDGE_SECONDS = 20.0
"""So often it is looked whether complete checkpoints can still be restored."""

READ_AGAIN_SECONDS, READ_AGAIN_SECONDS_MAX = 2.0, 60.0
"""After archives were read in vain for a checkpoint; doubled each time."""

_log = structlog.get_logger()


class CheckpointingStopped(EbbtideError):
    """The worker stops."""


class Checkpointing:
    """`look` often, from one thread; `join` at the end."""

    def __init__(self, context: BackupContext, stopping: threading.Event) -> None:
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._stopping = stopping
        self._thread: threading.Thread | None = None
        self._judged_at = float("-inf")
        # Until when (monotonic) archives are not read again for a checkpoint, and how long that pause was.
        self._pauses: dict[CheckpointId, tuple[float, float]] = {}

    def look(self) -> None:
        """Begin a run unless one is under way."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self.run, name="checkpoints", daemon=True)
            self._thread.start()

    def join(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)

    def run(self) -> None:
        """One run over all sharded clusters. Never raises for what catalog, clusters or repository do."""
        try:
            for cluster in self._catalog.clusters.list_sharded():
                self._ask_if_due(cluster)
            now = self._clock.monotonic()
            is_judging = now - self._judged_at >= JUDGE_SECONDS
            if is_judging:
                self._judged_at = now
            for cluster_id in self._catalog.checkpoints.list_cluster_ids():
                self._take(cluster_id, is_judging=is_judging)
        except CheckpointingStopped:
            return
        except EbbtideError as error:
            _log.warning("checkpoints.trouble", message=str(error))

    def _check(self) -> None:
        if self._stopping.is_set():
            raise CheckpointingStopped("the worker stops")

    def _ask_if_due(self, cluster: Cluster) -> None:
        """A slot at which none can be taken is made up for as soon as one can be."""
        if cluster.state is not ClusterState.ACTIVE or cluster.is_paused:
            return
        slot = due_checkpoint_slot(
            self._catalog.schedules.get(cluster),
            now=self._clock.now(),
            last_slot=self._catalog.checkpoints.newest_slot(cluster.id),
        )
        if slot is not None and find_refusal(cluster, self._catalog) is None:
            request_checkpoint(cluster, catalog=self._catalog, clock=self._clock, scheduled_for=slot)

    def _take(self, cluster_id: ClusterId, *, is_judging: bool) -> None:
        taking = CheckpointTaking(cluster_id, self._context, check=self._check)
        list_in_state = self._catalog.checkpoints.list_in_state
        for wanted in list_in_state(cluster_id, CheckpointState.WANTED):
            taking.note(wanted)
        for noted in list_in_state(cluster_id, CheckpointState.NOTED):
            self._check()
            self._settle(noted, taking)
        if not is_judging:
            return
        for settled in list_in_state(cluster_id, *CheckpointState):
            self._check()
            if not taking.forget(settled) and settled.state is CheckpointState.COMPLETE:
                taking.judge(settled)

    def _settle(self, noted: Checkpoint, taking: CheckpointTaking) -> None:
        now = self._clock.monotonic()
        until, pause = self._pauses.get(noted.id, (now, READ_AGAIN_SECONDS / 2))
        if now < until:
            return
        if taking.settle(noted):
            self._pauses.pop(noted.id, None)
        else:
            pause = min(2 * pause, READ_AGAIN_SECONDS_MAX)
            self._pauses[noted.id] = (now + pause, pause)
