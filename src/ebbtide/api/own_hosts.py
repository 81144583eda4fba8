"""Ebbtide's own API: declaring mirrored config servers, letting them go, and snapshots of them."""

from datetime import timedelta
from typing import Any

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.hosts import find_host, find_snapshot
from ebbtide.api.lists import list_answer, slice_answer
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.paging import plan_window
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document
from ebbtide.api.wire_hosts import own_host_address, own_host_document, own_host_snapshot_document
from ebbtide.backup.host_requests import (
    HostDeclaration,
    HostRemoved,
    declare_host,
    remove_host,
    request_host_snapshot,
)
from ebbtide.backup.requesting import SnapshotInProgress
from ebbtide.backup.snapshot_changes import SnapshotChanged, delete_snapshot
from ebbtide.domain.host import Host
from ebbtide.domain.job import Job, JobKind, job_id
from ebbtide.domain.replica_set import join_host_port, split_host_port
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import EbbtideError

_KNOWN = ("address", "username", "password", "authSource")
_SHOWN = tuple(state for state in SnapshotState if state is not SnapshotState.DELETED)


def parse_declaration(values: dict[str, Any]) -> HostDeclaration:
    """The host in a body. Raises one refusal that names every bad field. Pure."""
    fields = Fields(values)
    fields.require("address")
    address = fields.text("address") or ""
    if fields.has("address") and (not address or set(address) & set("/@?, ")):
        fields.blame("INVALID_ATTRIBUTE", "address", "it must be one host:port, without anything else")
    username, password = fields.text("username"), fields.text("password")
    if (username is None) != (password is None):
        fields.blame("INVALID_ATTRIBUTE", "password", "it and username go together")
    auth_source = fields.text("authSource") or "admin"
    fields.refuse_unknown(_KNOWN)
    raise_violations(fields.violations)
    return HostDeclaration(
        address=join_host_port(*split_host_port(address)),
        username=username,
        password=password,
        auth_source=auth_source,
    )


def declare(call: Call) -> Answer:
    """Look at the server, and remember it."""
    wanted = parse_declaration(parse_object(call.body))
    try:
        host = declare_host(
            wanted,
            catalog=call.context.catalog,
            service_key=call.context.service_key,
            clock=call.context.clock,
            group_id=call.group.id,
            actor=call.actor,
        )
    except EbbtideError as error:
        raise refusal("REFUSED", f"host {wanted.address} cannot be declared: {error}") from error
    return Answer(document=_document(call, host))


def list_hosts(call: Call) -> Answer:
    """Those that are not removed, by address."""
    return slice_answer(
        call,
        href=f"{call.addresses.own_group(call.group.id)}/hosts",
        records=call.context.catalog.hosts.list_in_group(call.group.id),
        to_document=lambda host: _document(call, host),
    )


def get_host(call: Call) -> Answer:
    return Answer(document=_document(call, find_host(call)))


def remove(call: Call) -> Answer:
    """Forget how to log in; what is stored of it stays."""
    try:
        host = remove_host(
            find_host(call), catalog=call.context.catalog, clock=call.context.clock, actor=call.actor
        )
    except SnapshotInProgress as refused:
        raise refusal("SNAPSHOT_IN_PROGRESS", str(refused)) from refused
    return Answer(document=_document(call, host))


def list_snapshots(call: Call) -> Answer:
    """Newest first, whatever their state but DELETED."""
    host = find_host(call)
    skip, limit = plan_window(call.page)
    snapshots = call.context.catalog.snapshots
    return list_answer(
        call,
        href=f"{own_host_address(call.addresses, host)}/snapshots",
        found=snapshots.page(host.store_id, states=_SHOWN, skip=skip, limit=limit),
        to_document=lambda snapshot: _snapshot_document(call, host, snapshot),
        count=lambda: snapshots.count(host.store_id, states=_SHOWN),
    )


