"""Checkpoints of a cluster: there are none, as only sharded clusters have them and those cannot be registered yet."""

from ebbtide.api.families import Family
from ebbtide.api.lists import slice_answer
from ebbtide.api.operations import Call, Operation, Scope
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document
from ebbtide.domain.ids import is_id


def list_checkpoints(call: Call) -> Answer:
    """An empty list: a replica set has no checkpoints."""
    name = "checkpoints" if call.family is Family.CLOUD else "backupCheckpoints"
    nothing: list[Document] = []
    return slice_answer(
        call, href=f"{call.cluster_href}/{name}", records=nothing, to_document=lambda document: document
    )


def get_checkpoint(call: Call) -> Answer:
    """Never found: a replica set has no checkpoints."""
    text = call.path_values["checkpointId"]
    if not is_id(text):
        raise refusal("INVALID_CHECKPOINT_ID", text)
    raise refusal("CHECKPOINT_NOT_FOUND", text, call.cluster.name)


_PATH = f"{Family.ATLAS.value}/groups/{{groupId}}/clusters/{{clusterName}}/backupCheckpoints"

OPERATIONS = (
    Operation(
        name="listLegacyBackupCheckpoints",
        method="GET",
        path=_PATH,
        handler=list_checkpoints,
        scope=Scope.CLUSTER,
        is_list=True,
    ),
    Operation(
        name="getLegacyBackupCheckpoint",
        method="GET",
        path=f"{_PATH}/{{checkpointId}}",
        handler=get_checkpoint,
        scope=Scope.CLUSTER,
    ),
)
