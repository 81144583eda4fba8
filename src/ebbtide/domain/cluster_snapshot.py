"""A snapshot of a sharded cluster: one ordinary snapshot of each part, and one cluster time that all parts passed. Pure.

Invariants
  * `parts` is written once, before any part's snapshot is asked for: a later attempt goes on with the same ones
  * `cluster_time` is noted after all of them were complete, so every part's T_s lies at or before it. To restore the
    snapshot means: the latest consistent point at or before it
  * a part's snapshot names its cluster snapshot, and follows it: kept while that is listed, deleted with it
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import final

from ebbtide.domain.cluster import Cluster
from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.sharding import PartAddress, ShardedTopology
from ebbtide.domain.snapshot import Snapshot, SnapshotState


@dataclass(frozen=True, kw_only=True)
class PartSnapshot:
    """The snapshot of one part: which shard, or the config server, under which id. `cluster_id` is the part's own."""

    cluster_id: ClusterId
    snapshot_id: SnapshotId
    shard_name: str | None
    is_config_server: bool
    replica_set_name: str


@final
@dataclass(frozen=True, kw_only=True)
class ClusterSnapshot:
    """The data of all parts of a sharded cluster. `cluster_id` is the sharded cluster's own.

    `created` is when it was asked for. `is_possibly_inconsistent`: chunks may have moved while parts were taken; what
    is restored to a consistent point is whole all the same. `message` says why it failed, or what it waits for. The
    other fields are those of a `Snapshot`.
    """

    id: SnapshotId
    group_id: GroupId
    cluster_id: ClusterId
    cluster_name: str
    created: datetime
    state: SnapshotState
    parts: tuple[PartSnapshot, ...] = ()
    completed: datetime | None = None
    cluster_time: OplogTimestamp | None = None
    is_possibly_inconsistent: bool = False
    do_not_delete: bool = False
    expires: datetime | None = None
    scheduled_for: datetime | None = None
    message: str = ""
    deleted: datetime | None = None
    prune_after: datetime | None = None

    @property
    def is_listed(self) -> bool:
        """Whether people see it, so that its parts must stay."""
        return self.state in (SnapshotState.IN_PROGRESS, SnapshotState.COMPLETE)


AnySnapshot = Snapshot | ClusterSnapshot
"""A snapshot of a replica set, or of a sharded cluster: what people ask for, keep and delete as one."""


@dataclass(frozen=True, kw_only=True)
class PartsMatch:
    """The registered parts that make up the cluster as it is now, and the names of those that are not registered."""

    present: tuple[Cluster, ...]
    missing: tuple[str, ...]


def match_parts(topology: ShardedTopology, registered: Sequence[Cluster]) -> PartsMatch:
    """Which registered parts a snapshot of the cluster is made of, the config server first.

    A part is known by its shard's name and its set's name together: a shard that left, and came back under its old name
    as another set, is not the part that was registered.
    """
    by_address = {(_part_name(part), part.replica_set_name): part for part in registered}
    found = [
        (address, by_address.get((_name(address), address.replica_set_name))) for address in topology.parts
    ]
    return PartsMatch(
        present=tuple(part for _, part in found if part is not None),
        missing=tuple(address.name for address, part in found if part is None),
    )


def _name(address: PartAddress) -> str | None:
    return None if address.is_config_server else address.name


def _part_name(part: Cluster) -> str | None:
    return None if part.is_config_server else part.shard_name


@dataclass(frozen=True)
class PartsWait:
    """Some are not complete; `done` are."""

    done: int


@dataclass(frozen=True)
class PartsComplete:
    """All are."""


@dataclass(frozen=True)
class PartsFailed:
    """One cannot become complete any more: `reason` names it."""

    reason: str


def judge_parts(
    parts: Sequence[PartSnapshot], snapshots: Mapping[SnapshotId, Snapshot]
) -> PartsWait | PartsComplete | PartsFailed:
    """How far the parts' snapshots are; one that is not in `snapshots` was not asked for yet."""
    done = 0
    for part in parts:
        snapshot = snapshots.get(part.snapshot_id)
        match None if snapshot is None else snapshot.state:
            case SnapshotState.COMPLETE:
                done += 1
            case SnapshotState.FAILED:
                reason = "" if snapshot is None else snapshot.error
                return PartsFailed(f"the snapshot of {label(part)} failed: {reason}")
            case SnapshotState.DELETED:
                return PartsFailed(f"the snapshot of {label(part)} was deleted meanwhile")
            case _:
                pass
    return PartsComplete() if parts and done == len(parts) else PartsWait(done)


def label(part: PartSnapshot) -> str:
    """The part as people call it."""
    return "the config server" if part.is_config_server else f"shard {part.shard_name}"
