"""Ebbtide's own API: projects (groups), and who has which role in them.

Roles are on API keys and service accounts; a member of a project is one that has a role there. Global roles are given
when a key is made, and shown here because they count in every project.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.families import Family
from ebbtide.api.groups import group_answer, list_groups
from ebbtide.api.lists import slice_answer
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire_members import member_document
from ebbtide.domain.access import Caller, CallerKind, Grant, Role, is_global_owner, is_member, is_owner
from ebbtide.domain.event import EventLevel
from ebbtide.domain.group import GROUP_NAME_LENGTH_MAX, Group
from ebbtide.domain.ids import GroupId, new_id
from ebbtide.events import record_event

_GIVABLE = tuple(role.value for role in Role if not role.is_global)


@dataclass(frozen=True)
class _Member:
    """A caller, and how to change its grants."""

    caller: Caller
    description: str


def create_project(call: Call) -> Answer:
    """A new, empty project; for owners of the whole service."""
    if not is_global_owner(call.caller):
        raise refusal("USER_UNAUTHORIZED")
    group = Group(id=GroupId(new_id()), name=_parse_name(call), created=call.now)
    call.context.catalog.groups.insert(group)
    _record(call, group, "group.created", f"project {group.name} was created")
    return group_answer(call, group)


def rename_project(call: Call) -> Answer:
    """Another name; ids and links stay."""
    renamed = replace(call.group, name=_parse_name(call))
    if renamed != call.group:
        call.context.catalog.groups.rename(renamed.id, renamed.name)
        _record(call, renamed, "group.renamed", f"project {call.group.name} is called {renamed.name} now")
    return group_answer(call, renamed)


def get_project(call: Call) -> Answer:
    return group_answer(call, call.group)


def _parse_name(call: Call) -> str:
    fields = Fields(parse_object(call.body))
    fields.require("name")
    name = (fields.text("name") or "").strip()
    if fields.has("name") and not fields.violations and not 1 <= len(name) <= GROUP_NAME_LENGTH_MAX:
        fields.blame("INVALID_ATTRIBUTE", "name", f"it must have 1 to {GROUP_NAME_LENGTH_MAX} characters")
    fields.refuse_unknown(("name",))
    raise_violations(fields.violations)
    return name


def list_members(call: Call) -> Answer:
    """Everyone who has a role here, API keys first, oldest first."""
    members = [m for m in _everyone(call) if is_member(m.caller, call.group.id)]
    return slice_answer(
        call,
        href=f"{call.addresses.group(call.group.id)}/members",
        records=members,
        to_document=lambda member: _document(call, member),
    )


def set_roles(call: Call) -> Answer:
    """The roles that a key or a service account has in this project, in place of those it had; none takes it out."""
    roles = parse_roles(parse_object(call.body))
    member = _find_member(call)
    caller = member.caller
    others = tuple(grant for grant in caller.grants if grant.group_id != call.group.id)
    grants = (*others, *(Grant(role=role, group_id=call.group.id) for role in roles))
    after = replace(caller, grants=grants)
    if caller.id == call.caller.id and not is_owner(after, call.group.id):
        raise refusal("REFUSED", "Nobody can take from themselves what lets them do so; another owner can.")
    if grants != caller.grants:
        _change(call, after)
        told = ", ".join(roles) or "no role"
        _record(call, call.group, "group.member", f"{caller.kind.value} {caller.name} has {told} now")
    return Answer(document=_document(call, replace(member, caller=after)))


def parse_roles(values: dict[str, Any]) -> tuple[Role, ...]:
    """The roles of a body `{"roles": […]}`, each once. Raises one refusal that names every bad field."""
    fields = Fields(values)
    fields.require("roles")
    given = fields.raw("roles")
    if given is not None and (not isinstance(given, list) or any(not isinstance(r, str) for r in given)):
        fields.blame("INVALID_JSON_ATTRIBUTE", "roles", "an array of strings")
        given = None
    for role in given or ():
        if role not in _GIVABLE:
            fields.blame("INVALID_ENUM_VALUE", "roles", role, ", ".join(_GIVABLE))
    fields.refuse_unknown(("roles",))
    raise_violations(fields.violations)
    return tuple(dict.fromkeys(Role(role) for role in given or ()))


def _everyone(call: Call) -> Iterable[_Member]:
    catalog = call.context.catalog
    for key in catalog.api_keys.list_all():
        yield _Member(key.caller, key.description)
    for account in catalog.service_accounts.list_all():
        yield _Member(account.caller, account.description)


def _find_member(call: Call) -> _Member:
    name = call.path_values["memberName"]
    for member in _everyone(call):
        if member.caller.name == name:
            return member
    raise refusal("API_KEY_NOT_FOUND", name)


def _change(call: Call, caller: Caller) -> None:
    catalog = call.context.catalog
    if caller.kind is CallerKind.API_KEY:
        catalog.api_keys.change(caller.id, grants=caller.grants)
    else:
        catalog.service_accounts.change(caller.id, grants=caller.grants)


def _document(call: Call, member: _Member) -> dict[str, Any]:
    return member_document(
        member.caller, description=member.description, group_id=call.group.id, addresses=call.addresses
    )


def _record(call: Call, group: Group, kind: str, message: str) -> None:
    record_event(
        call.context.catalog,
        call.context.clock,
        level=EventLevel.INFO,
        kind=kind,
        message=message,
        group_id=group.id,
        actor=call.actor,
    )


_GROUPS = f"{Family.OWN.value}/groups"
_GROUP = f"{_GROUPS}/{{groupId}}"

OPERATIONS = (
    Operation(
        name="listOwnProjects",
        method="GET",
        path=_GROUPS,
        handler=list_groups,
        scope=Scope.SERVICE,
        is_list=True,
    ),
    Operation(
        name="createProject",
        method="POST",
        path=_GROUPS,
        handler=create_project,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    Operation(name="getOwnProject", method="GET", path=_GROUP, handler=get_project, scope=Scope.GROUP),
    Operation(
        name="renameProject",
        method="PATCH",
        path=_GROUP,
        handler=rename_project,
        scope=Scope.GROUP,
        need=Need.OWN,
        needs_listed_address=True,
    ),
    Operation(
        name="listMembers",
        method="GET",
        path=f"{_GROUP}/members",
        handler=list_members,
        scope=Scope.GROUP,
        need=Need.OWN,
        is_list=True,
    ),
    Operation(
        name="setMemberRoles",
        method="PUT",
        path=f"{_GROUP}/members/{{memberName}}",
        handler=set_roles,
        scope=Scope.GROUP,
        need=Need.OWN,
        needs_listed_address=True,
    ),
)
