"""A snapshot as the catalog lists it. The repository's manifest is the truth; this can be rebuilt from it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import final

from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId
from ebbtide.domain.optime import OplogTimestamp


class SnapshotState(StrEnum):
    """Where a snapshot is."""

    IN_PROGRESS = "IN_PROGRESS"  # being taken, or waiting to be
    COMPLETE = "COMPLETE"  # committed in the repository
    FAILED = "FAILED"  # given up; nothing of it is kept
    DELETED = (
        "DELETED"  # hidden; its data stays until prune may remove it, and until then it can be brought back
    )


@final
@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The data of one replica set at one moment.

    `created` is when it was asked for. `stable_timestamp` (T_s) is where a plain mongod opens the files;
    `applied_timestamp` (T_a ≥ T_s) is the newest entry of the oplog inside them. All sizes in bytes:
    `file_size` of the files, `stored` the stored length of all of them, `new_stored` what this snapshot added.

    `expires` is when retention may delete it. `scheduled_for` is the slot of the schedule that asked for it; None: a
    person did. A deleted one was deleted at `deleted`; prune may remove its data from `prune_after` on, and has begun
    to once `removed` is set: from then on nothing brings it back.

    `cluster_snapshot_id`: it is a part of that snapshot of a sharded cluster, and follows it.
    """

    id: SnapshotId
    group_id: GroupId
    cluster_id: ClusterId
    cluster_name: str
    replica_set_name: str
    created: datetime
    state: SnapshotState
    completed: datetime | None = None
    parent_id: SnapshotId | None = None
    stable_timestamp: OplogTimestamp | None = None
    applied_timestamp: OplogTimestamp | None = None
    mongod_version: str = ""
    fcv: str = ""
    machine: str = ""
    data_size_bytes: int = 0
    storage_size_bytes: int = 0
    file_size_bytes: int = 0
    stored_bytes: int = 0
    new_stored_bytes: int = 0
    lock_seconds: float | None = None
    do_not_delete: bool = False
    expires: datetime | None = None
    error: str = ""
    scheduled_for: datetime | None = None
    deleted: datetime | None = None
    prune_after: datetime | None = None
    removed: datetime | None = None
    cluster_snapshot_id: SnapshotId | None = None


def is_trusted_parent(snapshot: Snapshot, *, damage_found: datetime) -> bool:
    """Whether a snapshot may be built upon after damage was found among the snapshots of its cluster.

    Only one that was asked for afterwards: it was itself built on nothing, or on such a one.
    """
    return snapshot.created > damage_found
