"""Shapes of the documents of Ebbtide's own API, as types. As `documents`, of which it is a part."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ebbtide.api.openapi.documents import (
    BsonTimestamp,
    Bytes,
    Date,
    HostId,
    Id,
    Int32,
    Link,
)
from ebbtide.api.openapi.own_cluster_documents import Archive
from ebbtide.domain.access import Role
from ebbtide.domain.automated_restore import TargetState, WriteBlock
from ebbtide.domain.event import EventLevel
from ebbtide.domain.job import JobState
from ebbtide.domain.prune_run import PruneState
from ebbtide.domain.restore_job import DeliveryStatus, RestoreStatus
from ebbtide.domain.snapshot import SnapshotState

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0)]


class Progress(TypedDict):
    """How far a step is."""

    phase: str
    done: Bytes
    total: NotRequired[Bytes]
    unit: str
    started: Date
    updated: Date
    ratePerSecond: NotRequired[float]
    secondsLeft: NotRequired[Int32]


class Job(TypedDict):
    """The work behind a snapshot or a restore."""

    state: JobState
    step: NotRequired[str]
    attempts: Int32
    error: NotRequired[str]
    progress: NotRequired[Progress]


class OwnSnapshotPart(TypedDict):
    """What a snapshot of a sharded cluster has of one part; `state` once its own snapshot was asked for."""

    typeName: Literal["REPLICA_SET", "CONFIG_SERVER_REPLICA_SET"]
    clusterId: Id
    snapshotId: Id
    shardName: NotRequired[str]
    replicaSetName: str
    state: NotRequired[SnapshotState]
    completed: NotRequired[Date]
    fileSizeBytes: NotRequired[Bytes]
    newStoredBytes: NotRequired[Bytes]
    error: NotRequired[str]
    job: NotRequired[Job]


class OwnSnapshot(TypedDict):
    """A snapshot of any state, with the work on it.

    Of a sharded cluster it has `parts` and no `replicaSetName`; `stableTimestamp` is the time that all parts have in
    common, sizes are those of all parts together. A part's own snapshot has `clusterSnapshotId`.
    """

    id: Id
    groupId: Id
    clusterId: Id
    clusterName: str
    replicaSetName: NotRequired[str]
    state: SnapshotState
    created: Date
    completed: NotRequired[Date]
    parentId: NotRequired[Id]
    stableTimestamp: NotRequired[BsonTimestamp]
    appliedTimestamp: NotRequired[BsonTimestamp]
    mongodVersion: str
    fcv: str
    fileSizeBytes: Bytes
    storedBytes: Bytes
    newStoredBytes: Bytes
    lockSeconds: NotRequired[Seconds]
    doNotDelete: bool
    expires: NotRequired[Date]
    scheduledFor: NotRequired[Date]
    deleted: NotRequired[Date]
    pruneAfter: NotRequired[Date]
    removed: NotRequired[Date]
    error: NotRequired[str]
    isPossiblyInconsistent: NotRequired[bool]
    parts: NotRequired[list[OwnSnapshotPart]]
    clusterSnapshotId: NotRequired[Id]
    job: NotRequired[Job]
    links: list[Link]


class OwnHostSnapshot(TypedDict):
    """A snapshot of a host, of any state, with the work on it."""

    id: Id
    groupId: Id
    hostId: HostId
    state: SnapshotState
    created: Date
    completed: NotRequired[Date]
    stableTimestamp: NotRequired[BsonTimestamp]
    mongodVersion: str
    fcv: str
    fileSizeBytes: Bytes
    storedBytes: Bytes
    newStoredBytes: Bytes
    lockSeconds: NotRequired[Seconds]
    deleted: NotRequired[Date]
    pruneAfter: NotRequired[Date]
    error: NotRequired[str]
    job: NotRequired[Job]
    links: list[Link]


class Host(TypedDict):
    """A mongod that was declared a mirrored config server. `locked`: it may be, for a snapshot."""

    id: HostId
    groupId: Id
    address: str
    state: Literal["ACTIVE", "REMOVED"]
    created: Date
    mongodVersion: str
    username: NotRequired[str]
    locked: bool
    lastSnapshot: NotRequired[OwnHostSnapshot]
    links: list[Link]


class Transfer(TypedDict):
    """One stretch of a download that was sent, or is."""

    first: Bytes
    end: Bytes
    sentBytes: Bytes
    started: Date
    updated: Date
    ended: NotRequired[Date]
    address: str


class Event(TypedDict):
    """One thing that happened."""

    id: Id
    time: Date
    level: EventLevel
    kind: str
    message: str
    groupId: NotRequired[Id]
    clusterId: NotRequired[Id]
    subjectId: NotRequired[str]
    actor: NotRequired[str]


class Status(TypedDict):
    """The version that answers."""

    version: str


class Member(TypedDict):
    """A key or a service account that has a role in a project."""

    name: str
    typeName: Literal["API_KEY", "SERVICE_ACCOUNT"]
    description: str
    roles: list[Role]
    globalRoles: list[Role]
    links: list[Link]


class Grant(TypedDict):
    """A role; without a group it is a global one."""

    role: Role
    groupId: NotRequired[Id]


class KeyAccessEntry(TypedDict):
    """A network that a key may be used from."""

    cidrBlock: str
    ipAddress: NotRequired[str]
    created: Date
    lastUsed: NotRequired[Date]
    lastUsedAddress: NotRequired[str]
    count: Bytes
    links: list[Link]


class AccountAccessEntry(TypedDict):
    """A network that a service account's tokens may be used from."""

    cidrBlock: str
    ipAddress: NotRequired[str]
    createdAt: Date
    lastUsedAt: NotRequired[Date]
    lastUsedAddress: NotRequired[str]
    requestCount: Bytes
    links: list[Link]


