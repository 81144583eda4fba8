"""Ebbtide's own API: keys and their access lists. Private keys are never in an answer."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from ebbtide.api.bodies import Fields, parse_json, raise_violations
from ebbtide.api.lists import slice_answer
from ebbtide.api.operations import Call, Operation, Scope
from ebbtide.api.refusals import Violation, refusal, violation
from ebbtide.api.responses import Answer
from ebbtide.api.wire import key_document
from ebbtide.domain.access import ApiKey, is_global_owner
from ebbtide.domain.access_list import AccessEntry, find_entry, parse_network
from ebbtide.domain.event import EventLevel
from ebbtide.errors import InvalidInput
from ebbtide.events import record_event

ENTRIES_MAX = 200


def list_keys(call: Call) -> Answer:
    """A global owner sees every key, another caller its own."""
    every = call.context.catalog.api_keys.list_all()
    keys = every if is_global_owner(call.key) else [key for key in every if key.id == call.key.id]
    return slice_answer(
        call,
        href=f"{call.addresses.ebbtide}/keys",
        records=keys,
        to_document=lambda key: key_document(key, addresses=call.addresses),
    )


def add_entries(call: Call) -> Answer:
    """Allow networks; those that are listed already stay as they are."""
    key = _find_key(call)
    networks = parse_entries(parse_json(call.body))
    changed: ApiKey | None = key
    for network in networks:
        entry = AccessEntry(cidr=network, created=call.now)
        changed = call.context.catalog.api_keys.allow(key.id, entry)
    _record(call, "key.allowed", f"API key {key.public_key} may be used from {', '.join(networks)}")
    return _answer(call, changed or key)


def remove_entry(call: Call) -> Answer:
    """Disallow one network. The caller cannot shut out the address that it calls from."""
    key = _find_key(call)
    text = unquote(call.path_values["entry"])
    try:
        network = parse_network(text)
    except InvalidInput:
        raise refusal("API_KEY_ACCESS_LIST_NOT_FOUND", text, key.public_key) from None
    if all(entry.cidr != network for entry in key.access_list):
        raise refusal("API_KEY_ACCESS_LIST_NOT_FOUND", network, key.public_key)
    rest = [entry for entry in key.access_list if entry.cidr != network]
    # Nor the last entry: an empty list would allow every address again.
    if key.id == call.key.id and find_entry(call.address, rest) is None:
        raise refusal("CANNOT_REMOVE_CALLER_FROM_ACCESS_LIST", network, str(call.address))
    changed = call.context.catalog.api_keys.disallow(key.id, network)
    _record(call, "key.disallowed", f"API key {key.public_key} may no longer be used from {network}")
    return _answer(call, changed or key)


def parse_entries(values: Any) -> list[str]:
    """The networks of a body `[{"ipAddress"} | {"cidrBlock"}, …]`, in normal form, each once."""
    if not isinstance(values, list) or not 1 <= len(values) <= ENTRIES_MAX:
        raise refusal("BAD_ACCESS_LIST_ADD_REQUEST")
    violations: list[Violation] = []
    networks: dict[str, None] = {}
    for place, value in enumerate(values):
        entry = _parse_entry(value, prefix=f"{place}.")
        violations += entry.violations
        if entry.network is not None:
            networks[entry.network] = None
    raise_violations(violations)
    return list(networks)


@dataclass(frozen=True)
class _Entry:
    """One element of the body: a network, or what is wrong with it."""

    network: str | None
    violations: list[Violation]


def _parse_entry(value: Any, *, prefix: str) -> _Entry:
    if not isinstance(value, dict):
        raise refusal("BAD_ACCESS_LIST_ADD_REQUEST")
    fields = Fields(value, prefix=prefix)
    if fields.has("ipAddress") == fields.has("cidrBlock"):
        raise refusal("BAD_ACCESS_LIST_ADD_REQUEST")
    name = "ipAddress" if fields.has("ipAddress") else "cidrBlock"
    text = fields.text(name)
    fields.refuse_unknown(("ipAddress", "cidrBlock"))
    if text is None:
        return _Entry(None, fields.violations)
    try:
        network = parse_network(text, field=name)
    except InvalidInput:
        network = None
    if network is None or (name == "ipAddress" and "/" in text):
        bad = violation("INVALID_IP_ADDRESS_OR_CIDR_NOTATION", fields.path(name), text)
        return _Entry(None, [*fields.violations, bad])
    return _Entry(network, fields.violations)


def _find_key(call: Call) -> ApiKey:
    """The path's key, where it is the caller's own or the caller may see all."""
    public_key = call.path_values["publicKey"]
    if public_key != call.key.name and not is_global_owner(call.key):
        raise refusal("USER_UNAUTHORIZED")
    key = call.context.catalog.api_keys.find_by_public_key(public_key)
    if key is None:
        raise refusal("API_KEY_NOT_FOUND", public_key)
    return key


def _answer(call: Call, key: ApiKey) -> Answer:
    return Answer(document=key_document(key, addresses=call.addresses))


def _record(call: Call, kind: str, message: str) -> None:
    record_event(
        call.context.catalog,
        call.context.clock,
        level=EventLevel.INFO,
        kind=kind,
        message=message,
        actor=call.actor,
    )


_PATH = "/api/ebbtide/v1/keys"

OPERATIONS = (
    Operation(
        name="listKeys", method="GET", path=_PATH, handler=list_keys, scope=Scope.SERVICE, is_list=True
    ),
    Operation(
        name="addAccessListEntries",
        method="POST",
        path=f"{_PATH}/{{publicKey}}/accessList",
        handler=add_entries,
        scope=Scope.SERVICE,
    ),
    Operation(
        name="removeAccessListEntry",
        method="DELETE",
        # `:path`: the slash of a CIDR block arrives decoded.
        path=f"{_PATH}/{{publicKey}}/accessList/{{entry:path}}",
        handler=remove_entry,
        scope=Scope.SERVICE,
    ),
)
