"""Shapes of the documents that the hosted services' families answer with, as types.

They describe what `api.wire` builds, field by field; tests compare real answers with them. What is not `NotRequired` is
always there. Sources: contract sections 5 to 10.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ebbtide.domain.backup_config import BackupStatus
from ebbtide.domain.restore_job import DeliveryStatus, RestoreStatus
from ebbtide.domain.schedule import WEEKDAYS

INT32_MAX = 2**31 - 1


def _text(**schema: Any) -> Any:
    return Field(json_schema_extra=schema)


Id = Annotated[str, Field(pattern="^[0-9a-f]{24}$", examples=["5a6fbb9e96e8216d2a5bb4c1"])]
HostId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Date = Annotated[str, _text(format="date-time", examples=["2026-01-24T22:11:41Z"])]
Url = Annotated[str, _text(format="uri")]
Int32 = Annotated[int, Field(ge=0, le=INT32_MAX)]
Bytes = Annotated[int, Field(ge=0, le=2**63 - 1)]
Weekday = Annotated[str, _text(enum=list(WEEKDAYS))]


class Link(TypedDict):
    """A link; `rel` is a name or, for relations of Cloud and Ops Manager, a URL."""

    rel: str
    href: Url


class BsonTimestamp(TypedDict):
    """A place in an oplog: whole seconds, and the number within the second."""

    date: Date
    increment: Annotated[int, Field(ge=0, lt=2**32)]


class BadField(TypedDict):
    """One bad field of a body."""

    field: str
    description: str


class BadRequestDetail(TypedDict):
    """Every bad field of a body."""

    fields: list[BadField]


class RegistrationCheck(TypedDict):
    """One thing that a registration looks at; `fix` is empty where there is nothing to mend."""

    name: str
    ok: bool
    what: str
    fix: str


class Error(TypedDict):
    """A refusal. Without `errorCode` only where nobody is logged in."""

    error: Annotated[int, Field(ge=400, le=599)]
    reason: str
    detail: str
    errorCode: NotRequired[str]
    parameters: NotRequired[list[str]]
    badRequestDetail: NotRequired[BadRequestDetail]
    checks: NotRequired[list[RegistrationCheck]]


class Group(TypedDict):
    """A project."""

    id: Id
    name: str
    clusterCount: Int32
    created: Date
    links: list[Link]


class Cluster(TypedDict):
    """A cluster in Atlas' words."""

    id: Id
    name: str
    groupId: Id
    clusterType: Literal["REPLICASET", "SHARDED"]
    mongoDBVersion: str
    links: list[Link]


class Deployment(TypedDict):
    """A cluster in the words of Cloud and Ops Manager."""

    id: Id
    groupId: Id
    clusterName: str
    typeName: Literal["REPLICA_SET", "CONFIG_SERVER_REPLICA_SET", "SHARDED_REPLICA_SET"]
    replicaSetName: NotRequired[str]
    shardName: NotRequired[str]
    lastHeartbeat: NotRequired[Date]
    links: list[Link]


class Hash(TypedDict):
    """A hash of the whole download."""

    typeName: Literal["SHA1"]
    fileName: str
    hash: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]


class Delivery(TypedDict):
    """How the result of a restore arrives. The link's fields are only for who could have asked for it."""

    methodName: Literal["HTTP"]
    statusName: DeliveryStatus
    expirationHours: NotRequired[Annotated[int, Field(ge=1)]]
    maxDownloads: NotRequired[Annotated[int, Field(ge=1, le=INT32_MAX)]]
    expires: NotRequired[Date]
    url: NotRequired[Url]
    urlV2: NotRequired[Url]
    authHeader: NotRequired[str]
    authBearer: NotRequired[str]
    authValue: NotRequired[str]
    targetGroupId: NotRequired[Id]
    targetClusterId: NotRequired[Id]
    targetClusterName: NotRequired[str]


class HostRestoreJob(TypedDict):
    """A restore job of a mirrored config server."""

    id: Id
    groupId: Id
    hostId: HostId
    snapshotId: Id
    created: Date
    statusName: RestoreStatus
    pointInTime: NotRequired[bool]
    timestamp: NotRequired[BsonTimestamp]
    encryptionEnabled: bool
    masterKeyUUID: NotRequired[str]
    delivery: Delivery
    hashes: NotRequired[list[Hash]]
    links: list[Link]


class RestoreJob(TypedDict):
    """A restore job; of a part of a sharded cluster, one of a batch."""

    id: Id
    groupId: Id
    batchId: NotRequired[Id]
    clusterId: Id
    clusterName: str
    snapshotId: NotRequired[Id]
    created: Date
    statusName: RestoreStatus
    pointInTime: bool
    timestamp: BsonTimestamp
    encryptionEnabled: bool
    delivery: Delivery
    hashes: NotRequired[list[Hash]]
    links: list[Link]