class Key(TypedDict):
    """An API key; its private key only in the answer that made it."""

    publicKey: str
    privateKey: NotRequired[str]
    description: str
    created: Date
    expires: NotRequired[Date]
    owner: bool
    grants: list[Grant]
    accessList: list[KeyAccessEntry]
    links: list[Link]


class Secret(TypedDict):
    """A service account's secret; in clear only in the answer that made it."""

    id: str
    createdAt: Date
    expiresAt: Date
    lastUsedAt: NotRequired[Date]
    maskedSecretValue: NotRequired[str]
    secret: NotRequired[str]


class ServiceAccount(TypedDict):
    """A caller that logs in with OAuth."""

    clientId: str
    name: str
    description: str
    createdAt: Date
    grants: list[Grant]
    secrets: list[Secret]
    accessList: list[AccountAccessEntry]
    links: list[Link]


class OplogMoment(TypedDict):
    """A place in an oplog, as a restore job takes it, and as a date."""

    date: Date
    increment: int
    oplogTs: int
    oplogInc: int


class OplogRange(TypedDict):
    """Both ends are included. `snapshotId` is the base of the first moment, where the range can be restored."""

    first: OplogMoment
    last: OplogMoment
    snapshotId: NotRequired[Id]


class OplogGap(TypedDict):
    """Entries between these two are not archived."""

    after: OplogMoment
    before: OplogMoment
    found: Date
    reason: str


class OplogRanges(TypedDict):
    """What the oplog archive of a cluster holds, and which moments can be restored."""

    clusterId: Id
    clusterName: str
    archive: Archive | None
    archived: list[OplogRange]
    restorable: list[OplogRange]
    gaps: list[OplogGap]
    links: list[Link]


class PruneRemoved(TypedDict):
    """What was, or would be, removed."""

    snapshots: Int32
    recipes: Int32
    packs: Int32
    bytes: Bytes


class PruneObjects(TypedDict):
    """How many objects, and how large."""

    objects: Int32
    bytes: Bytes


class PruneReport(TypedDict):
    """What prune did in one replica set."""

    clusterId: Id
    replicaSetName: str
    snapshots: Int32
    removed: PruneRemoved
    movedPacks: Int32
    waiting: PruneObjects
    live: PruneObjects
    interrupted: bool
    problem: NotRequired[str]


class PruneRun(TypedDict):
    """A run of prune."""

    id: Id
    dryRun: bool
    state: PruneState
    requested: Date
    requestedBy: str
    started: NotRequired[Date]
    ended: NotRequired[Date]
    removedBytes: Bytes
    waitingBytes: Bytes
    liveBytes: Bytes
    replicaSets: list[PruneReport]
    error: NotRequired[str]
    links: list[Link]


