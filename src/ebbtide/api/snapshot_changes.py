"""Changing snapshots: PATCH and DELETE of all families, and bringing a deleted one back (Ebbtide's own).

Source: contract section 7. `expires` in the past is allowed: retention then deletes it at its next look. Whatever
retention or `doNotDelete` say, DELETE deletes, unless undoing a restore is built on it; its data stays for `repository.delete_delay_hours`.
"""

from collections.abc import Callable
from datetime import timedelta

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.entities import entity_answer
from ebbtide.api.families import Family
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.own_snapshots import show_own_snapshot
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.snapshots import SNAPSHOT_RELATIONS, find_any, find_present, show_snapshot
from ebbtide.backup.snapshot_changes import (
    CannotUndelete,
    PartOfWhole,
    SnapshotChanged,
    UndoTakesIt,
    delete_snapshot,
    is_held,
    keep_snapshot,
    let_go_snapshot,
    set_expiry,
    undelete_snapshot,
)
from ebbtide.domain.cluster_snapshot import AnySnapshot
from ebbtide.domain.retention import has_expired
from ebbtide.domain.snapshot import SnapshotState

_READ_ONLY = (
    *("id", "groupId", "clusterId", "clusterName", "complete", "created", "incremental"),
    *("lastOplogAppliedTimestamp", "links", "parts"),
)
_CHANGEABLE = ("doNotDelete", "expires")


def patch_snapshot(call: Call) -> Answer:
    """Set `doNotDelete` or `expires`; a body with neither changes nothing. One past its time is refused.

    Atlas refuses both together; in Cloud and Ops Manager `doNotDelete` wins.
    """
    changed = _patch(call, held_may_change=False)
    return entity_answer(call, show_snapshot(call, changed), relations=SNAPSHOT_RELATIONS)


def patch_own_snapshot(call: Call) -> Answer:
    """As `patch_snapshot`, but a last good snapshot that retention holds back beyond its time can still be kept."""
    return Answer(document=show_own_snapshot(call, _patch(call, held_may_change=True)))


def _patch(call: Call, *, held_may_change: bool) -> AnySnapshot:
    change = parse_change(parse_object(call.body), family=call.family)
    snapshot = find_present(call)
    if has_expired(snapshot, now=call.now) and not (
        held_may_change and is_held(snapshot, catalog=call.context.catalog)
    ):
        raise refusal("ALREADY_EXPIRED", snapshot.id)
    try:
        return change(call, snapshot)
    except (SnapshotChanged, PartOfWhole) as refused:
        raise refusal("REFUSED", str(refused)) from refused


Change = Callable[[Call, AnySnapshot], AnySnapshot]


def parse_change(values: dict[str, object], *, family: Family = Family.ATLAS) -> Change:
    """What a body asks for. Raises one refusal that names every bad field."""
    fields = Fields(values)
    keep = fields.boolean("doNotDelete")
    expires = fields.date("expires")
    keep_wins = family is Family.CLOUD and keep is True
    if fields.has("doNotDelete") and fields.has("expires") and family is not Family.CLOUD:
        fields.blame("INVALID_ATTRIBUTE", "expires", "Cannot modify snapshot because of invalid fields")
    fields.refuse_read_only(_READ_ONLY)
    fields.refuse_unknown((*_CHANGEABLE, *_READ_ONLY))
    raise_violations(fields.violations)
    if expires is not None and not keep_wins:
        moment = expires
        return lambda call, snapshot: set_expiry(
            snapshot, moment, catalog=call.context.catalog, clock=call.context.clock, actor=call.actor
        )
    if keep is not None:
        change = keep_snapshot if keep else let_go_snapshot
        return lambda call, snapshot: change(
            snapshot, catalog=call.context.catalog, clock=call.context.clock, actor=call.actor
        )
    return lambda _, snapshot: snapshot


def delete(call: Call) -> Answer:
    """Delete a complete snapshot: 204. It is hidden at once and its links are dead.

    One that undoing a restore is built on is refused for as long as that can be undone.
    """
    snapshot = find_present(call)
    if snapshot.state is SnapshotState.IN_PROGRESS:
        raise refusal(
            "SNAPSHOT_IN_PROGRESS", f"Snapshot {snapshot.id} is being taken; delete it once it is complete."
        )
    delay = timedelta(hours=call.context.settings.number("repository.delete_delay_hours"))
    try:
        delete_snapshot(
            snapshot,
            delay=delay,
            catalog=call.context.catalog,
            clock=call.context.clock,
            actor=call.actor,
        )
    except PartOfWhole:
        raise refusal("CANNOT_DELETE_FROM_CLUSTER_SNAPSHOT", snapshot.id) from None
    except UndoTakesIt as refused:
        raise refusal("SNAPSHOT_NEEDED_TO_UNDO", str(refused)) from refused
    except SnapshotChanged:
        raise refusal("SNAPSHOT_NOT_FOUND", snapshot.id, call.cluster.name) from None
    return Answer(document={}, status=204)


def undelete(call: Call) -> Answer:
    """Bring a deleted snapshot back, as long as its data is whole."""
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)
    try:
        snapshot = undelete_snapshot(
            find_any(call), catalog=call.context.catalog, clock=call.context.clock, actor=call.actor
        )
    except (CannotUndelete, PartOfWhole) as refused:
        raise refusal("SNAPSHOT_NOT_UNDELETABLE", str(refused)) from refused
    return Answer(document=show_own_snapshot(call, snapshot))


_PATH = "/api/atlas/v1.0/groups/{groupId}/clusters/{clusterName}/snapshots/{snapshotId}"
_OWN_PATH = "/api/ebbtide/v1/groups/{groupId}/clusters/{clusterName}/snapshots/{snapshotId}"

OPERATIONS = (
    Operation(
        name="updateLegacySnapshotRetention",
        method="PATCH",
        path=_PATH,
        handler=patch_snapshot,
        scope=Scope.CLUSTER,
        need=Need.OWN,
        needs_listed_address=True,
    ),
    Operation(
        name="deleteLegacySnapshot",
        method="DELETE",
        path=_PATH,
        handler=delete,
        scope=Scope.CLUSTER,
        need=Need.OWN,
        needs_listed_address=True,
    ),
    Operation(
        name="updateOwnSnapshot",
        method="PATCH",
        path=_OWN_PATH,
        handler=patch_own_snapshot,
        scope=Scope.CLUSTER,
        need=Need.OWN,
        needs_listed_address=True,
    ),
    Operation(
        name="undeleteSnapshot",
        method="POST",
        path=f"{_OWN_PATH}/undelete",
        handler=undelete,
        scope=Scope.CLUSTER,
        need=Need.OWN,
        needs_listed_address=True,
    ),
)
