"""Ebbtide's own API: runs of prune. The repository is the whole service's, so only a global owner asks for them."""

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call, Operation, Scope
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire_upkeep import prune_document
from ebbtide.domain.access import is_global_owner
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import new_id
from ebbtide.domain.prune_run import PruneRun, PruneState
from ebbtide.events import record_event

_NEWEST = "latest"


def start_prune(call: Call) -> Answer:
    """Ask for a run; a worker carries it out. With `dryRun` nothing is changed."""
    _require_global_owner(call)
    fields = Fields(parse_object(call.body, empty_is_object=True))
    dry_run = fields.boolean("dryRun")
    fields.refuse_unknown(("dryRun",))
    raise_violations(fields.violations)
    run = PruneRun(
        id=new_id(),
        requested=call.now,
        requested_by=call.actor,
        dry_run=bool(dry_run),
        state=PruneState.QUEUED,
    )
    call.context.catalog.prune_runs.insert(run)
    record_event(
        call.context.catalog,
        call.context.clock,
        level=EventLevel.INFO,
        kind="prune.requested",
        message=f"a {'dry ' if run.dry_run else ''}run of prune was asked for",
        subject_id=run.id,
        actor=call.actor,
    )
    return Answer(document=prune_document(run, addresses=call.addresses))


def get_prune(call: Call) -> Answer:
    """One run, or the newest (`latest`)."""
    _require_global_owner(call)
    text = call.path_values["runId"]
    runs = call.context.catalog.prune_runs
    run = runs.newest() if text == _NEWEST else runs.find(text)
    if run is None:
        raise refusal("RESOURCE_NOT_FOUND", f"prune {text}")
    return Answer(document=prune_document(run, addresses=call.addresses))


def _require_global_owner(call: Call) -> None:
    if not is_global_owner(call.caller):
        raise refusal("USER_UNAUTHORIZED")


_PATH = "/api/ebbtide/v1/repository/prune"

OPERATIONS = (
    Operation(
        name="startPrune",
        method="POST",
        path=_PATH,
        handler=start_prune,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    Operation(
        name="getPrune", method="GET", path=f"{_PATH}/{{runId}}", handler=get_prune, scope=Scope.SERVICE
    ),
)
