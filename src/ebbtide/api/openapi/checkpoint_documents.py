"""Shapes of checkpoints in Ebbtide's own API, as `own_documents` has the others."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from ebbtide.api.openapi.documents import BsonTimestamp, Date, Id, Link


class OwnCheckpointPart(TypedDict):
    """One replica set of a checkpoint: the note in its oplog, and whether its archive has it."""

    clusterId: Id
    clusterName: str
    typeName: Literal["REPLICA_SET", "CONFIG_SERVER_REPLICA_SET"]
    replicaSetName: str
    shardName: NotRequired[str]
    tokenDiscovered: bool
    tokenTimestamp: BsonTimestamp


class OwnCheckpoint(TypedDict):
    """A checkpoint of any state, and what it waits for."""

    id: Id
    groupId: Id
    clusterId: Id
    clusterName: str
    state: Literal["WANTED", "NOTED", "COMPLETE", "FAILED"]
    created: Date
    scheduledFor: NotRequired[Date]
    completed: NotRequired[Date]
    clusterTime: NotRequired[BsonTimestamp]
    restoresTo: NotRequired[BsonTimestamp]
    restorable: bool
    message: str
    parts: list[OwnCheckpointPart]
    links: list[Link]
