"""The wire types against the contract's tables, in both directions: what is always there is there, and nothing is sent
that neither those tables nor the patched official description know.

Real answers are compared with the wire types elsewhere, so what holds for these holds for what is sent.
"""

from typing import Any

import conformance_reference as reference
import pytest

from ebbtide.api.openapi import documents

# Contract 6.3 to 6.5: always present, and present under a condition.
JOB = (
    "id groupId clusterId clusterName created statusName pointInTime timestamp encryptionEnabled delivery links",
    "batchId snapshotId hostId masterKeyUUID hashes deploymentJobId",
)
DELIVERY = (
    "methodName statusName",
    "expirationHours maxDownloads expires url urlV2 authHeader authValue authBearer targetGroupId targetClusterId"
    " targetClusterName formatName hostname port targetDirectory",
)
HASH = ("typeName fileName hash", "links")
# Contract 7.
SNAPSHOT = (
    "id groupId clusterId clusterName complete created doNotDelete incremental parts links",
    "lastOplogAppliedTimestamp expires isPossiblyInconsistent missingShards namespaceFilterList",
)
PART = (
    "typeName clusterId replicaSetName compressionSetting encryptionEnabled",
    "mongodVersion fcv dataSizeBytes storageSizeBytes fileSizeBytes masterKeyUUID machineId replicaState completedTime"
    " hostId",
)
FILTER = ("filterType filterList", "")
# Contract 8.
CHECKPOINT = ("id groupId clusterId started completed timestamp restorable parts links", "")
CHECKPOINT_PART = ("typeName replicaSetName tokenDiscovered tokenTimestamp", "shardName hostId")
# Contract 9.
SCHEDULE = (
    "clusterId groupId snapshotIntervalHours snapshotRetentionDays dailySnapshotRetentionDays"
    " weeklySnapshotRetentionWeeks monthlySnapshotRetentionMonths pointInTimeWindowHours links",
    "clusterCheckpointIntervalMin referenceHourOfDay referenceMinuteOfHour referenceTimeZoneOffset"
    " fullIncrementalDayOfWeek",
)
# Contract 10 and 5.
CONFIG = (
    "groupId clusterId statusName storageEngineName authMechanismName sslEnabled syncSource encryptionEnabled"
    " provisioned links",
    "username excludedNamespaces includedNamespaces",
)
# `replicaSetName` is of the two replica-set types.
DEPLOYMENT = ("id groupId clusterName typeName links", "replicaSetName shardName lastHeartbeat")
TIME_RANGE = ("start end snapshotId", "shardCount configServerType")
ON_DEMAND = ("clusterName description timestamp", "")
GROUP = ("id name clusterCount created links", "")
CLUSTER = ("id name groupId clusterType mongoDBVersion links", "")
TIMESTAMP = ("date increment", "")
# `checks` is ours: the whole of a refused registration, in Ebbtide's own API.
ERROR = ("error reason detail", "errorCode parameters badRequestDetail checks")

ROWS: list[tuple[Any, tuple[str, str], str | None]] = [
    (documents.RestoreJob, JOB, "BackupRestoreJob"),
    (documents.Delivery, DELIVERY, "BackupRestoreJobDelivery"),
    (documents.Hash, HASH, "RestoreJobFileHash"),
    (documents.Snapshot, SNAPSHOT, "BackupSnapshot"),
    (documents.SnapshotPart, PART, "BackupSnapshotPart"),
    (documents.NamespaceFilterList, FILTER, None),
    (documents.Checkpoint, CHECKPOINT, "ApiAtlasCheckpointView"),
    (documents.CheckpointPart, CHECKPOINT_PART, "ApiCheckpointPartView"),
    (documents.SnapshotSchedule, SCHEDULE, "ApiAtlasSnapshotScheduleView"),
    (documents.BsonTimestamp, TIMESTAMP, "ApiBSONTimestampView"),
    (documents.Error, ERROR, "ApiError"),
    (documents.BackupConfig, CONFIG, None),
    (documents.Deployment, DEPLOYMENT, None),
    (documents.RestorableTimeRange, TIME_RANGE, None),
    (documents.OnDemandSnapshot, ON_DEMAND, None),
    (documents.Group, GROUP, None),
    (documents.Cluster, CLUSTER, None),
]
_IDS = [row[0].__name__ for row in ROWS]


@pytest.mark.parametrize(("kind", "table", "_"), ROWS, ids=_IDS)
def test_what_the_contract_always_has_is_always_sent(
    kind: Any, table: tuple[str, str], _: str | None
) -> None:
    assert set(table[0].split()) <= kind.__required_keys__


@pytest.mark.parametrize(("kind", "table", "_"), ROWS, ids=_IDS)
def test_nothing_is_sent_that_the_contract_does_not_know(
    kind: Any, table: tuple[str, str], _: str | None
) -> None:
    sent = kind.__required_keys__ | kind.__optional_keys__
    assert sent <= set(" ".join(table).split())


@pytest.mark.parametrize(
    ("kind", "schema"), [(kind, schema) for kind, _, schema in ROWS if schema is not None]
)
def test_the_official_description_knows_what_is_sent(kind: Any, schema: str) -> None:
    """What it does not know is of Cloud and Ops Manager, or ours, and named here."""
    properties = reference.openapi()["components"]["schemas"][schema]["properties"]
    unknown = (kind.__required_keys__ | kind.__optional_keys__) - properties.keys()
    assert unknown <= {
        *("namespaceFilterList", "fullIncrementalDayOfWeek", "checks"),
        *("isPossiblyInconsistent", "missingShards"),
        *("referenceHourOfDay", "referenceMinuteOfHour", "referenceTimeZoneOffset"),
    }
