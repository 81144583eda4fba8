"""Watching what this worker works on, and saying so before it hurts: its heads, their disk, the repository's space.

The rules are in `domain.watch` and `domain.bounds`; here they are fed and their changes told. One thread of its own: a
set that does not answer must not hold up heads or jobs.

Crash: nothing that matters is in memory. A concern that still holds is told once more by the next worker.
"""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import structlog
from pymongo import MongoClient

from ebbtide.backup.context import BackupContext
from ebbtide.backup.space_guard import least_bytes, see_space
from ebbtide.domain.bounds import REPOSITORY_SPACE_ID, RepositorySpace, Space, is_space_low, low_space_reason
from ebbtide.domain.cluster import Cluster, ClusterState, Head, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.job import JobKind
from ebbtide.domain.watch import Concern, HeadObservation, is_behind, judge_head
from ebbtide.errors import EbbtideError
from ebbtide.events import record_event
from ebbtide.mongod.deployment import translated_errors
from ebbtide.storage.protocol import StoredObject

LOOK_SECONDS = 1.0
HEADS_SECONDS = 5.0
USED_SECONDS = 900.0
OBJECTS_PER_LOOK = 2000
"""Of a repository being counted, so that counting a large one holds up nothing."""

WINDOW_SECONDS = 600.0
WINDOW_WHILE_LAGGING_SECONDS = 30.0
LAG_WORTH_ASKING_SECONDS = 30.0
"""The oplog window is asked for every ten minutes, and more often while it may matter."""

ASK_SECONDS = 5.0
STOP_SECONDS = 2.0

Document = dict[str, Any]
_log = structlog.get_logger()


@dataclass
class _Watched:
    """What is remembered of one head between two looks. Moments are of the steady clock."""

    concerns: frozenset[Concern] = frozenset()
    behind_since: float | None = None
    lock_job_id: str | None = None
    locked_since: float | None = None
    window: float | None = None
    window_asked: float = field(default=float("-inf"))