class CollectionProgress(TypedDict):
    """How far one collection of an automated restore is."""

    namespace: str
    documents: Bytes
    documentsTotal: NotRequired[Bytes | None]
    bytes: Bytes
    bytesTotal: NotRequired[Bytes | None]
    done: bool


class Comparison(TypedDict):
    """What was compared in the end, and found to differ."""

    collections: Int32
    documents: Bytes
    digestsCompared: Int32
    digestSkipped: bool
    differences: list[str]


class Automated(TypedDict):
    """What a restore job does to its target."""

    targetGroupId: Id
    targetClusterId: Id
    targetClusterName: str
    everything: bool
    namespaces: NotRequired[list[str]]
    renameTo: NotRequired[str]
    compares: bool
    withUsersAndRoles: bool
    undoes: NotRequired[Id]
    targetState: TargetState
    targetSays: str
    writeBlock: WriteBlock
    undoPoint: NotRequired[BsonTimestamp]
    undoUntil: NotRequired[Date]
    canBeUndone: bool
    foreignWrites: NotRequired[list[str]]
    entriesApplied: NotRequired[Bytes]
    replaySeconds: NotRequired[Seconds]
    collections: list[CollectionProgress]
    collectionsTotal: NotRequired[Int32]
    collectionsDone: NotRequired[Int32]
    comparison: NotRequired[Comparison]
    seconds: NotRequired[Seconds]


class RemovedCollection(TypedDict):
    """What an automated restore would remove."""

    namespace: str
    documents: Bytes
    sizeBytes: Bytes


class AutomatedPlan(TypedDict):
    """What an automated restore would do now."""

    dryRun: Literal[True]
    ok: bool
    problems: list[str]
    snapshotId: Id
    snapshotTimestamp: NotRequired[BsonTimestamp]
    snapshotCreated: Date
    pointInTime: bool
    limit: NotRequired[BsonTimestamp]
    entriesToReplay: Bytes
    targetGroupId: Id
    targetClusterId: Id
    targetClusterName: str
    everything: bool
    namespaces: NotRequired[list[str]]
    renameTo: NotRequired[str]
    withUndo: bool
    removed: list[RemovedCollection]
    removedBytes: Bytes


class Resolution(TypedDict):
    """What a moment comes to: the snapshot to build on, and up to where the oplog is replayed."""

    dryRun: Literal[True]
    snapshotId: Id
    stableTimestamp: NotRequired[BsonTimestamp]
    limit: NotRequired[BsonTimestamp]


class PartResolution(TypedDict):
    """The snapshot that a part of a sharded cluster is built on."""

    clusterId: Id
    name: str
    snapshotId: Id
    stableTimestamp: NotRequired[BsonTimestamp]


class BatchResolution(TypedDict):
    """What a moment comes to for a sharded cluster: up to where every part is replayed."""

    dryRun: Literal[True]
    limit: BsonTimestamp
    parts: list[PartResolution]


class OwnRestoreJob(TypedDict):
    """A restore job with its work and its transfers; never a link."""

    id: Id
    groupId: Id
    batchId: NotRequired[Id]
    clusterId: Id
    clusterName: str
    snapshotId: NotRequired[Id]
    created: Date
    requestedBy: str
    statusName: RestoreStatus
    deliveryStatusName: DeliveryStatus
    reason: NotRequired[str]
    pointInTime: NotRequired[bool]
    limit: NotRequired[BsonTimestamp]
    timestamp: BsonTimestamp
    archiveBytes: NotRequired[Bytes]
    fileName: NotRequired[str]
    expirationHours: NotRequired[Int32]
    maxDownloads: NotRequired[Int32]
    completedDownloads: Int32
    ready: NotRequired[Date]
    expires: NotRequired[Date]
    automated: NotRequired[Automated]
    job: NotRequired[Job]
    transfers: list[Transfer]
    links: list[Link]


class OwnBatch(TypedDict):
    """The restore jobs of all parts of a sharded cluster."""

    batchId: Id
    jobs: list[OwnRestoreJob]
