"""Wire names of checkpoints (contract section 8). As `wire`, of which it is a part."""

from ebbtide.api.families import Family
from ebbtide.api.wire import Addresses, Document, bson_timestamp, iso_date, self_links
from ebbtide.domain.checkpoint import Checkpoint, CheckpointPart
from ebbtide.domain.ids import ClusterId, GroupId


def checkpoints_address(
    addresses: Addresses, *, group_id: GroupId, cluster_id: ClusterId, cluster_name: str
) -> str:
    """The list's address: Atlas and the others have different names for it."""
    name = "backupCheckpoints" if addresses.family in (Family.ATLAS, Family.ATLAS_V2) else "checkpoints"
    return f"{addresses.cluster(group_id, cluster_id, cluster_name)}/{name}"


def checkpoint_document(checkpoint: Checkpoint, *, addresses: Addresses) -> Document:
    """One that was noted on all parts. No balancer is stopped for it: `started` and `completed` are when it was asked
    for, and when all parts had their token."""
    moment = checkpoint.restores_to or checkpoint.cluster_time
    if checkpoint.completed is None or moment is None:
        raise ValueError(f"checkpoint {checkpoint.id} was not noted yet")
    return {
        "id": checkpoint.id,
        "groupId": checkpoint.group_id,
        "clusterId": checkpoint.cluster_id,
        "started": iso_date(checkpoint.created),
        "completed": iso_date(checkpoint.completed),
        "timestamp": iso_date(moment.date),
        "restorable": checkpoint.restorable,
        "parts": [_part(part) for part in checkpoint.parts],
        "links": _links(checkpoint, addresses),
    }


def own_checkpoint_document(checkpoint: Checkpoint, *, addresses: Addresses) -> Document:
    """One of any state. `restoresTo` is what a restore of it is cut at, on every part."""
    document: Document = {
        "id": checkpoint.id,
        "groupId": checkpoint.group_id,
        "clusterId": checkpoint.cluster_id,
        "clusterName": checkpoint.cluster_name,
        "state": checkpoint.state.value,
        "created": iso_date(checkpoint.created),
        "restorable": checkpoint.restorable,
        "message": checkpoint.message,
        "parts": [
            {**_part(part), "clusterId": part.cluster_id, "clusterName": part.name}
            for part in checkpoint.parts
        ],
        "links": _links(checkpoint, addresses),
    }
    for name, date in (("completed", checkpoint.completed), ("scheduledFor", checkpoint.scheduled_for)):
        if date is not None:
            document[name] = iso_date(date)
    for name, moment in (("clusterTime", checkpoint.cluster_time), ("restoresTo", checkpoint.restores_to)):
        if moment is not None:
            document[name] = bson_timestamp(moment)
    return document


def _part(part: CheckpointPart) -> Document:
    document: Document = {
        "typeName": "CONFIG_SERVER_REPLICA_SET" if part.is_config_server else "REPLICA_SET",
        "replicaSetName": part.replica_set_name,
        "tokenDiscovered": part.is_archived,
        "tokenTimestamp": bson_timestamp(part.token),
    }
    return document if part.shard_name is None else {**document, "shardName": part.shard_name}


def _links(checkpoint: Checkpoint, addresses: Addresses) -> list[Document]:
    place = checkpoints_address(
        addresses,
        group_id=checkpoint.group_id,
        cluster_id=checkpoint.cluster_id,
        cluster_name=checkpoint.cluster_name,
    )
    return self_links(f"{place}/{checkpoint.id}")
