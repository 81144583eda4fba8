"""Archiving the oplog of one cluster: tail a member, close slices, have them stored, say how far that is.

The newest slice in the repository is the truth: an archiver begins behind it, whoever wrote it. It runs where the
cluster's head is kept. While the head is locked, lags or is down, another member is tailed, and the head again after.

Invariants
  * a slice is stored only after the one that it names as its predecessor
  * what is in memory is never needed: after any failure it is thrown away, and read again
Crash: at worst a slice that the catalog does not tell of yet; two archivers of one cluster (a lost lease) write
overlapping slices, which do no harm.
Threads: `run` in one of its own; `stop` from any.
"""

import threading
from datetime import datetime, timedelta

import structlog
from pymongo.errors import PyMongoError

from ebbtide.backup.archive_gaps import ask_for_base
from ebbtide.backup.archive_pipeline import ArchiverStopped, SlicePipeline, StoredSlice
from ebbtide.backup.archive_record import ArchiveRecord
from ebbtide.backup.archive_sources import ArchiveSources, NoSource, Source
from ebbtide.backup.context import BackupContext
from ebbtide.domain.cluster import Cluster, ClusterState, Head, HeadState
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import EbbtideError
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.draft import SLICE_BYTES_TARGET, SliceDraft
from ebbtide.repository.repository import ReplicaSetStore
from ebbtide.storage.throttled import stoppable

RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 10.0
"""Waits double up to here while trouble repeats: less than an archive may be behind."""

LOOK_SECONDS = 0.5
BASE_SECONDS = 5.0
CLOSE_SHARE = 0.8
"""A slice closes this part of `oplog.slice_seconds` after its first entry: storing it takes a moment too."""

LOCK_SECONDS = 3.0
"""A head that is locked for longer is left for another member; most locks are over before."""

HEAD_AGAIN_SECONDS = 15.0
"""So often, while another member is tailed, the head is tried again."""

LOST_SECONDS = 600.0
"""Where members that answer do not reach back, so long those that do not answer are waited for before that is a gap."""

_log = structlog.get_logger()


