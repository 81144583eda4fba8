"""Cloud and Ops Manager's family: clusters by id, and their own names for some resources (contract section 2).

Rows only: the resource functions are those of the other families. Writes need a role that may write (contract 4.4);
a listed address only where the manuals say so (contract 4.3).
"""

from ebbtide.api import (
    backup_configs,
    checkpoints,
    groups,
    hosts,
    on_demand,
    restorable_time_ranges,
    restore_jobs,
    schedules,
    snapshot_changes,
    snapshots,
)
from ebbtide.api.families import Family
from ebbtide.api.operations import Handler, Need, Operation, Scope

_GROUPS = f"{Family.CLOUD.value}/groups"
_GROUP = f"{_GROUPS}/{{groupId}}"
_CLUSTER = f"{_GROUP}/clusters/{{clusterId}}"
_HOST = f"{_GROUP}/hosts/{{hostId}}"
_CONFIG = f"{_GROUP}/backupConfigs/{{clusterId}}"


def _read(name: str, path: str, handler: Handler, *, is_list: bool = False) -> Operation:
    return Operation(
        name=name, method="GET", path=path, handler=handler, scope=scope_of(path), is_list=is_list
    )


def _write(name: str, method: str, path: str, handler: Handler, *, listed: bool = False) -> Operation:
    return Operation(
        name=name,
        method=method,
        path=path,
        handler=handler,
        scope=scope_of(path),
        need=Need.WRITE,
        needs_listed_address=listed,
    )


def scope_of(path: str) -> Scope:
    """What a path names."""
    if "{clusterId}" in path:
        return Scope.CLUSTER
    return Scope.GROUP if "{groupId}" in path else Scope.SERVICE


OPERATIONS: tuple[Operation, ...] = (
    _read("listProjects", _GROUPS, groups.list_groups, is_list=True),
    _read("getProject", _GROUP, groups.get_group),
    _read("listDeployments", f"{_GROUP}/clusters", groups.list_deployments, is_list=True),
    _read("getDeployment", _CLUSTER, groups.get_deployment),
    _read("listRestoreJobs", f"{_CLUSTER}/restoreJobs", restore_jobs.list_restore_jobs, is_list=True),
    _write(
        "createRestoreJob", "POST", f"{_CLUSTER}/restoreJobs", restore_jobs.create_restore_job, listed=True
    ),
    Operation(
        name="listRestorableTimeRanges",
        method="POST",
        path=f"{_CLUSTER}/restoreJobs/restorableTimeRanges",
        handler=restorable_time_ranges.list_restorable_time_ranges,
        scope=Scope.CLUSTER,
        need=Need.SURVEY,
        reads_by_post=True,
    ),
    _read("getRestoreJob", f"{_CLUSTER}/restoreJobs/{{jobId}}", restore_jobs.get_restore_job),
    _read("listCheckpoints", f"{_CLUSTER}/checkpoints", checkpoints.list_checkpoints, is_list=True),
    _read("getCheckpoint", f"{_CLUSTER}/checkpoints/{{checkpointId}}", checkpoints.get_checkpoint),
    _write(
        "createOnDemandSnapshot", "POST", f"{_CLUSTER}/snapshots/onDemandSnapshot", on_demand.create_on_demand
    ),
    _read("listBackupConfigs", f"{_GROUP}/backupConfigs", backup_configs.list_configs, is_list=True),
    _read("getBackupConfig", _CONFIG, backup_configs.get_config),
    _write("changeBackupConfig", "PATCH", _CONFIG, backup_configs.patch_config),
    _read("listHostRestoreJobs", f"{_HOST}/restoreJobs", hosts.list_restore_jobs, is_list=True),
    _write("createHostRestoreJob", "POST", f"{_HOST}/restoreJobs", hosts.create_restore_job, listed=True),
    _read("getHostRestoreJob", f"{_HOST}/restoreJobs/{{jobId}}", hosts.get_restore_job),
    _read("listHostSnapshots", f"{_HOST}/snapshots", hosts.list_snapshots, is_list=True),
    _read("getHostSnapshot", f"{_HOST}/snapshots/{{snapshotId}}", hosts.get_snapshot),
    _read("listSnapshots", f"{_CLUSTER}/snapshots", snapshots.list_snapshots, is_list=True),
    _read("getSnapshot", f"{_CLUSTER}/snapshots/{{snapshotId}}", snapshots.get_snapshot),
    _write(
        "changeSnapshot", "PATCH", f"{_CLUSTER}/snapshots/{{snapshotId}}", snapshot_changes.patch_snapshot
    ),
    _write(
        "deleteSnapshot",
        "DELETE",
        f"{_CLUSTER}/snapshots/{{snapshotId}}",
        snapshot_changes.delete,
        listed=True,
    ),
    _read("getSnapshotSchedule", f"{_CONFIG}/snapshotSchedule", schedules.get_schedule),
    _write("changeSnapshotSchedule", "PATCH", f"{_CONFIG}/snapshotSchedule", schedules.patch_schedule),
)
