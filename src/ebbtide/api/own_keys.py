"""Ebbtide's own API: API keys, made, changed, rotated and revoked. What they share with service accounts is in `caller_records`.

A private key is in the answer that made it and in no other. Revoking and rotating count from the next call on.
"""

from ebbtide.api import access_lists
from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.caller_records import KindOfCaller, record_about
from ebbtide.api.grants import require_some_ownership
from ebbtide.api.operations import Call, Operation, Scope
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire_access import key_document, key_href
from ebbtide.credentials import digest_ha1, new_api_key, new_private_key
from ebbtide.domain.access import ApiKey
from ebbtide.domain.expiry import is_over

KEYS = KindOfCaller[ApiKey](
    segment="keys",
    name="publicKey",
    texts=("description",),
    unknown_code="API_KEY_NOT_FOUND",
    find=lambda call, name: call.context.catalog.api_keys.find_by_public_key(name),
    collection=lambda call: call.context.catalog.api_keys,
    href=lambda call, key: key_href(call.addresses, key.public_key),
    show=lambda call, key: key_document(key, addresses=call.addresses),
)


def create_key(call: Call) -> Answer:
    """A new key; the answer alone has its private key."""
    require_some_ownership(call)
    fields = Fields(parse_object(call.body))
    expires = fields.date("expires")
    if is_over(expires, now=call.now):
        fields.blame("INVALID_ATTRIBUTE", "expires", "it has passed already")
    wanted = KEYS.read_new(call, fields, also=("expires",))
    key, private_key = new_api_key(
        description=wanted.texts["description"],
        grants=wanted.grants,
        access_list=wanted.access_list,
        owner=False,
        expires=expires,
        service_key=call.context.service_key,
        clock=call.context.clock,
    )
    call.context.catalog.api_keys.insert(key)
    record_about(call, key, "key.created", f"API key {key.public_key} was made")
    return _answer(call, key, private_key=private_key)


def change_key(call: Call) -> Answer:
    """Another description, other roles: only somebody who may give both the old and the new ones."""
    key = KEYS.find_ruled(call)
    changes = KEYS.read_change(call)
    if changes["grants"] is not None:
        _refuse_owner(key, "its roles cannot be changed")
    changed = call.context.catalog.api_keys.change(key.id, **changes)
    if changed != key:
        record_about(call, key, "key.changed", f"API key {key.public_key} was given other roles or words")
    return _answer(call, changed or key)


def rotate_key(call: Call) -> Answer:
    """Another private key; the old one stops working at once. A key may rotate itself."""
    key = KEYS.find_seen(call)
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)
    private_key = new_private_key()
    sealed = call.context.service_key.seal(digest_ha1(key.public_key, private_key), record_id=key.id)
    call.context.catalog.api_keys.replace_secret(key.id, sealed)
    record_about(call, key, "key.rotated", f"API key {key.public_key} was given another private key")
    return _answer(call, key, private_key=private_key)


def revoke_key(call: Call) -> Answer:
    """The end of a key; neither the owner's, nor the one that calls."""
    key = KEYS.find_ruled(call)
    _refuse_owner(key, "it cannot be revoked")
    if key.id == call.caller.id:
        raise refusal("REFUSED", "A key cannot revoke itself; use another one.")
    call.context.catalog.api_keys.delete(key.id)
    record_about(call, key, "key.revoked", f"API key {key.public_key} was revoked")
    return Answer(document={}, status=204)


def _refuse_owner(key: ApiKey, what: str) -> None:
    if key.owner:
        raise refusal("REFUSED", f"API key {key.public_key} is the owner key of the first start, and {what}.")


def _answer(call: Call, key: ApiKey, *, private_key: str | None = None) -> Answer:
    return Answer(document=key_document(key, addresses=call.addresses, private_key=private_key))


_KEYS = "/api/ebbtide/v1/keys"
_KEY = f"{_KEYS}/{{publicKey}}"

OPERATIONS = (
    Operation(
        name="listKeys", method="GET", path=_KEYS, handler=KEYS.list_seen, scope=Scope.SERVICE, is_list=True
    ),
    Operation(
        name="createKey",
        method="POST",
        path=_KEYS,
        handler=create_key,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    Operation(name="getKey", method="GET", path=_KEY, handler=KEYS.get, scope=Scope.SERVICE),
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
    *access_lists.operations_below(_KEY, of="OfKey", find_holder=KEYS.find_holder),
)
