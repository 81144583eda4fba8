"""Shapes of registered clusters in Ebbtide's own API, as types. As `documents`, of which it is a part."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ebbtide.api.openapi.documents import BsonTimestamp, Bytes, Date, Id, Int32, Link, RegistrationCheck
from ebbtide.domain.cluster import ClusterKind, ClusterState, HeadState
from ebbtide.domain.replica_set import ClusterAuthMode, TlsMode

Port = Annotated[int, Field(ge=1, le=65535)]


class Tls(TypedDict):
    """What a set's members do with TLS, and when the head's certificate ends."""

    mode: TlsMode
    clusterAuthMode: ClusterAuthMode
    certificateExpires: NotRequired[Date]


class InitialSync(TypedDict):
    """How far a head's copy of the data is; bytes are estimates."""

    doneBytes: Bytes
    totalBytes: NotRequired[Bytes]
    started: Date
    secondsLeft: NotRequired[Int32]


class Head(TypedDict):
    """The hidden member that Ebbtide runs."""

    state: HeadState
    stateSince: Date
    host: str
    port: Port
    memberId: NotRequired[Int32]
    message: NotRequired[str]
    lagSeconds: NotRequired[float]
    restarts: Int32
    initialSync: NotRequired[InitialSync]


class LastSnapshot(TypedDict):
    """A cluster's newest complete snapshot; the sizes of a sharded cluster's are with its parts."""

    id: Id
    created: Date
    completed: NotRequired[Date]
    storedBytes: NotRequired[Bytes]
    newStoredBytes: NotRequired[Bytes]


class Archive(TypedDict):
    """How far a cluster's oplog archive is."""

    archivedTo: BsonTimestamp | None
    lagSeconds: float | None
    source: str | None
    message: str
    gaps: Int32


class ClusterPart(TypedDict):
    """A replica set of a sharded cluster, which is a cluster of its own too: a shard, or the config server."""

    id: Id
    name: str
    shardName: NotRequired[str]
    configServer: NotRequired[bool]
    replicaSetName: str
    mongodVersion: str
    state: ClusterState
    head: NotRequired[Head]


class OwnCluster(TypedDict):
    """A registered cluster with its head, or a sharded one with its parts. `partOf` is the id of the sharded cluster that
    it is a part of. `removalCommand` is in the answer to a detachment only."""

    id: Id
    groupId: Id
    name: str
    kind: ClusterKind
    replicaSetName: NotRequired[str]
    partOf: NotRequired[Id]
    shardName: NotRequired[str]
    configServer: NotRequired[bool]
    mongodVersion: str
    fcv: str
    mongod: NotRequired[str]
    state: ClusterState
    paused: NotRequired[bool]
    restoreTarget: NotRequired[bool]
    restoreUsername: NotRequired[str]
    created: Date
    tls: NotRequired[Tls]
    head: NotRequired[Head]
    parts: NotRequired[list[ClusterPart]]
    archive: NotRequired[Archive]
    lastSnapshot: NotRequired[LastSnapshot]
    snapshotsWaitFor: NotRequired[str]
    removalCommand: NotRequired[str]
    links: list[Link]


class HeadAddress(TypedDict):
    """Where a head would be reached."""

    host: str
    port: Int32


class HeadNeeds(TypedDict):
    """What a head would take."""

    diskBytes: Bytes
    memoryBytes: Bytes


class PartRegistration(TypedDict):
    """A part of a sharded cluster, as it would be registered."""

    name: str
    shardName: NotRequired[str]
    head: HeadAddress


class RegistrationReport(TypedDict):
    """What a registration would come to: of a replica set, with `head`, or of a sharded cluster, with `parts`."""

    dryRun: Literal[True]
    ok: bool
    checks: list[RegistrationCheck]
    head: NotRequired[HeadAddress]
    parts: NotRequired[list[PartRegistration]]
    needs: HeadNeeds
