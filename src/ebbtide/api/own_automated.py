"""Ebbtide's own API: who may be a target of automated restores, what one would do, and taking one back.

Passwords are sealed before they are stored and are in no answer.
"""

from dataclasses import dataclass
from typing import Any

from ebbtide.api.automated import TargetName, build_request, build_undo, record_request
from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.own_clusters import cluster_answer
from ebbtide.api.own_restore_jobs import find_own_job, own_restore_job_answer
from ebbtide.api.refusals import refusal, refuse_fields, violation
from ebbtide.api.resolving import open_repository
from ebbtide.api.responses import Answer
from ebbtide.api.restore_point_fields import OWN_POINT_FIELDS, parse_restore_point
from ebbtide.api.wire import Document
from ebbtide.api.wire_automated import plan_document
from ebbtide.domain.automated_restore import RestoreScope
from ebbtide.domain.cluster import ClusterKind
from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.restore_point import RestorePoint
from ebbtide.errors import EbbtideError, InvalidInput
from ebbtide.restore.automated_request import AutomatedRequest, NothingToUndo, require_undo_point
from ebbtide.restore.consent import RestoreAccount, allow_restores, forbid_restores
from ebbtide.restore.load.plan import check_scope
from ebbtide.restore.preview import preview_restore


def set_restore_target(call: Call) -> Answer:
    """Let restores replace the data of a cluster, once the account that writes is proved; or not any more."""
    fields = Fields(parse_object(call.body))
    fields.require("enabled")
    enabled = fields.boolean("enabled")
    account = RestoreAccount(
        username=fields.text("username"),
        password=fields.text("password"),
        auth_source=fields.text("authSource") or "admin",
    )
    fields.refuse_unknown(("enabled", "username", "password", "authSource"))
    raise_violations(fields.violations)
    context = call.context
    try:
        if enabled:
            changed = allow_restores(
                call.cluster,
                account,
                catalog=context.catalog,
                service_key=context.service_key,
                clock=context.clock,
                actor=call.actor,
            )
        else:
            changed = forbid_restores(
                call.cluster, catalog=context.catalog, clock=context.clock, actor=call.actor
            )
    except InvalidInput as error:
        raise refuse_fields(
            [violation("INVALID_ATTRIBUTE", "username", f"expected {error.expected}")]
        ) from None
    except EbbtideError as error:
        raise refusal("REFUSED", str(error)) from None
    return cluster_answer(call, changed)


def create_automated_restore(call: Call) -> Answer:
    """Begin a restore into a running cluster; with `dryRun` only say what it would do."""
    wanted = parse_automated(
        parse_object(call.body),
        group_id=call.group.id,
        is_sharded=call.cluster.kind is ClusterKind.SHARDED,
    )
    request = build_request(
        call,
        wanted.target,
        wanted.point,
        scope=wanted.scope,
        compares=wanted.compares,
        with_users_and_roles=wanted.with_users_and_roles,
        wants_undo=wanted.wants_undo,
    )
    if wanted.is_dry_run:
        return Answer(document=_plan(call, request))
    return own_restore_job_answer(call, record_request(call, request))


def undo_restore(call: Call) -> Answer:
    """Bring back what a restore has replaced; with `dryRun` only say what that would do."""
    fields = Fields(parse_object(call.body, empty_is_object=True))
    is_dry_run = fields.boolean("dryRun") or False
    fields.refuse_unknown(("dryRun",))
    raise_violations(fields.violations)
    job = find_own_job(call)
    record = call.context.catalog.automated_restores.find(job.id)
    if record is None:
        raise refusal("NOTHING_TO_UNDO", f"restore job {job.id} has not changed any cluster")
    try:
        point = require_undo_point(record)
    except NothingToUndo as error:
        raise refusal("NOTHING_TO_UNDO", str(error)) from None
    request = build_undo(call, record, point)
    if is_dry_run:
        return Answer(document=_plan(call, request))
    return own_restore_job_answer(call, record_request(call, request))


