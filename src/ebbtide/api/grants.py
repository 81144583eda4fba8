"""Who may rule over keys and service accounts, and the roles that a body gives them.

A global owner rules over all of them; an owner of groups over those whose every role is in groups that it owns, so that
nobody gives away more than their own. Unknown and foreign ones are told the same to whoever does not see all.
"""

from typing import Any

from ebbtide.api.bodies import Fields
from ebbtide.api.operations import Call
from ebbtide.api.refusals import refusal
from ebbtide.domain.access import Grant, Role, may_manage, owns_something
from ebbtide.domain.ids import GroupId

GRANTS_MAX = 100
TEXT_LENGTH_MAX = 250


def require_some_ownership(call: Call) -> None:
    """Refuse whoever owns nothing before anything of the body is judged."""
    if not owns_something(call.caller):
        raise refusal("USER_UNAUTHORIZED")


def require_management(call: Call, grants: tuple[Grant, ...]) -> None:
    """Refuse whoever may not rule over what has these roles."""
    if not may_manage(call.caller, grants):
        raise refusal("USER_UNAUTHORIZED")


def read_grants(fields: Fields, name: str = "grants") -> tuple[Grant, ...] | None:
    """The roles of a body, each once; None where the field is absent or bad, which `fields` then knows."""
    value = fields.raw(name)
    if value is None:
        return None
    if not isinstance(value, list) or not 1 <= len(value) <= GRANTS_MAX:
        fields.blame("INVALID_JSON_ATTRIBUTE", name, f"an array of 1 to {GRANTS_MAX} roles")
        return None
    found = [
        _read_grant(fields, item, prefix=f"{fields.path(name)}.{place}.") for place, item in enumerate(value)
    ]
    return tuple(dict.fromkeys(grant for grant in found if grant is not None))


def _read_grant(fields: Fields, value: Any, *, prefix: str) -> Grant | None:
    if not isinstance(value, dict):
        fields.blame("INVALID_JSON_ATTRIBUTE", prefix.rstrip("."), "an object")
        return None
    inner = Fields(value, prefix=prefix)
    inner.require("role")
    text, group_id = inner.text("role"), inner.identifier("groupId")
    role = next((role for role in Role if role.value == text), None)
    if text is not None and role is None:
        inner.blame("INVALID_ENUM_VALUE", "role", text, ", ".join(role.value for role in Role))
    if role is not None and role.is_global and inner.has("groupId"):
        inner.blame("INVALID_ATTRIBUTE", "groupId", f"{role.value} is a role in every group")
    if role is not None and not role.is_global:
        inner.require("groupId")
    inner.refuse_unknown(("role", "groupId"))
    fields.violations += inner.violations
    if inner.violations or role is None:
        return None
    return Grant(role=role, group_id=None if role.is_global else GroupId(str(group_id)))


def require_groups(call: Call, grants: tuple[Grant, ...]) -> None:
    """Refuse roles in groups that do not exist. Only for whoever may rule over them: it tells which do."""
    for group_id in {grant.group_id for grant in grants if grant.group_id is not None}:
        if call.context.catalog.groups.find(group_id) is None:
            raise refusal("INVALID_ATTRIBUTE", "grants", f"no group {group_id} exists")


def short_text(fields: Fields, name: str) -> str | None:
    """A text for people, of a bearable length."""
    text = fields.text(name)
    if text is not None and len(text) > TEXT_LENGTH_MAX:
        fields.blame("INVALID_ATTRIBUTE", name, f"it must have at most {TEXT_LENGTH_MAX} characters")
        return None
    return text