class SnapshotPart(TypedDict):
    """What a snapshot holds of one replica set; sizes once it is complete."""

    typeName: Literal["REPLICA_SET", "CONFIG_SERVER_REPLICA_SET"]
    clusterId: Id
    replicaSetName: str
    mongodVersion: NotRequired[str]
    fcv: NotRequired[str]
    dataSizeBytes: NotRequired[Bytes]
    storageSizeBytes: NotRequired[Bytes]
    fileSizeBytes: NotRequired[Bytes]
    compressionSetting: Literal["GZIP"]
    encryptionEnabled: bool
    machineId: NotRequired[str]
    replicaState: Literal["SECONDARY"]
    completedTime: NotRequired[Date]


class NamespaceFilterList(TypedDict):
    """Which namespaces a snapshot leaves out: none."""

    filterType: Literal["blacklist"]
    filterList: list[str]


class HostSnapshotPart(TypedDict):
    """What a snapshot holds of a mirrored config server; sizes once it is complete."""

    typeName: Literal["CONFIG_SERVER"]
    hostId: HostId
    mongodVersion: NotRequired[str]
    fcv: NotRequired[str]
    dataSizeBytes: NotRequired[Bytes]
    storageSizeBytes: NotRequired[Bytes]
    fileSizeBytes: NotRequired[Bytes]
    encryptionEnabled: bool
    machineId: NotRequired[str]
    completedTime: NotRequired[Date]


class HostSnapshot(TypedDict):
    """A snapshot of a mirrored config server."""

    id: Id
    groupId: Id
    hostId: HostId
    complete: bool
    created: BsonTimestamp
    lastOplogAppliedTimestamp: NotRequired[BsonTimestamp]
    doNotDelete: bool
    expires: NotRequired[Date]
    incremental: bool
    parts: list[HostSnapshotPart]
    namespaceFilterList: NotRequired[NamespaceFilterList]
    links: list[Link]


class Snapshot(TypedDict):
    """A snapshot: of a sharded cluster with one part for each shard and one for the config server, else with one part.

    `namespaceFilterList` in the family of Cloud and Ops Manager, and, of a sharded cluster, the two before it.
    """

    id: Id
    groupId: Id
    clusterId: Id
    clusterName: str
    complete: bool
    created: BsonTimestamp
    lastOplogAppliedTimestamp: NotRequired[BsonTimestamp]
    doNotDelete: bool
    expires: NotRequired[Date]
    incremental: bool
    parts: list[SnapshotPart]
    isPossiblyInconsistent: NotRequired[bool]
    missingShards: NotRequired[list[object]]
    namespaceFilterList: NotRequired[NamespaceFilterList]
    links: list[Link]


class CheckpointPart(TypedDict):
    """What a checkpoint says of one replica set."""

    typeName: Literal["REPLICA_SET", "CONFIG_SERVER", "CONFIG_SERVER_REPLICA_SET"]
    replicaSetName: str
    shardName: NotRequired[str]
    tokenDiscovered: bool
    tokenTimestamp: BsonTimestamp


class Checkpoint(TypedDict):
    """A point that all shards can be restored to."""

    id: Id
    groupId: Id
    clusterId: Id
    started: Date
    completed: Date
    timestamp: Date
    restorable: bool
    parts: list[CheckpointPart]
    links: list[Link]


class SnapshotSchedule(TypedDict):
    """When snapshots are taken and how long they are kept; the reference time not in Atlas."""

    clusterId: Id
    groupId: Id
    snapshotIntervalHours: Literal[6, 8, 12, 24]
    snapshotRetentionDays: Int32
    dailySnapshotRetentionDays: Int32
    weeklySnapshotRetentionWeeks: Int32
    monthlySnapshotRetentionMonths: Int32
    pointInTimeWindowHours: Int32
    clusterCheckpointIntervalMin: NotRequired[Literal[15, 30, 60]]
    referenceHourOfDay: NotRequired[Annotated[int, Field(ge=0, le=23)]]
    referenceMinuteOfHour: NotRequired[Annotated[int, Field(ge=0, le=59)]]
    referenceTimeZoneOffset: NotRequired[str]
    fullIncrementalDayOfWeek: NotRequired[Weekday]
    links: list[Link]


class BackupConfig(TypedDict):
    """Whether a cluster is backed up, and how."""

    groupId: Id
    clusterId: Id
    statusName: BackupStatus
    storageEngineName: Literal["WIRED_TIGER"]
    authMechanismName: Literal["NONE", "MONGODB_CR"]
    username: NotRequired[str]
    sslEnabled: bool
    syncSource: Literal["SECONDARY"]
    encryptionEnabled: bool
    excludedNamespaces: list[str]
    provisioned: bool
    links: list[Link]


class RestorableTimeRange(TypedDict):
    """A stretch of time, both ends included, that a snapshot can be brought to. The last two are of sharded clusters."""

    start: BsonTimestamp
    end: BsonTimestamp
    snapshotId: Id
    shardCount: NotRequired[Int32]
    configServerType: NotRequired[Literal["REPLICA_SET"]]


class OnDemandTimestamp(TypedDict):
    """When a snapshot was asked for."""

    date: Date
    time: Annotated[int, Field(ge=0)]
    increment: Int32


class OnDemandSnapshot(TypedDict):
    """A snapshot that was asked for."""

    clusterName: str
    description: str
    timestamp: OnDemandTimestamp
