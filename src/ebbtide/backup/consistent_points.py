"""The latest moment at which all parts of a sharded cluster can be cut, as their archives tell.

Each part's archive is read from the record of open work that lies before the window on; only what finished within the
window is kept in memory. Where the window holds no consistent point it is made wider, up to all that there is.

Nothing is written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ebbtide.backup.open_work import part_name
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.consistent_point import (
    ConsistentPoint,
    NoConsistentPoint,
    PartHistory,
    latest_consistent_point,
)
from ebbtide.domain.open_work import newest_record
from ebbtide.domain.oplog import OplogGapError, chains
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import ObjectNotFound
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.open_work import OpenWorkStore
from ebbtide.oplog.transactions import HistoryReader
from ebbtide.repository.repository import Repository, never_cancelled

WINDOW_SECONDS = 60
WIDER = 8
ATTEMPTS = 3


class HasRepository(Protocol):
    """Whatever the archives are read by."""

    @property
    def repository(self) -> Repository: ...


@dataclass(frozen=True, kw_only=True)
class _PartArchive:
    """What can be read of one part: after each moment in `records` (oldest first, never empty), up to `through`."""

    name: str
    archive: OplogArchive
    records: tuple[OplogTimestamp, ...]
    through: OplogTimestamp


def find_consistent_point(
    parts: Sequence[Cluster],
    *,
    at_most: OplogTimestamp,
    context: HasRepository,
    check: Callable[[], None] = never_cancelled,
) -> ConsistentPoint | NoConsistentPoint:
    """The latest consistent point up to `at_most` of all `parts`, the config server too; or why there is none.

    `check` is called before each batch of entries and may raise. Raises OplogGapError or ObjectNotFound where entries go
    again and again while they are read, IntegrityError, StorageError; ValueError without parts.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return _find(parts, at_most, context, check)
        except (OplogGapError, ObjectNotFound):
            # A trim, with the record of what was open where it ended, came between listing and reading.
            check()
    return _find(parts, at_most, context, check)


def _find(
    parts: Sequence[Cluster], at_most: OplogTimestamp, context: HasRepository, check: Callable[[], None]
) -> ConsistentPoint | NoConsistentPoint:
    archives = []
    for part in parts:
        found = _find_archive(part, at_most, context)
        if found is None:
            return NoConsistentPoint(
                reason=f"the archive of {part.name} does not tell what was open at or before {at_most}"
            )
        archives.append(found)
    width = WINDOW_SECONDS
    while True:
        latest = min(at_most, *(found.through for found in archives)) if archives else at_most
        start = OplogTimestamp(max(0, latest.seconds - width), 0)
        histories = [_read(found, start, check) for found in archives]
        point = latest_consistent_point(histories, at_most=at_most)
        if isinstance(point, ConsistentPoint) or all(start < found.records[0] for found in archives):
            return point
        width *= WIDER


def _find_archive(part: Cluster, at_most: OplogTimestamp, context: HasRepository) -> _PartArchive | None:
    store = context.repository.replica_set(part.id, part.replica_set_name)
    archive = OplogArchive(store)
    begun = [chain for chain in chains(archive.slices()) if chain.starts_after <= at_most]
    if not begun:
        return None
    starts_after, last = begun[-1].starts_after, begun[-1].range.last.timestamp
    through = min(at_most, last)
    moments = OpenWorkStore(store).moments()
    records = tuple(at for at in moments if starts_after <= at <= through)
    if not records:
        return None
    return _PartArchive(name=part_name(part), archive=archive, records=records, through=through)


def _read(found: _PartArchive, start: OplogTimestamp, check: Callable[[], None]) -> PartHistory:
    """What the part says since `start`, or a little longer; since its first record where that is later."""
    first = found.records[0]
    begin = newest_record(found.records, chain_starts_after=first, at_most=start) or first
    opening = OpenWorkStore(found.archive.store).load(begin)
    reader = HistoryReader(found.name, after=begin, opening=opening)
    for batch in found.archive.iter_batches(after=begin, through=found.through):
        check()
        reader.read(batch.raw)
        if batch.last.timestamp <= start:
            reader.forget_finished(batch.last.timestamp)
    return reader.history(found.through)
