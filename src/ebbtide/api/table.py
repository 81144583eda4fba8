"""The table of all operations: what the API can be asked, in every family.

Atlas' second version is made from the first: another prefix, another media type, and its own operation ids.
"""

from dataclasses import replace

from ebbtide.api import (
    checkpoints,
    ebbtide_v1,
    groups,
    public_v1,
    restore_jobs,
    schedules,
    snapshot_changes,
    snapshots,
)
from ebbtide.api.families import Family
from ebbtide.api.operations import Operation

# Contract section 11: the ids of 2026; what they do not name keeps its own with the version.
_V2_NAMES = {
    "listLegacyBackupRestoreJobs": "listClusterRestoreJobs",
    "createLegacyBackupRestoreJob": "createClusterRestoreJob",
    "getLegacyBackupRestoreJob": "getClusterRestoreJob",
    "listLegacySnapshots": "listClusterSnapshots",
    "getLegacySnapshot": "getClusterSnapshot",
    "updateLegacySnapshotRetention": "updateClusterSnapshot",
    "deleteLegacySnapshot": "deleteClusterSnapshot",
    "getLegacySnapshotSchedule": "getClusterSnapshotSchedule",
    "updateLegacySnapshotSchedule": "updateClusterSnapshotSchedule",
    "listLegacyBackupCheckpoints": "listClusterBackupCheckpoints",
    "getLegacyBackupCheckpoint": "getClusterBackupCheckpoint",
}


def _to_v2(operation: Operation) -> Operation:
    return replace(
        operation,
        name=_V2_NAMES.get(operation.name, f"{operation.name}V2"),
        path=operation.path.replace(Family.ATLAS.value, Family.ATLAS_V2.value, 1),
    )


_HOSTED: tuple[Operation, ...] = (
    *groups.OPERATIONS,
    *restore_jobs.OPERATIONS,
    *snapshots.OPERATIONS,
    *snapshot_changes.OPERATIONS,
    *schedules.OPERATIONS,
    *checkpoints.OPERATIONS,
)

OPERATIONS: tuple[Operation, ...] = (
    *_HOSTED,
    *(_to_v2(operation) for operation in _HOSTED if operation.family is Family.ATLAS),
    *public_v1.OPERATIONS,
    *ebbtide_v1.OPERATIONS,
)


def aliases_of(path: str) -> tuple[str, ...]:
    """Other spellings of a path that are answered and never shown: an old page of Cloud Manager has `restorejobs`."""
    if path.startswith(Family.CLOUD.value) and "/restoreJobs" in path:
        return (path.replace("/restoreJobs", "/restorejobs"),)
    return ()