def _plan(call: Call, request: AutomatedRequest) -> Document:
    """What it would do now. Asks the target's set."""
    try:
        preview = preview_restore(
            request, service_key=call.context.service_key, repository=open_repository(call)
        )
    except EbbtideError as error:
        raise refusal("REFUSED", str(error)) from None
    return plan_document(
        request,
        removed=preview.removed,
        entries_to_replay=preview.entries_to_replay,
        problems=preview.problems,
    )


@dataclass(frozen=True, kw_only=True)
class WantedRestore:
    """A body of ours, well formed."""

    target: TargetName
    point: RestorePoint
    scope: RestoreScope
    compares: bool
    with_users_and_roles: bool
    wants_undo: bool
    is_dry_run: bool


def parse_automated(values: dict[str, Any], *, group_id: GroupId, is_sharded: bool = False) -> WantedRestore:
    """The restore that a body asks for; the target's group is `group_id` unless it says another.

    Raises one refusal that names every bad field.
    """
    fields = Fields(values)
    point = parse_restore_point(fields, with_now=True, is_sharded=is_sharded)
    target_group = fields.identifier("targetGroupId")
    cluster_id, name = fields.identifier("targetClusterId"), fields.text("targetClusterName")
    if not fields.has("targetClusterId") and not fields.has("targetClusterName"):
        fields.blame_missing_one_of(("targetClusterId", "targetClusterName"))
    scope = _parse_scope(fields)
    flags = {name: fields.boolean(name) for name in ("compare", "withUsersAndRoles", "undo", "dryRun")}
    fields.refuse_unknown((*OWN_POINT_FIELDS, *_TARGET, "namespaces", "renameTo", *flags))
    raise_violations(fields.violations)
    if point is None:
        raise refusal("MISSING_ONE_OF_ATTRIBUTES", ", ".join(OWN_POINT_FIELDS))
    return WantedRestore(
        target=TargetName(
            group_id=GroupId(target_group) if target_group else group_id,
            cluster_id=None if cluster_id is None else ClusterId(cluster_id),
            name=name,
            prefix="",
        ),
        point=point,
        scope=scope,
        compares=flags["compare"] is not False,
        with_users_and_roles=flags["withUsersAndRoles"] is True,
        wants_undo=flags["undo"] is not False,
        is_dry_run=flags["dryRun"] is True,
    )


def _parse_scope(fields: Fields) -> RestoreScope:
    """What of it is wanted; everything where nothing is said."""
    namespaces, rename_to = fields.raw("namespaces"), fields.text("renameTo")
    if namespaces is None:
        namespaces = []
    if not isinstance(namespaces, list) or not all(isinstance(name, str) for name in namespaces):
        fields.blame("INVALID_JSON_ATTRIBUTE", "namespaces", "a list of DATABASE.COLLECTION")
        return RestoreScope()
    scope = RestoreScope(namespaces=tuple(dict.fromkeys(namespaces)), rename_to=rename_to)
    try:
        check_scope(scope)
    except InvalidInput as error:
        field = "renameTo" if rename_to is not None and len(namespaces) == 1 else "namespaces"
        fields.blame("INVALID_ATTRIBUTE", field, f"expected {error.expected}")
    return scope


_TARGET = ("targetGroupId", "targetClusterId", "targetClusterName")
_CLUSTER = "/api/ebbtide/v1/groups/{groupId}/clusters/{clusterName}"

OPERATIONS = (
    Operation(
        name="setRestoreTarget",
        method="POST",
        path=f"{_CLUSTER}/restoreTarget",
        handler=set_restore_target,
        scope=Scope.CLUSTER,
        need=Need.OWN,
        needs_listed_address=True,
        slow=True,
    ),
    Operation(
        name="createAutomatedRestore",
        method="POST",
        path=f"{_CLUSTER}/automatedRestores",
        handler=create_automated_restore,
        scope=Scope.CLUSTER,
        need=Need.OWN,
        needs_listed_address=True,
        slow=True,
    ),
    Operation(
        name="undoAutomatedRestore",
        method="POST",
        path="/api/ebbtide/v1/groups/{groupId}/restoreJobs/{jobId}/undo",
        handler=undo_restore,
        scope=Scope.GROUP,
        need=Need.OWN,
        needs_listed_address=True,
        slow=True,
    ),
)
