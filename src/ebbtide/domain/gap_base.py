"""When a snapshot is asked for because of a gap in the oplog archive, and asked for again. Pure.

Behind a gap nothing can be restored until there is a snapshot behind it. One that was asked for and failed (or came out
with data of before the gap, from a head that lagged) is asked for again: 15 minutes after the last try was asked for,
then 30, doubling up to 6 hours. The snapshots of the schedule come besides, and count as tries.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from ebbtide.domain.oplog import OplogGap
from ebbtide.domain.snapshot import Snapshot, SnapshotState

AGAIN_FIRST = timedelta(minutes=15)
AGAIN_MAX = timedelta(hours=6)


def needs_base(gap: OplogGap, snapshots: Iterable[Snapshot], *, now: datetime) -> bool:
    """Whether to ask for a snapshot now. `snapshots` are the cluster's, of any state.

    One that is being taken since the gap was found is waited for; one that somebody deleted was a base as long as they
    wanted one.
    """
    snapshots = list(snapshots)
    if any(_is_behind(s, gap) for s in snapshots):
        return False
    tries = [s for s in snapshots if s.created > gap.found]
    if any(s.state in (SnapshotState.IN_PROGRESS, SnapshotState.DELETED) for s in tries):
        return False
    if not tries:
        return True
    delay: timedelta = min(AGAIN_MAX, AGAIN_FIRST * 2 ** min(len(tries) - 1, 10))
    return now >= max(s.created for s in tries) + delay


def _is_behind(snapshot: Snapshot, gap: OplogGap) -> bool:
    applied = snapshot.applied_timestamp
    return (
        snapshot.state is SnapshotState.COMPLETE and applied is not None and applied >= gap.before.timestamp
    )
