"""The parts' snapshots of a snapshot of a sharded cluster, as the job of the whole sees them: how far they are, whether
anything goes on, and letting go of them when the whole has failed.

Crash: a part's snapshot that was not let go yet is let go by the worker's tidying.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.cluster_snapshot import (
    ClusterSnapshot,
    PartsComplete,
    PartsFailed,
    PartSnapshot,
    PartsWait,
    judge_parts,
    label,
)
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.job import JobKind, job_id
from ebbtide.domain.snapshot import Snapshot, SnapshotState


@dataclass(frozen=True)
class _Mark:
    """The farthest that one part was seen: later phases count more, then bytes."""

    is_complete: bool
    phases: frozenset[str]
    done: int


class PartsWatch:
    """Looks at the parts now and then. For one thread."""

    def __init__(self, parts: Sequence[PartSnapshot], *, catalog: Catalog, clock: Clock) -> None:
        self._parts = parts
        self._catalog = catalog
        self._clock = clock
        self._marks: dict[SnapshotId, _Mark] = {}
        self._moved_at = clock.monotonic()

    def look(self) -> PartsWait | PartsComplete | PartsFailed:
        """How far the parts are now."""
        snapshots = self._catalog.snapshots.find_many(part.snapshot_id for part in self._parts)
        marks = {snapshot_id: self._mark(snapshot) for snapshot_id, snapshot in snapshots.items()}
        if marks != self._marks:
            self._marks = marks
            self._moved_at = self._clock.monotonic()
        return judge_parts(self._parts, snapshots)

    def stands_still_seconds(self) -> float:
        """Since when no part went further than it had been: one that begins again and again does not."""
        return self._clock.monotonic() - self._moved_at

    def waiting_reasons(self) -> list[str]:
        """What the parts that are not complete say that they wait for."""
        found = []
        for part in self._parts:
            job = self._catalog.jobs.find(job_id(JobKind.SNAPSHOT, part.snapshot_id))
            if job is not None and job.error:
                found.append(f"{label(part)}: {job.error}")
        return found

    def _mark(self, snapshot: Snapshot) -> _Mark:
        before = self._marks.get(snapshot.id, _Mark(False, frozenset(), 0))
        if snapshot.state is SnapshotState.COMPLETE:
            return _Mark(True, before.phases, before.done)
        job = self._catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))
        if job is None or job.progress is None:
            return before
        return _Mark(False, before.phases | {job.progress.phase}, max(before.done, job.progress.done))


def abandon_parts(snapshot: ClusterSnapshot, *, catalog: Catalog, clock: Clock) -> None:
    """Stop what is still being taken for a snapshot that failed. What is complete stays, as a snapshot of its own part."""
    for part in snapshot.parts:
        abandon_part(part.snapshot_id, catalog=catalog, clock=clock)


def abandon_part(snapshot_id: SnapshotId, *, catalog: Catalog, clock: Clock) -> None:
    """Harmless where it is over. One that a worker has is told to stop, and ends itself."""
    job = catalog.jobs.request_cancel(job_id(JobKind.SNAPSHOT, snapshot_id))
    if job is not None and job.lease_until is not None and job.lease_until > clock.now():
        return
    catalog.snapshots.update(
        snapshot_id, state=SnapshotState.FAILED, error="the snapshot of its sharded cluster failed"
    )