class Archiver:
    """The archiver of one cluster; `run` returns after `stop`, or once the cluster is not backed up any more."""

    def __init__(self, cluster_id: ClusterId, context: BackupContext) -> None:
        self.cluster_id = cluster_id
        self._context = context
        self._stopping = threading.Event()
        self._trouble = ""
        self._slice_seconds = context.settings.number("oplog.slice_seconds")

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Archive. Never raises for what the set, the catalog or the repository does: it begins again."""
        retry = RETRY_SECONDS
        while not self._stopping.is_set():
            began = self._context.clock.monotonic()
            try:
                cluster = self._context.catalog.clusters.find(self.cluster_id)
                if cluster is None or cluster.state is not ClusterState.ACTIVE:
                    return
                _Session(cluster, self._context, self._stopping, trouble=self._trouble).run()
            except ArchiverStopped as error:
                _log.debug("oplog.archiver_stopped", message=error.message)
            except (EbbtideError, OSError, PyMongoError, ValueError) as error:
                _log.warning("oplog.trouble", cluster_id=self.cluster_id, message=str(error))
                self._trouble = str(error)
                self._note(str(error))
            if self._context.clock.monotonic() - began > RETRY_SECONDS_MAX + self._slice_seconds:
                retry = RETRY_SECONDS
            self._stopping.wait(retry)
            retry = min(2 * retry, RETRY_SECONDS_MAX)

    def _note(self, message: str) -> None:
        try:
            self._context.catalog.archives.update(self.cluster_id, source="", message=message)
        except EbbtideError as error:
            _log.debug("oplog.trouble_not_recorded", message=error.message)


class _Session:
    """From what the repository holds to the first failure."""

    def __init__(
        self, cluster: Cluster, context: BackupContext, stopping: threading.Event, *, trouble: str
    ) -> None:
        """`trouble` ended the session before."""
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._stopping = stopping
        storage = stoppable(context.repository.storage, self._check)
        archive = OplogArchive(
            ReplicaSetStore(storage, cluster_id=cluster.id, replica_set_name=cluster.replica_set_name)
        )
        self._record = ArchiveRecord(cluster, archive, context, trouble=trouble)
        self._slice_seconds = context.settings.number("oplog.slice_seconds")
        self._submitted = self._record.archived_to
        self._gap_after: OpTime | None = None
        self._draft: SliceDraft | None = None
        self._lost_since: float | None = None
        self._locked_since: float | None = None
        self._looked_at = self._base_at = float("-inf")
        self._is_drained = False
        self._is_over = False
        self._head_lag = self._source_lag = 0.0
        self._read_at = float("inf")
        self._window: float | None = None
        self._pipeline = SlicePipeline(
            archive, on_stored=self._on_stored, check=self._check, name=f"oplog {cluster.name}"
        )

    def run(self) -> None:
        try:
            while not self._is_over and not self._stopping.is_set():
                source = self._find_source()
                if isinstance(source, NoSource):
                    self._wait_without_source(source)
                    continue
                _log.info("oplog.tailing", cluster_id=self._record.cluster.id, source=source.address)
                try:
                    self._follow(source)
                finally:
                    source.close()
        finally:
            self._pipeline.stop()

    def _check(self) -> None:
        if self._stopping.is_set():
            raise ArchiverStopped("the archiver stops")

    # --- choosing whom to tail ------------------------------------------------------------------------------------

    def _find_source(self) -> Source | NoSource:
        head = self._look()
        if head is None:
            return NoSource(message="the cluster has no head", is_lost=False, is_certain=False)
        sources = ArchiveSources(
            self._context.access(self._record.cluster), head, lag_max=self._slice_seconds
        )
        position = self._position
        if position is not None:
            found = sources.follow(position)
            if not isinstance(found, NoSource) or not self._is_gap(found):
                return found
            self._gap_after = position
            self._record.gap_reason = found.message
            self._submit()  # what is in hand ends the chain
            self._submitted = None
        if self._gap_after is None and head.state is not HeadState.FOLLOWING:
            return NoSource(
                message="the archive begins once the head follows", is_lost=False, is_certain=False
            )
        return sources.begin(after=self._gap_after, wanted=self._wanted_starts(self._gap_after))

    @property
    def _position(self) -> OpTime | None:
        """The newest entry that was read."""
        return self._draft.last if self._draft is not None else self._submitted

    def _is_gap(self, found: NoSource) -> bool:
        """Whether to give up what comes next: all members said so, or those that do not answer had their time."""
        if not found.is_lost:
            self._lost_since = None
            return False
        now = self._clock.monotonic()
        self._lost_since = now if self._lost_since is None else self._lost_since
        if not found.is_certain and now - self._lost_since < LOST_SECONDS:
            return False
        self._lost_since = None
        return True

    def _wanted_starts(self, after: OpTime | None) -> list[OplogTimestamp]:
        """T_a of the complete snapshots, oldest first: with the entry there in the archive, they are bases."""
        complete = self._catalog.snapshots.list_in_state(self._record.cluster.id, SnapshotState.COMPLETE)
        applied = [s.applied_timestamp for s in complete if s.applied_timestamp is not None]
        return sorted(t for t in applied if after is None or t > after.timestamp)

    def _wait_without_source(self, found: NoSource) -> None:
        """What is in hand need not wait for a source."""
        if self._is_slice_due():
            self._submit()
        self._pipeline.raise_failure()
        self._observe(source="", message=found.message)
        self._stopping.wait(RETRY_SECONDS)

    # --- following one --------------------------------------------------------------------------------------------

    def _follow(self, source: Source) -> None:
        """Read until it is better to look for a source again; what was read stays in hand."""
        since = self._clock.monotonic()
        self._window = source.window_seconds
        self._source_lag = 0.0
        self._measure_lag(source)
        while not self._stopping.is_set():
            try:
                self._take(source.tail.next_batch())
            except (ArchiverStopped, ValueError):
                raise
            except EbbtideError as error:
                _log.info("oplog.tail_ended", source=source.address, message=error.message)
                self._observe(source="", message=error.message)
                self._stopping.wait(RETRY_SECONDS / 2)
                return
            if self._is_slice_due():
                self._submit()
            self._pipeline.raise_failure()
            if self._clock.monotonic() - self._looked_at >= LOOK_SECONDS:
                head = self._look()
                self._measure_lag(source)
                self._observe(source=source.address, message="")
                if head is None or self._should_leave(source, head, since):
                    return

    def _take(self, batch: bytes) -> None:
        self._is_drained = not batch
        if not batch:
            if self._draft is None and self._pipeline.is_idle:
                self._record.complete_through = self._now_at_source()
            self._read_at = self._clock.monotonic() - self._source_lag
            return
        if self._draft is None:
            self._draft = SliceDraft(predecessor=self._submitted, opened=self._opened_at())
        self._draft.add(batch)
        self._read_at = self._clock.monotonic()

    def _opened_at(self) -> float:
        """From when on the age of a slice that begins now counts.

        Its entries may be as old as the last look that told all there was: what a locked head held back comes late
        from another member, and must not wait for a whole slice on top. Half of one at most, or catching up would
        store a slice for each batch.
        """
        now = self._clock.monotonic()
        return max(min(now, self._read_at), now - self._slice_seconds * CLOSE_SHARE / 2)

    def _is_slice_due(self) -> bool:
        if self._draft is None:
            return False
        begins_chain = self._draft.predecessor is None
        age = self._clock.monotonic() - self._draft.opened
        is_full = self._draft.plain_bytes >= SLICE_BYTES_TARGET
        return is_full or begins_chain or age >= self._slice_seconds * CLOSE_SHARE or self._is_wanted()

    def _is_wanted(self) -> bool:
        """Whether somebody waits for more than what was submitted."""
        wanted = self._record.state.wanted
        return wanted is not None and (self._submitted is None or self._submitted.timestamp < wanted)

    def _submit(self) -> None:
        draft, self._draft = self._draft, None
        if draft is None:
            return
        now = self._now_at_source()
        # While more waits at the source, the newest entry tells how far this reaches.
        complete = now if self._is_drained else min(now, draft.last_wall or now)
        self._pipeline.submit(draft, complete_through=complete)
        self._submitted = draft.last

    def _now_at_source(self) -> datetime:
        """Up to when a drained tail has everything."""
        return self._clock.now() - timedelta(seconds=self._source_lag)

    def _measure_lag(self, source: Source) -> None:
        """What the source does not have yet, its tail cannot tell: the head's keeper measures it, a stand-in is asked.

        One that knows of no primary, or does not answer, is as far behind as it was when it did.
        """
        if source.is_head:
            self._source_lag = self._head_lag
            return
        try:
            lag = source.measure_lag()
        except EbbtideError as error:
            _log.info("oplog.lag_not_measured", source=source.address, message=error.message)
            return
        self._source_lag = self._source_lag if lag is None else lag

    def _should_leave(self, source: Source, head: Head, since: float) -> bool:
        if self._is_over:
            return True
        now = self._clock.monotonic()
        if not source.is_head:
            is_late = self._source_lag > self._slice_seconds
            return now - since > HEAD_AGAIN_SECONDS and (is_late or _is_current(head, self._slice_seconds))
        if head.lock_job_id is None:
            self._locked_since = None
            return head.state is not HeadState.FOLLOWING or (head.lag_seconds or 0.0) > self._slice_seconds
        self._locked_since = now if self._locked_since is None else self._locked_since
        if now - self._locked_since <= LOCK_SECONDS:
            return False
        # Where nobody else can be tailed the head is taken again: not at once, though.
        self._locked_since = now + HEAD_AGAIN_SECONDS
        return True

    # --- what the catalog says, and what it is told ---------------------------------------------------------------

    def _look(self) -> Head | None:
        """The head's record; the cluster's and the archive's are taken anew too."""
        self._looked_at = self._clock.monotonic()
        self._check()
        cluster = self._catalog.clusters.find(self._record.cluster.id)
        if cluster is None or cluster.state is not ClusterState.ACTIVE:
            self._is_over = True
            return None
        self._record.refresh(cluster)
        if self._clock.monotonic() - self._base_at >= BASE_SECONDS:
            self._base_at = self._clock.monotonic()
            ask_for_base(cluster, self._record.state, self._context)
        head = self._catalog.heads.find(cluster.id)
        self._head_lag = (head.lag_seconds or 0.0) if head is not None else 0.0
        return head

    def _on_stored(self, stored: StoredSlice) -> None:
        """In the pipeline's thread."""
        self._record.note_stored(stored)
        if stored.piece.predecessor is None:
            self._gap_after = None

    def _observe(self, *, source: str, message: str) -> None:
        self._record.observe(source=source, message=message, window_seconds=self._window)


def _is_current(head: Head, lag_max: float) -> bool:
    """Whether the head can be tailed without falling behind."""
    is_free = head.lock_job_id is None and (head.lag_seconds or 0.0) <= lag_max
    return head.state is HeadState.FOLLOWING and is_free
