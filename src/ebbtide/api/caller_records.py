"""API keys and service accounts as things to be looked at and changed: what is the same for both.

A caller sees itself; whoever rules over all roles of one sees and changes it. Who does not rule over everything learns the
same of one that does not exist as of one of somebody else. Nobody gives away more than their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ebbtide.api import access_lists
from ebbtide.api.access_lists import Holder
from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.grants import read_grants, require_groups, require_management, short_text
from ebbtide.api.lists import slice_answer
from ebbtide.api.operations import Call
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document
from ebbtide.catalog.callers import CallerCollection
from ebbtide.domain.access import Caller, Grant, is_global_owner, may_manage, shared_group
from ebbtide.domain.access_list import AccessEntry
from ebbtide.domain.event import EventLevel
from ebbtide.events import record_event


class CallerRecord(Protocol):
    """What a key and a service account have in common."""

    @property
    def id(self) -> str: ...

    @property
    def grants(self) -> tuple[Grant, ...]: ...

    @property
    def caller(self) -> Caller: ...


R = TypeVar("R", bound=CallerRecord)


@dataclass(frozen=True, kw_only=True)
class KindOfCaller(Generic[R]):
    """One kind. `segment` is its place in paths, `name` the path value that says which; `texts` are its fields for people."""

    segment: str
    name: str
    texts: tuple[str, ...]
    unknown_code: str
    find: Callable[[Call, str], R | None]
    collection: Callable[[Call], CallerCollection[R]]
    href: Callable[[Call, R], str]
    show: Callable[[Call, R], Document]

    def list_seen(self, call: Call) -> Answer:
        """The caller itself if it is of this kind, and those that it rules over; oldest first."""
        every = self.collection(call).list_all()
        return slice_answer(
            call,
            href=f"{call.addresses.ebbtide}/{self.segment}",
            records=[one for one in every if one.id == call.caller.id or may_manage(call.caller, one.grants)],
            to_document=lambda one: self.show(call, one),
        )

    def get(self, call: Call) -> Answer:
        return Answer(document=self.show(call, self.find_seen(call)))

    def find_seen(self, call: Call) -> R:
        """The path's one, where it is the caller itself or the caller rules over it."""
        name = call.path_values[self.name]
        found = self.find(call, name)
        if found is None:
            known = is_global_owner(call.caller)
            raise refusal(self.unknown_code, name) if known else refusal("USER_UNAUTHORIZED")
        if found.id != call.caller.id:
            require_management(call, found.grants)
        return found

    def find_ruled(self, call: Call) -> R:
        """The path's one, where the caller rules over it."""
        found = self.find_seen(call)
        require_management(call, found.grants)
        return found

    def find_holder(self, call: Call) -> Holder:
        """The path's one, as the holder of its access list."""
        found = self.find_seen(call)
        return Holder(
            caller=found.caller,
            collection=self.collection(call),
            href=self.href(call, found),
            show=lambda changed: self.show(call, changed or found),
        )

    def read_new(self, call: Call, fields: Fields, *, also: tuple[str, ...]) -> "NewCaller":
        """What a body says of one to make; it may have the fields `also`, which were read. Raises every violation."""
        texts = {name: short_text(fields, name) for name in self.texts}
        grants = read_grants(fields)
        for required in (*(name for name in self.texts if name == "name"), "grants"):
            fields.require(required)
        fields.refuse_unknown((*self.texts, "grants", "accessList", *also))
        raise_violations(fields.violations)
        networks = access_lists.read_entries(fields)
        _require_giving(call, grants or ())
        return NewCaller(
            texts={name: text or "" for name, text in texts.items()},
            grants=grants or (),
            access_list=tuple(AccessEntry(cidr=network, created=call.now) for network in networks),
        )

    def read_change(self, call: Call) -> dict[str, Any]:
        """What a body changes of one that the caller rules over: some of `texts`, or `grants`, or None for each."""
        fields = Fields(parse_object(call.body))
        texts = {name: short_text(fields, name) for name in self.texts}
        grants = read_grants(fields)
        fields.refuse_unknown((*self.texts, "grants"))
        raise_violations(fields.violations)
        if grants is not None:
            _require_giving(call, grants)
        return {**texts, "grants": grants}


@dataclass(frozen=True, kw_only=True)
class NewCaller:
    """One to make. `texts` are its fields for people, empty where nothing was said."""

    texts: dict[str, str]
    grants: tuple[Grant, ...]
    access_list: tuple[AccessEntry, ...]


def _require_giving(call: Call, grants: tuple[Grant, ...]) -> None:
    require_management(call, grants)
    require_groups(call, grants)


def record_about(call: Call, record: CallerRecord, kind: str, message: str) -> None:
    """Note what was done to a key or an account."""
    record_event(
        call.context.catalog,
        call.context.clock,
        level=EventLevel.INFO,
        kind=kind,
        message=message,
        group_id=shared_group(record.grants),
        subject_id=record.id,
        actor=call.actor,
    )
