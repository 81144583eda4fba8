"""Gaps in the oplog archive: recorded from what the repository shows, told once, and followed by a new base snapshot.

A gap is where a chain of slices begins although there are older ones. So it is known from the repository alone, and
after a crash at any moment the next look records what is not recorded yet.
"""

import structlog

from ebbtide.backup.context import BackupContext
from ebbtide.backup.requesting import request_snapshot
from ebbtide.domain.archive_state import ArchiveState
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.event import EventLevel
from ebbtide.domain.gap_base import needs_base
from ebbtide.domain.oplog import OplogGap, update_gaps
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import Refused
from ebbtide.events import record_event
from ebbtide.oplog.archive import OplogArchive

ACTOR = "oplog archive"

_log = structlog.get_logger()


def record_gaps(
    cluster: Cluster, state: ArchiveState, archive: OplogArchive, *, reason: str, context: BackupContext
) -> ArchiveState:
    """Record where the archive begins and what it lacks, and tell of new gaps; what was trimmed away is forgotten."""
    slices = archive.slices()
    gaps = update_gaps(state.gaps, slices, now=context.clock.now(), reason=reason)
    oldest = slices[0].first if slices else None
    if (gaps, oldest) == (state.gaps, state.oldest):
        return state
    updated = context.catalog.archives.update(cluster.id, gaps=gaps, oldest=oldest)
    for gap in gaps:
        if gap not in state.gaps:
            _tell(cluster, gap, context)
    return updated or state


def _tell(cluster: Cluster, gap: OplogGap, context: BackupContext) -> None:
    record_event(
        context.catalog,
        context.clock,
        level=EventLevel.ERROR,
        kind="oplog.gap",
        message=f"the oplog archive of {cluster.name} lacks what lies between {gap.after} and {gap.before}"
        f"{': ' + gap.reason if gap.reason else ''}; a new snapshot is taken to go on from",
        group_id=cluster.group_id,
        cluster_id=cluster.id,
    )


def ask_for_base(cluster: Cluster, state: ArchiveState, context: BackupContext) -> None:
    """Have a snapshot taken where the newest gap has none behind it. Harmless to repeat: look often."""
    if not state.gaps:
        return
    snapshots = context.catalog.snapshots.list_in_state(cluster.id, *SnapshotState)
    if not needs_base(state.gaps[-1], snapshots, now=context.clock.now()):
        return
    try:
        request_snapshot(cluster, catalog=context.catalog, clock=context.clock, actor=ACTOR)
    except Refused as error:
        # The head does not follow, or a snapshot is being taken that began before the gap was found.
        _log.debug("oplog.base_waits", message=error.message)