class Watcher:
    """One worker's watch. `is_space_low` may be asked by any thread."""

    def __init__(self, context: BackupContext) -> None:
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._stopping = threading.Event()
        self._space_low = threading.Event()
        self._heads: dict[ClusterId, _Watched] = {}
        self._heads_at = float("-inf")
        self._used_at = float("-inf")
        self._counting: Iterator[StoredObject] | None = None
        self._counted_bytes = 0
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    @property
    def is_space_low(self) -> bool:
        """Whether snapshots wait for space in the repository."""
        return self._space_low.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the watch to end, and wait a little: one that waits for a set that is away is left to itself."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except EbbtideError as error:
                _log.warning("watch.trouble", message=str(error))
            self._stopping.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Look once at everything whose turn it is. Raises the catalog's and the storage's errors."""
        self._look_at_space()
        if self._clock.monotonic() - self._heads_at >= HEADS_SECONDS:
            self._heads_at = self._clock.monotonic()
            for cluster in self._catalog.clusters.list_live():
                head = self._catalog.heads.find(cluster.id)
                if (
                    head is not None
                    and head.lease_worker_id == self._context.worker_id
                    and not self._stopping.is_set()
                ):
                    self._look_at_head(cluster, head)
        self._count_used()

    # --- space ----------------------------------------------------------------------------------------------------

    def _look_at_space(self) -> None:
        space = see_space(self._context.repository.storage)
        if space is None:
            return
        least = least_bytes(space, self._context.settings)
        known = self._catalog.repository_space.find()
        was_low = known.is_low if known is not None else False
        is_low = is_space_low(space, least_bytes=least, was_low=was_low)
        if is_low:
            # Before anybody can read that snapshots wait, none is claimed any more.
            self._space_low.set()
        self._record_space(space, least=least, is_low=is_low, known=known)
        if is_low:
            self._catalog.jobs.note_waiting(JobKind.SNAPSHOT, low_space_reason(space, least_bytes=least))
        else:
            self._space_low.clear()

    def _record_space(self, space: Space, *, least: int, is_low: bool, known: RepositorySpace | None) -> None:
        now = self._clock.now()
        is_same = known is not None and known.is_low is is_low
        before = self._catalog.repository_space.observe(
            RepositorySpace(
                id=REPOSITORY_SPACE_ID,
                free_bytes=space.free_bytes,
                total_bytes=space.total_bytes,
                least_free_bytes=least,
                is_low=is_low,
                since=known.since if known is not None and is_same else now,
                updated=now,
            )
        )
        if is_low is not (before is not None and before.is_low):
            self._tell_space(space, least=least, is_low=is_low)

    def _tell_space(self, space: Space, *, least: int, is_low: bool) -> None:
        """Once for each project that has a set under backup."""
        for group_id in sorted({cluster.group_id for cluster in self._catalog.clusters.list_live()}):
            if is_low:
                self._event(
                    EventLevel.ERROR,
                    "snapshot.paused_low_space",
                    low_space_reason(space, least_bytes=least),
                    group_id=group_id,
                )
            else:
                self._event(
                    EventLevel.INFO,
                    "snapshot.resumed",
                    "the repository has space again: snapshots go on",
                    group_id=group_id,
                )

    def _count_used(self) -> None:
        """Go on counting what the repository's objects take, now and then."""
        if self._counting is None:
            if self._clock.monotonic() - self._used_at < USED_SECONDS:
                return
            self._used_at = self._clock.monotonic()
            self._counting, self._counted_bytes = self._context.repository.storage.iter_objects(""), 0
        sizes = [found.size_bytes for found in islice(self._counting, OBJECTS_PER_LOOK)]
        self._counted_bytes += sum(sizes)
        if len(sizes) < OBJECTS_PER_LOOK:
            self._counting = None
            self._catalog.repository_space.record_used(self._counted_bytes, now=self._clock.now())

    # --- heads ----------------------------------------------------------------------------------------------------

    def _look_at_head(self, cluster: Cluster, head: Head) -> None:
        watched = self._heads.setdefault(cluster.id, _Watched())
        seen = self._observe(cluster, head, watched)
        now_holds = judge_head(
            seen,
            before=watched.concerns,
            lock_warn_seconds=self._context.settings.number("snapshot.lock_warn_seconds"),
        )
        begun, watched.concerns = now_holds - watched.concerns, now_holds
        for concern in sorted(begun):
            self._tell_concern(cluster, head, concern, seen)

    def _observe(self, cluster: Cluster, head: Head, watched: _Watched) -> HeadObservation:
        now = self._clock.monotonic()
        is_locked = head.lock_job_id is not None
        if head.lock_job_id != watched.lock_job_id:
            watched.lock_job_id, watched.locked_since = head.lock_job_id, now if is_locked else None
        behind = is_behind(
            head.state,
            lag=head.lag_seconds,
            is_locked=is_locked,
            in_trouble=bool(head.message),
            was_behind=watched.behind_since is not None,
        )
        if not behind:
            watched.behind_since = None
        elif watched.behind_since is None:
            watched.behind_since = now
        lag = head.lag_seconds if head.state is HeadState.FOLLOWING else None
        self._ask_window(cluster, head, watched)
        return HeadObservation(
            lag=lag,
            window=watched.window,
            behind_for=0.0 if watched.behind_since is None else now - watched.behind_since,
            locked_for=None if watched.locked_since is None else now - watched.locked_since,
            disk=self._see_disk(),
        )

    def _see_disk(self) -> Space | None:
        try:
            usage = shutil.disk_usage(self._context.directory.heads)
        except OSError as error:
            _log.debug("watch.disk_not_seen", message=str(error))
            return None
        return Space(free_bytes=usage.free, total_bytes=usage.total)

    def _ask_window(self, cluster: Cluster, head: Head, watched: _Watched) -> None:
        """Ask the set how far back its oplog reaches. Where it does not answer, what was known stays."""
        is_slow = (head.lag_seconds or 0.0) >= LAG_WORTH_ASKING_SECONDS
        every = WINDOW_WHILE_LAGGING_SECONDS if is_slow else WINDOW_SECONDS
        now = self._clock.monotonic()
        if (
            cluster.state is not ClusterState.ACTIVE
            or not head.joined_once
            or now - watched.window_asked < every
        ):
            return
        watched.window_asked = now
        try:
            client = self._context.access(cluster).set_client(timeout_seconds=ASK_SECONDS)
            try:
                watched.window = oplog_window_seconds(client)
            finally:
                client.close()
        except EbbtideError as error:
            _log.debug("watch.window_not_seen", cluster_id=cluster.id, message=str(error))

    def _tell_concern(self, cluster: Cluster, head: Head, concern: Concern, seen: HeadObservation) -> None:
        about = cluster.name
        match concern:
            case Concern.LAGGING:
                self._event(
                    EventLevel.WARNING,
                    "head.lagging",
                    f"the head of {about} is {seen.lag or 0:.0f} s behind, beyond half of the oplog's "
                    f"{(seen.window or 0) / 3600:.1f} hours: if it lags by all of them, it needs a new initial sync",
                    group_id=cluster.group_id,
                    cluster_id=cluster.id,
                )
            case Concern.BEHIND:
                lag = "" if seen.lag is None else f", {seen.lag:.0f} s behind"
                self._event(
                    EventLevel.WARNING,
                    "head.behind",
                    f"the head of {about} has not kept up for {seen.behind_for / 60:.0f} minutes: "
                    f"it is {head.state}{lag}",
                    group_id=cluster.group_id,
                    cluster_id=cluster.id,
                )
            case Concern.LOCKED:
                self._event(
                    EventLevel.WARNING,
                    "snapshot.lock_held",
                    f"the head of {about} has been locked for {seen.locked_for or 0:.0f} s, and still is",
                    group_id=cluster.group_id,
                    cluster_id=cluster.id,
                )
            case Concern.DISK_LOW:
                free = 0 if seen.disk is None else seen.disk.free_bytes
                self._event(
                    EventLevel.WARNING,
                    "head.disk_low",
                    f"{free / 1024**3:.2f} GiB are free where the head of {about} keeps its files: "
                    "a head on a full disk ends",
                    group_id=cluster.group_id,
                    cluster_id=cluster.id,
                )

    def _event(
        self,
        level: EventLevel,
        kind: str,
        message: str,
        *,
        group_id: GroupId,
        cluster_id: ClusterId | None = None,
    ) -> None:
        record_event(
            self._catalog,
            self._clock,
            level=level,
            kind=kind,
            message=message,
            group_id=group_id,
            cluster_id=cluster_id,
        )


def oplog_window_seconds(client: "MongoClient[Document]") -> float | None:
    """From the oldest to the newest entry of a member's oplog; None where it has none. Raises as deployment does."""
    oplog = client.local["oplog.rs"]
    with translated_errors("reading the oplog"):
        ends = [oplog.find_one(sort=[("$natural", way)], projection={"ts": 1}) for way in (1, -1)]
    first, last = ends
    if first is None or last is None:
        return None
    return float(last["ts"].time - first["ts"].time)