def create_snapshot(call: Call) -> Answer:
    """Ask for a snapshot now; a worker takes it."""
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)
    host = find_host(call)
    try:
        snapshot = request_host_snapshot(
            host, catalog=call.context.catalog, clock=call.context.clock, actor=call.actor
        )
    except SnapshotInProgress as refused:
        raise refusal("SNAPSHOT_IN_PROGRESS", str(refused)) from refused
    except HostRemoved as refused:
        raise refusal("REFUSED", str(refused)) from refused
    return Answer(document=_snapshot_document(call, host, snapshot))


def get_snapshot(call: Call) -> Answer:
    host = find_host(call)
    snapshot = find_snapshot(call, host, call.path_values["snapshotId"])
    return Answer(document=_snapshot_document(call, host, snapshot))


def delete(call: Call) -> Answer:
    """Its links are dead at once; prune removes its data after a while."""
    host = find_host(call)
    snapshot_id = call.path_values["snapshotId"]
    try:
        delete_snapshot(
            find_snapshot(call, host, snapshot_id),
            delay=timedelta(hours=call.context.settings.number("repository.delete_delay_hours")),
            catalog=call.context.catalog,
            clock=call.context.clock,
            actor=call.actor,
        )
    except SnapshotChanged as refused:
        raise refusal("REFUSED", str(refused)) from refused
    return Answer(document=_snapshot_document(call, host, find_snapshot(call, host, snapshot_id)))


def _document(call: Call, host: Host) -> Document:
    newest = call.context.catalog.snapshots.page(host.store_id, states=_SHOWN, skip=0, limit=1)
    last = newest[0] if newest else None
    job = None if last is None else _job_of(call, last)
    return own_host_document(host, last=last, job=job, addresses=call.addresses)


def _snapshot_document(call: Call, host: Host, snapshot: Snapshot) -> Document:
    return own_host_snapshot_document(host, snapshot, job=_job_of(call, snapshot), addresses=call.addresses)


def _job_of(call: Call, snapshot: Snapshot) -> Job | None:
    """A complete snapshot's job tells nothing more."""
    if snapshot.state is SnapshotState.COMPLETE:
        return None
    return call.context.catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))


_HOSTS = "/api/ebbtide/v1/groups/{groupId}/hosts"
_SNAPSHOTS = f"{_HOSTS}/{{hostId}}/snapshots"

OPERATIONS = (
    Operation(
        name="listHosts", method="GET", path=_HOSTS, handler=list_hosts, scope=Scope.GROUP, is_list=True
    ),
    Operation(
        name="declareHost",
        method="POST",
        path=_HOSTS,
        handler=declare,
        scope=Scope.GROUP,
        need=Need.OWN,
        needs_listed_address=True,
        slow=True,
    ),
    Operation(name="getHost", method="GET", path=f"{_HOSTS}/{{hostId}}", handler=get_host, scope=Scope.GROUP),
    Operation(
        name="removeHost",
        method="DELETE",
        path=f"{_HOSTS}/{{hostId}}",
        handler=remove,
        scope=Scope.GROUP,
        need=Need.OWN,
        needs_listed_address=True,
    ),
    Operation(
        name="listOwnHostSnapshots",
        method="GET",
        path=_SNAPSHOTS,
        handler=list_snapshots,
        scope=Scope.GROUP,
        is_list=True,
    ),
    Operation(
        name="createHostSnapshot",
        method="POST",
        path=_SNAPSHOTS,
        handler=create_snapshot,
        scope=Scope.GROUP,
        need=Need.WRITE,
        needs_listed_address=True,
    ),
    Operation(
        name="getOwnHostSnapshot",
        method="GET",
        path=f"{_SNAPSHOTS}/{{snapshotId}}",
        handler=get_snapshot,
        scope=Scope.GROUP,
    ),
    Operation(
        name="deleteHostSnapshot",
        method="DELETE",
        path=f"{_SNAPSHOTS}/{{snapshotId}}",
        handler=delete,
        scope=Scope.GROUP,
        need=Need.WRITE,
        needs_listed_address=True,
    ),
)
