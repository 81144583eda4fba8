"""What the catalog says of one archive while it is written: how far it is, how far behind, and since when that is bad.

Crash: the record is older than the repository; the next archiver begins with what the repository holds.
Threads: `note_stored` is called by the thread that stores slices, everything else by the one that reads.
"""

from datetime import datetime, timedelta

import structlog

from ebbtide.backup.archive_gaps import record_gaps
from ebbtide.backup.archive_pipeline import StoredSlice
from ebbtide.backup.context import BackupContext
from ebbtide.crash_points import reach
from ebbtide.domain.archive_state import ArchiveState, is_behind, lag_at
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.event import EventLevel
from ebbtide.domain.oplog import chains
from ebbtide.domain.optime import OpTime
from ebbtide.errors import EbbtideError
from ebbtide.events import record_event
from ebbtide.oplog.archive import OplogArchive

OBSERVE_SECONDS = 2.0
FOUND_LATER = "it was found when the archive was looked at"

_log = structlog.get_logger()


class ArchiveRecord:
    """The record of one cluster's archive. `state` is what the catalog said last."""

    def __init__(
        self, cluster: Cluster, archive: OplogArchive, context: BackupContext, *, trouble: str
    ) -> None:
        """`trouble` is what ended archiving before; it is shown until a slice is stored. Raises StorageError."""
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._archive = archive
        self._trouble = trouble
        self._observed_at = float("-inf")
        self._slice_seconds = context.settings.number("oplog.slice_seconds")
        self.cluster = cluster
        self.gap_reason = FOUND_LATER
        """Why a chain that begins now does not go on from the one before."""
        slices = archive.slices()
        self.archived_to: OpTime | None = max((s.last for s in slices), default=None)
        """The newest entry that the repository held when archiving began."""
        self._chain_first = chains(slices)[-1].range.first if slices else None
        self.state = self._begin()
        self.complete_through = self._known_through()
        """What was committed before this moment is archived."""
        self.state = record_gaps(cluster, self.state, archive, reason=FOUND_LATER, context=context)

    def refresh(self, cluster: Cluster) -> None:
        """Take `state` anew from the catalog."""
        self.cluster = cluster
        self.state = self._catalog.archives.find(cluster.id) or self._begin()

    def note_stored(self, stored: StoredSlice) -> None:
        """A slice is durable. A catalog that does not answer is told by the next one."""
        self.complete_through = stored.complete_through
        self._trouble = ""
        begins_chain = stored.piece.predecessor is None
        changes = {"chain_first": stored.piece.first} if begins_chain else {}
        try:
            state = self._catalog.archives.update(
                self.cluster.id,
                archived_to=stored.piece.last,
                archived_wall=stored.last_wall,
                observed=self._clock.now(),
                lag_seconds=self._lag(),
                **changes,
            )
            if state is not None and begins_chain:
                record_gaps(self.cluster, state, self._archive, reason=self.gap_reason, context=self._context)
        except EbbtideError as error:
            _log.warning("oplog.state_not_recorded", message=error.message)
        else:
            reach("oplog.state_recorded")

    def observe(self, *, source: str, message: str, window_seconds: float | None) -> None:
        """Record how far behind the archive is, every few seconds, or at once where the source changed.

        `window_seconds`: what the oplog of the source holds.
        """
        now = self._clock.monotonic()
        if now - self._observed_at < OBSERVE_SECONDS and source == self.state.source:
            return
        self._observed_at = now
        lag, was_behind = self._lag(), self.state.is_behind
        behind = lag is not None and is_behind(
            lag, window_seconds=window_seconds, slice_seconds=self._slice_seconds, was_behind=was_behind
        )
        updated = self._catalog.archives.update(
            self.cluster.id,
            observed=self._clock.now(),
            lag_seconds=lag,
            source=source,
            message=message or self._trouble,
            is_behind=behind,
        )
        self.state = updated or self.state
        if behind and not was_behind:
            self._tell_behind(lag or 0.0)
        elif was_behind and not behind:
            self._tell_caught_up()

    def _begin(self) -> ArchiveState:
        state = self._catalog.archives.begin(
            ArchiveState(id=self.cluster.id, observed=self._clock.now(), chain_first=self._chain_first)
        )
        if state.archived_to != self.archived_to:
            # A slice was stored, and the catalog not told; or slices were lost: the repository is right.
            changes = {"archived_to": self.archived_to, "chain_first": self._chain_first}
            state = self._catalog.archives.update(self.cluster.id, **changes) or state
        return state

    def _known_through(self) -> datetime | None:
        lag = lag_at(self.state, self._clock.now())
        if lag is not None:
            return self._clock.now() - timedelta(seconds=lag)
        return None if self.archived_to is None else self.archived_to.timestamp.date

    def _lag(self) -> float | None:
        if self.complete_through is None:
            return None
        return max(0.0, (self._clock.now() - self.complete_through).total_seconds())

    def _tell_behind(self, lag: float) -> None:
        record_event(
            self._catalog,
            self._clock,
            level=EventLevel.WARNING,
            kind="oplog.behind",
            message=f"the oplog archive of {self.cluster.name} is {lag:.0f} s behind",
            group_id=self.cluster.group_id,
            cluster_id=self.cluster.id,
        )

    def _tell_caught_up(self) -> None:
        record_event(
            self._catalog,
            self._clock,
            level=EventLevel.INFO,
            kind="oplog.caught_up",
            message=f"the oplog archive of {self.cluster.name} is up to date again",
            group_id=self.cluster.group_id,
            cluster_id=self.cluster.id,
        )
