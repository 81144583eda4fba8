"""What each operation answers and takes: the part of its description that the table of operations has no place for.

By handler where one serves all families, else by the operation's name. A test sees that none is forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ebbtide.api import (
    backup_configs,
    checkpoints,
    groups,
    on_demand,
    own_projects,
    restorable_time_ranges,
    restore_jobs,
    schedules,
    snapshot_changes,
    snapshots,
)
from ebbtide.api.on_demand import RETENTION_DAYS_MAX
from ebbtide.api.openapi import (
    checkpoint_documents,
    documents,
    own_cluster_documents,
    own_documents,
    requests,
)
from ebbtide.api.operations import Handler, Operation

Schema = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """`answer` is the document, or one entity of a list's `results`; None: no body. `query` is parameters of its own.

    `is_list`: it answers with a list although no page can be asked for, as creating restore jobs does.
    `is_bare_array`: an array that is no list document.
    """

    answer: Any = None
    request: Any = None
    status: int = 200
    query: Mapping[str, Schema] | None = None
    is_list: bool = False
    is_bare_array: bool = False


_BATCH = {"batchId": {"type": "string", "pattern": "^[0-9a-f]{24}$"}}
_COMPLETED = {"completed": {"type": "string", "enum": ["all", "true", "false"], "default": "true"}}
_DELETED = {"deleted": {"type": "boolean", "default": False}}
_RETENTION = {
    "retentionDays": {"type": "integer", "minimum": 1, "maximum": RETENTION_DAYS_MAX, "default": 15}
}
_OF_CLUSTER = {"clusterName": {"type": "string", "pattern": "^[a-zA-Z0-9][a-zA-Z0-9-]*$"}}

_BY_HANDLER: dict[Handler, Facts] = {
    groups.list_groups: Facts(answer=documents.Group),
    groups.get_group: Facts(answer=documents.Group),
    groups.list_clusters: Facts(answer=documents.Cluster),
    groups.get_cluster: Facts(answer=documents.Cluster),
    groups.list_deployments: Facts(answer=documents.Deployment),
    groups.get_deployment: Facts(answer=documents.Deployment),
    restore_jobs.list_restore_jobs: Facts(answer=documents.RestoreJob, query=_BATCH),
    restore_jobs.get_restore_job: Facts(answer=documents.RestoreJob),
    restore_jobs.create_restore_job: Facts(
        answer=documents.RestoreJob, request=requests.RestoreJobRequest, is_list=True
    ),
    snapshots.list_snapshots: Facts(answer=documents.Snapshot, query=_COMPLETED),
    snapshots.get_snapshot: Facts(answer=documents.Snapshot),
    snapshot_changes.patch_snapshot: Facts(answer=documents.Snapshot, request=requests.SnapshotChange),
    snapshot_changes.delete: Facts(status=204),
    schedules.get_schedule: Facts(answer=documents.SnapshotSchedule),
    schedules.patch_schedule: Facts(answer=documents.SnapshotSchedule, request=requests.ScheduleChange),
    checkpoints.list_checkpoints: Facts(answer=documents.Checkpoint),
    checkpoints.get_checkpoint: Facts(answer=documents.Checkpoint),
    backup_configs.list_configs: Facts(answer=documents.BackupConfig),
    backup_configs.get_config: Facts(answer=documents.BackupConfig),
    backup_configs.patch_config: Facts(answer=documents.BackupConfig, request=requests.BackupConfigChange),
    on_demand.create_on_demand: Facts(
        answer=documents.OnDemandSnapshot, request=requests.Nothing, query=_RETENTION
    ),
    restorable_time_ranges.list_restorable_time_ranges: Facts(
        answer=documents.RestorableTimeRange, request=requests.Nothing, is_bare_array=True
    ),
    own_projects.get_project: Facts(answer=documents.Group),
    own_projects.create_project: Facts(answer=documents.Group, request=requests.ProjectRequest),
    own_projects.rename_project: Facts(answer=documents.Group, request=requests.ProjectRequest),
    own_projects.list_members: Facts(answer=own_documents.Member),
    own_projects.set_roles: Facts(answer=own_documents.Member, request=requests.RolesRequest),
}

_OWN_CLUSTER = own_cluster_documents.OwnCluster
_OWN_RESTORE = own_documents.OwnRestoreJob
_BY_NAME: dict[str, Facts] = {
    "listHostRestoreJobs": Facts(answer=documents.HostRestoreJob),
    "createHostRestoreJob": Facts(answer=documents.HostRestoreJob, request=requests.HostRestoreJobRequest),
    "getHostRestoreJob": Facts(answer=documents.HostRestoreJob),
    "listHostSnapshots": Facts(answer=documents.HostSnapshot, query=_COMPLETED),
    "getHostSnapshot": Facts(answer=documents.HostSnapshot),
    "listHosts": Facts(answer=own_documents.Host),
    "declareHost": Facts(answer=own_documents.Host, request=requests.HostRequest),
    "getHost": Facts(answer=own_documents.Host),
    "removeHost": Facts(answer=own_documents.Host),
    "listOwnHostSnapshots": Facts(answer=own_documents.OwnHostSnapshot),
    "createHostSnapshot": Facts(answer=own_documents.OwnHostSnapshot, request=requests.Nothing),
    "getOwnHostSnapshot": Facts(answer=own_documents.OwnHostSnapshot),
    "deleteHostSnapshot": Facts(answer=own_documents.OwnHostSnapshot),
    "updateOwnSnapshot": Facts(answer=own_documents.OwnSnapshot, request=requests.SnapshotChange),
    "undeleteSnapshot": Facts(answer=own_documents.OwnSnapshot, request=requests.Nothing),
    "listOwnClusters": Facts(answer=_OWN_CLUSTER),
    "registerCluster": Facts(
        answer=_OWN_CLUSTER | own_cluster_documents.RegistrationReport, request=requests.Registration
    ),
    "getOwnCluster": Facts(answer=_OWN_CLUSTER),
    "changeCluster": Facts(answer=_OWN_CLUSTER, request=requests.ClusterChange, status=202),
    "removeCluster": Facts(answer=_OWN_CLUSTER, status=202),
    "rejoinHead": Facts(answer=_OWN_CLUSTER, request=requests.Nothing, status=202),
    "detachCluster": Facts(answer=_OWN_CLUSTER, request=requests.Nothing, status=202),
    "pauseCluster": Facts(answer=_OWN_CLUSTER, request=requests.Nothing, status=202),
    "resumeCluster": Facts(answer=_OWN_CLUSTER, request=requests.Nothing, status=202),
    "renewCertificate": Facts(answer=_OWN_CLUSTER, request=requests.CertificateRequest, status=202),
    "setCredentials": Facts(answer=_OWN_CLUSTER, request=requests.Credentials, status=202),
    "listOwnSnapshots": Facts(answer=own_documents.OwnSnapshot, query=_DELETED),
    "createSnapshot": Facts(answer=own_documents.OwnSnapshot, request=requests.Nothing),
    "getOwnSnapshot": Facts(answer=own_documents.OwnSnapshot),
    "listOwnCheckpoints": Facts(answer=checkpoint_documents.OwnCheckpoint),
    "createCheckpoint": Facts(answer=checkpoint_documents.OwnCheckpoint, request=requests.Nothing),
    "getOwnCheckpoint": Facts(answer=checkpoint_documents.OwnCheckpoint),
    "getOwnRestoreJob": Facts(answer=own_documents.OwnRestoreJob),
    "cancelRestoreJob": Facts(answer=own_documents.OwnRestoreJob, request=requests.Nothing),
    "createPointInTimeRestore": Facts(
        answer=_OWN_RESTORE
        | own_documents.Resolution
        | own_documents.OwnBatch
        | own_documents.BatchResolution,
        request=requests.PointInTimeRequest,
    ),
    "createAutomatedRestore": Facts(
        answer=_OWN_RESTORE | own_documents.AutomatedPlan, request=requests.AutomatedRequest
    ),
    "undoAutomatedRestore": Facts(answer=_OWN_RESTORE | own_documents.AutomatedPlan, request=requests.DryRun),
    "setRestoreTarget": Facts(answer=_OWN_CLUSTER, request=requests.RestoreTarget),
    "getOplogRanges": Facts(answer=own_documents.OplogRanges),
    "listKeys": Facts(answer=own_documents.Key),
    "createKey": Facts(answer=own_documents.Key, request=requests.KeyRequest),
    "getKey": Facts(answer=own_documents.Key),
    "changeKey": Facts(answer=own_documents.Key, request=requests.KeyChange),
    "rotateKey": Facts(answer=own_documents.Key, request=requests.Nothing),
    "revokeKey": Facts(status=204),
    "listAccessListEntriesOfKey": Facts(answer=own_documents.KeyAccessEntry),
    "addAccessListEntriesOfKey": Facts(answer=own_documents.Key, request=list[requests.NetworkRequest]),
    "getAccessListEntryOfKey": Facts(answer=own_documents.KeyAccessEntry),
    "removeAccessListEntryOfKey": Facts(answer=own_documents.Key),
    "listServiceAccounts": Facts(answer=own_documents.ServiceAccount),
    "createServiceAccount": Facts(
        answer=own_documents.ServiceAccount, request=requests.ServiceAccountRequest
    ),
    "getServiceAccount": Facts(answer=own_documents.ServiceAccount),
    "changeServiceAccount": Facts(answer=own_documents.ServiceAccount, request=requests.ServiceAccountChange),
    "removeServiceAccount": Facts(status=204),
    "addServiceAccountSecret": Facts(answer=own_documents.ServiceAccount, request=requests.SecretRequest),
    "removeServiceAccountSecret": Facts(answer=own_documents.ServiceAccount),
    "listAccessListEntriesOfServiceAccount": Facts(answer=own_documents.AccountAccessEntry),
    "addAccessListEntriesOfServiceAccount": Facts(
        answer=own_documents.ServiceAccount, request=list[requests.NetworkRequest]
    ),
    "getAccessListEntryOfServiceAccount": Facts(answer=own_documents.AccountAccessEntry),
    "removeAccessListEntryOfServiceAccount": Facts(answer=own_documents.ServiceAccount),
    "startPrune": Facts(answer=own_documents.PruneRun, request=requests.DryRun),
    "getPrune": Facts(answer=own_documents.PruneRun),
    "listEvents": Facts(answer=own_documents.Event, query=_OF_CLUSTER),
    "listAllEvents": Facts(answer=own_documents.Event),
    "getStatus": Facts(answer=own_documents.Status),
}

UNKNOWN = Facts(answer=dict[str, Any])
"""Of an operation that nobody described: some document."""


def facts_of(operation: Operation) -> Facts:
    """What is known of an operation; UNKNOWN where that is nothing."""
    by_name = _BY_NAME.get(operation.name)
    return by_name or _BY_HANDLER.get(operation.handler, UNKNOWN)
