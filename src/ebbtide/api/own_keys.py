"""Ebbtide's own API: API keys, made, changed, rotated and revoked.

A private key is in the answer that made it and in no other. Revoking and rotating count from the next call on.
"""

from ebbtide.api import access_lists
from ebbtide.api.access_lists import Holder
from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.grants import (
    read_grants,
    require_groups,
    require_management,
    require_some_ownership,
    short_text,
)
from ebbtide.api.lists import slice_answer
from ebbtide.api.operations import Call, Operation, Scope
from ebbtide.api.refusals import Refusal, refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire_access import key_document, key_href
from ebbtide.credentials import digest_ha1, new_api_key, new_private_key
from ebbtide.domain.access import ApiKey, is_global_owner, may_manage, shared_group
from ebbtide.domain.access_list import AccessEntry
from ebbtide.domain.event import EventLevel
from ebbtide.domain.expiry import is_over
from ebbtide.events import record_event


def list_keys(call: Call) -> Answer:
    """The caller's own key, and those that it rules over; oldest first."""
    every = call.context.catalog.api_keys.list_all()
    seen = [key for key in every if key.id == call.caller.id or may_manage(call.caller, key.grants)]
    return slice_answer(
        call,
        href=f"{call.addresses.ebbtide}/keys",
        records=seen,
        to_document=lambda key: key_document(key, addresses=call.addresses),
    )


def get_key(call: Call) -> Answer:
    return _answer(call, _find_key(call))


def create_key(call: Call) -> Answer:
    """A new key; the answer alone has its private key."""
    require_some_ownership(call)
    fields = Fields(parse_object(call.body))
    description, grants = short_text(fields, "description"), read_grants(fields)
    expires = fields.date("expires")
    if is_over(expires, now=call.now):
        fields.blame("INVALID_ATTRIBUTE", "expires", "it has passed already")
    fields.require("grants")
    fields.refuse_unknown(("description", "grants", "accessList", "expires"))
    raise_violations(fields.violations)
    networks = access_lists.read_entries(fields)
    require_management(call, grants or ())
    require_groups(call, grants or ())
    key, private_key = new_api_key(
        description=description or "",
        grants=grants or (),
        access_list=tuple(AccessEntry(cidr=network, created=call.now) for network in networks),
        owner=False,
        expires=expires,
        service_key=call.context.service_key,
        clock=call.context.clock,
    )
    call.context.catalog.api_keys.insert(key)
    _record(call, key, "key.created", f"API key {key.public_key} was made")
    return _answer(call, key, private_key=private_key)


def change_key(call: Call) -> Answer:
    """Another description, other roles: only somebody who may give both the old and the new ones."""
    key = _find_key(call)
    require_management(call, key.grants)
    fields = Fields(parse_object(call.body))
    description, grants = short_text(fields, "description"), read_grants(fields)
    fields.refuse_unknown(("description", "grants"))
    raise_violations(fields.violations)
    if grants is not None:
        require_management(call, grants)
        require_groups(call, grants)
        _refuse_owner(key, "its roles cannot be changed")
    changed = call.context.catalog.api_keys.change(key.id, description=description, grants=grants)
    if changed != key:
        _record(call, key, "key.changed", f"API key {key.public_key} was given other roles or words")
    return _answer(call, changed or key)


def rotate_key(call: Call) -> Answer:
    """Another private key; the old one stops working at once. A key may rotate itself."""
    key = _find_key(call)
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)
    private_key = new_private_key()
    sealed = call.context.service_key.seal(digest_ha1(key.public_key, private_key), record_id=key.id)
    call.context.catalog.api_keys.replace_secret(key.id, sealed)
    _record(call, key, "key.rotated", f"API key {key.public_key} was given another private key")
    return _answer(call, key, private_key=private_key)


def revoke_key(call: Call) -> Answer:
    """The end of a key; neither the owner's, nor the one that calls."""
    key = _find_key(call)
    require_management(call, key.grants)
    _refuse_owner(key, "it cannot be revoked")
    if key.id == call.caller.id:
        raise refusal("REFUSED", "A key cannot revoke itself; use another one.")
    call.context.catalog.api_keys.delete(key.id)
    _record(call, key, "key.revoked", f"API key {key.public_key} was revoked")
    return Answer(document={}, status=204)


def _refuse_owner(key: ApiKey, what: str) -> None:
    if key.owner:
        raise refusal("REFUSED", f"API key {key.public_key} is the owner key of the first start, and {what}.")


def _find_key(call: Call) -> ApiKey:
    """The path's key, where it is the caller's own or the caller rules over it."""
    public_key = call.path_values["publicKey"]
    key = call.context.catalog.api_keys.find_by_public_key(public_key)
    if key is None:
        raise refusal("API_KEY_NOT_FOUND", public_key) if is_global_owner(call.caller) else _unauthorized()
    if key.id != call.caller.id and not may_manage(call.caller, key.grants):
        raise _unauthorized()
    return key


def _unauthorized() -> Refusal:
    return refusal("USER_UNAUTHORIZED")


def _find_holder(call: Call) -> Holder:
    key = _find_key(call)
    return Holder(
        caller=key.caller,
        collection=call.context.catalog.api_keys,
        href=key_href(call.addresses, key.public_key),
        show=lambda changed: key_document(changed or key, addresses=call.addresses),
    )


def _answer(call: Call, key: ApiKey, *, private_key: str | None = None) -> Answer:
    return Answer(document=key_document(key, addresses=call.addresses, private_key=private_key))


def _record(call: Call, key: ApiKey, kind: str, message: str) -> None:
    record_event(
        call.context.catalog,
        call.context.clock,
        level=EventLevel.INFO,
        kind=kind,
        message=message,
        group_id=shared_group(key.grants),
        subject_id=key.id,
        actor=call.actor,
    )


_KEYS = "/api/ebbtide/v1/keys"
_KEY = f"{_KEYS}/{{publicKey}}"

OPERATIONS = (
    Operation(
        name="listKeys", method="GET", path=_KEYS, handler=list_keys, scope=Scope.SERVICE, is_list=True
    ),
    Operation(
        name="createKey",
        method="POST",
        path=_KEYS,
        handler=create_key,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    Operation(name="getKey", method="GET", path=_KEY, handler=get_key, scope=Scope.SERVICE),
    Operation(
        name="changeKey",
        method="PATCH",
        path=_KEY,
        handler=change_key,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    Operation(
        name="rotateKey",
        method="POST",
        path=f"{_KEY}/rotate",
        handler=rotate_key,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    Operation(
        name="revokeKey",
        method="DELETE",
        path=_KEY,
        handler=revoke_key,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    *access_lists.operations_below(_KEY, of="OfKey", find_holder=_find_holder),
)
