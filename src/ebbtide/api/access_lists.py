"""Access lists of keys and of service accounts: the same operations and rules for both (contract section 4.3).

Whoever rules over a key or account, and the key or account itself, sees and changes its list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from ebbtide.api.bodies import Fields, parse_json, raise_violations
from ebbtide.api.lists import slice_answer
from ebbtide.api.operations import Call, Operation, Scope
from ebbtide.api.refusals import Violation, refusal, violation
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document
from ebbtide.api.wire_access import entry_document
from ebbtide.catalog.callers import CallerCollection
from ebbtide.domain.access import Caller, CallerKind, shared_group
from ebbtide.domain.access_list import AccessEntry, locks_out, parse_network
from ebbtide.domain.event import EventLevel
from ebbtide.errors import InvalidInput
from ebbtide.events import record_event

ENTRIES_MAX = 200
"""In one body and on one list: every call looks through its caller's."""

_NOT_LISTED = {
    CallerKind.API_KEY: "API_KEY_ACCESS_LIST_NOT_FOUND",
    CallerKind.SERVICE_ACCOUNT: "ACCESS_LIST_NOT_FOUND",
}


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Whose list it is. `show` is the document of the holder's record."""

    caller: Caller
    collection: CallerCollection[Any]
    href: str
    show: Callable[[Any], Document]

    @property
    def label(self) -> str:
        return f"{self.caller.kind.value} {self.caller.name}"

    def entry(self, cidr: str) -> AccessEntry | None:
        return next((entry for entry in self.caller.access_list if entry.cidr == cidr), None)

    def entry_document(self, entry: AccessEntry) -> Document:
        return entry_document(entry, kind=self.caller.kind, holder_href=self.href)


def list_entries(call: Call, holder: Holder) -> Answer:
    return slice_answer(
        call,
        href=f"{holder.href}/accessList",
        records=holder.caller.access_list,
        to_document=holder.entry_document,
    )


def get_entry(call: Call, holder: Holder) -> Answer:
    return Answer(document=holder.entry_document(_find_listed(call, holder)))


def add_entries(call: Call, holder: Holder) -> Answer:
    """Allow networks. One that is listed already, or twice in the body, is refused, and nothing is added."""
    networks = parse_entries(parse_json(call.body))
    for network in networks:
        if holder.entry(network) is not None:
            raise refusal("ADDRESS_ALREADY_IN_ACCESS_LIST", network, holder.label)
    if len(holder.caller.access_list) + len(networks) > ENTRIES_MAX:
        raise refusal("REFUSED", f"An access list has at most {ENTRIES_MAX} entries.")
    changed: Any = None
    for network in networks:
        changed = holder.collection.allow(holder.caller.id, AccessEntry(cidr=network, created=call.now))
    _record(call, holder, "key.allowed", f"{holder.label} may be used from {', '.join(networks)}")
    return Answer(document=holder.show(changed))


def remove_entry(call: Call, holder: Holder) -> Answer:
    """Disallow one network. The caller cannot shut out the address that it calls from."""
    network = _find_listed(call, holder).cidr
    is_own = holder.caller.id == call.caller.id
    if is_own and locks_out(call.address, holder.caller.access_list, without=network):
        raise refusal("CANNOT_REMOVE_CALLER_FROM_ACCESS_LIST", network, str(call.address))
    changed = holder.collection.disallow(holder.caller.id, network)
    _record(call, holder, "key.disallowed", f"{holder.label} may no longer be used from {network}")
    return Answer(document=holder.show(changed))


def _find_listed(call: Call, holder: Holder) -> AccessEntry:
    """The entry of the path, an address or a CIDR block in any spelling."""
    text = unquote(call.path_values["entry"])
    try:
        entry = holder.entry(parse_network(text))
    except InvalidInput:
        entry = None
    if entry is None:
        raise refusal(_NOT_LISTED[holder.caller.kind], text, holder.caller.name)
    return entry


def parse_entries(values: Any, *, prefix: str = "") -> tuple[str, ...]:
    """The networks of `[{"ipAddress"} | {"cidrBlock"}, …]`, in normal form; `prefix` is where it stands in the body."""
    if not isinstance(values, list) or not 1 <= len(values) <= ENTRIES_MAX:
        raise refusal("BAD_ACCESS_LIST_ADD_REQUEST")
    violations: list[Violation] = []
    networks: list[str] = []
    for place, value in enumerate(values):
        entry = _parse_entry(value, prefix=f"{prefix}{place}.")
        violations += entry.violations
        if entry.network is not None:
            networks.append(entry.network)
    raise_violations(violations)
    for network in networks:
        if networks.count(network) > 1:
            raise refusal("DUPLICATE_ADDRESSES_IN_INPUT", network)
    return tuple(networks)


def read_entries(fields: Fields, name: str = "accessList") -> tuple[str, ...]:
    """The networks of a field, none where it is absent."""
    return parse_entries(fields.raw(name), prefix=f"{fields.path(name)}.") if fields.has(name) else ()


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


def _record(call: Call, holder: Holder, kind: str, message: str) -> None:
    record_event(
        call.context.catalog,
        call.context.clock,
        level=EventLevel.INFO,
        kind=kind,
        message=message,
        group_id=shared_group(holder.caller.grants),
        subject_id=holder.caller.id,
        actor=call.actor,
    )


def operations_below(path: str, *, of: str, find_holder: Callable[[Call], Holder]) -> tuple[Operation, ...]:
    """The operations on the list of what `path` names; `of` ends their names."""

    def on(act: Callable[[Call, Holder], Answer]) -> Callable[[Call], Answer]:
        return lambda call: act(call, find_holder(call))

    entries = f"{path}/accessList"
    # `:path`: the slash of a CIDR block arrives decoded.
    entry = f"{entries}/{{entry:path}}"
    service = Scope.SERVICE
    return (
        Operation(
            name=f"listAccessListEntries{of}",
            method="GET",
            path=entries,
            handler=on(list_entries),
            scope=service,
            is_list=True,
        ),
        Operation(
            name=f"addAccessListEntries{of}",
            method="POST",
            path=entries,
            handler=on(add_entries),
            scope=service,
        ),
        Operation(
            name=f"getAccessListEntry{of}", method="GET", path=entry, handler=on(get_entry), scope=service
        ),
        Operation(
            name=f"removeAccessListEntry{of}",
            method="DELETE",
            path=entry,
            handler=on(remove_entry),
            scope=service,
        ),
    )
