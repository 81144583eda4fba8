"""Checkpoints of a sharded cluster: list and get, in every family, and asking for one in Ebbtide's own.

The hosted families show those that were noted on all parts; Ebbtide's own shows all, with what they wait for. A replica
set has none.
"""

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.entities import CLUSTER, GROUP, entity_answer
from ebbtide.api.families import Family
from ebbtide.api.lists import list_answer
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.paging import plan_window
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire_checkpoints import checkpoint_document, checkpoints_address, own_checkpoint_document
from ebbtide.backup.checkpoint_requesting import CheckpointRefused, request_checkpoint
from ebbtide.domain.checkpoint import Checkpoint
from ebbtide.domain.ids import CheckpointId, is_id


def list_checkpoints(call: Call) -> Answer:
    """Newest first."""
    is_own = call.family is Family.OWN
    skip, limit = plan_window(call.page)
    checkpoints = call.context.catalog.checkpoints
    return list_answer(
        call,
        href=checkpoints_address(
            call.addresses,
            group_id=call.group.id,
            cluster_id=call.cluster.id,
            cluster_name=call.cluster.name,
        ),
        found=checkpoints.page(call.cluster.id, only_noted=not is_own, skip=skip, limit=limit),
        to_document=lambda found: (own_checkpoint_document if is_own else checkpoint_document)(
            found, addresses=call.addresses
        ),
        count=lambda: checkpoints.count(call.cluster.id, only_noted=not is_own),
    )


def get_checkpoint(call: Call) -> Answer:
    checkpoint = _find(call)
    if checkpoint.cluster_time is None:
        raise refusal("CHECKPOINT_NOT_FOUND", checkpoint.id, call.cluster.name)
    return entity_answer(
        call, checkpoint_document(checkpoint, addresses=call.addresses), relations=(CLUSTER, GROUP)
    )


def get_own_checkpoint(call: Call) -> Answer:
    return Answer(document=own_checkpoint_document(_find(call), addresses=call.addresses))


def create_checkpoint(call: Call) -> Answer:
    """Ask for a checkpoint now; a worker takes it."""
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)
    try:
        checkpoint = request_checkpoint(
            call.cluster, catalog=call.context.catalog, clock=call.context.clock, actor=call.actor
        )
    except CheckpointRefused as refused:
        raise refusal("REFUSED", str(refused)) from refused
    return Answer(document=own_checkpoint_document(checkpoint, addresses=call.addresses))


def _find(call: Call) -> Checkpoint:
    """The path's checkpoint, whatever its state."""
    text = call.path_values["checkpointId"]
    if not is_id(text):
        raise refusal("INVALID_CHECKPOINT_ID", text)
    checkpoint = call.context.catalog.checkpoints.find(CheckpointId(text))
    if checkpoint is None or checkpoint.cluster_id != call.cluster.id:
        raise refusal("CHECKPOINT_NOT_FOUND", text, call.cluster.name)
    return checkpoint


_PATH = f"{Family.ATLAS.value}/groups/{{groupId}}/clusters/{{clusterName}}/backupCheckpoints"
_OWN_PATH = f"{Family.OWN.value}/groups/{{groupId}}/clusters/{{clusterName}}/checkpoints"

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

OWN_OPERATIONS = (
    Operation(
        name="listOwnCheckpoints",
        method="GET",
        path=_OWN_PATH,
        handler=list_checkpoints,
        scope=Scope.CLUSTER,
        is_list=True,
    ),
    Operation(
        name="createCheckpoint",
        method="POST",
        path=_OWN_PATH,
        handler=create_checkpoint,
        scope=Scope.CLUSTER,
        need=Need.WRITE,
        needs_listed_address=True,
    ),
    Operation(
        name="getOwnCheckpoint",
        method="GET",
        path=f"{_OWN_PATH}/{{checkpointId}}",
        handler=get_own_checkpoint,
        scope=Scope.CLUSTER,
    ),
)
