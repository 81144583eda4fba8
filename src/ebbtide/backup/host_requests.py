"""Declaring a host, letting it go, and asking for a snapshot of it. What is refused has changed nothing.

Crash: each is one write to the catalog; a snapshot without its job gets one from the worker (`enqueue_snapshot`).
"""

import socket
from dataclasses import dataclass, field, replace
from typing import Any

from pymongo import MongoClient

from ebbtide.backup.host_access import connect_to_host
from ebbtide.backup.requesting import SnapshotInProgress, enqueue_snapshot
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.event import EventLevel
from ebbtide.domain.host import (
    SET_NAME,
    Host,
    HostState,
    check_standalone,
    host_id,
    may_lock_with,
)
from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId, new_id
from ebbtide.domain.replica_set import split_host_port
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import Refused, Unreachable
from ebbtide.events import record_event
from ebbtide.mongod.deployment import UNAUTHORIZED, DeploymentError, run_admin, translated_errors
from ebbtide.sealing import ServiceKey

Document = dict[str, Any]

ANSWER_SECONDS = 8.0
"""How long a server may take to answer the one who declares it."""


class HostRefused(Refused):
    """The server cannot be copied as it is, or with the account that was given."""


class HostRemoved(Refused):
    """Nothing is asked of a host that was removed."""


@dataclass(frozen=True, kw_only=True)
class HostDeclaration:
    """What an operator says of a host. The password is kept out of `repr`."""

    address: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    auth_source: str = "admin"


def declare_host(
    wanted: HostDeclaration,
    *,
    catalog: Catalog,
    service_key: ServiceKey,
    clock: Clock,
    group_id: GroupId,
    actor: str,
) -> Host:
    """Look at the server, and remember it; one that was declared before gets this account, and keeps its snapshots.

    Raises NotStandalone, HostRefused, Unreachable, DeploymentError.
    """
    known = catalog.hosts.find(host_id(group_id, wanted.address))
    identity = host_id(group_id, wanted.address)
    password = wanted.password
    host = Host(
        id=identity,
        group_id=group_id,
        store_id=ClusterId(new_id()) if known is None else known.store_id,
        address=wanted.address,
        state=HostState.ACTIVE,
        created=clock.now() if known is None else known.created,
        username=wanted.username,
        auth_source=wanted.auth_source,
        password=None if password is None else service_key.seal(password.encode(), record_id=identity),
        mongod_version="",
        lock_job_id=None if known is None else known.lock_job_id,
    )
    host = replace(host, mongod_version=_ask(host, service_key))
    catalog.hosts.put(host)
    _tell(
        host,
        "host.added",
        f"host {host.address} was declared a mirrored config server",
        catalog,
        clock,
        actor,
    )
    return host


def _ask(host: Host, service_key: ServiceKey) -> str:
    """The host's version, once everything that a snapshot does there was found possible."""
    _require_listening(host.address)
    with connect_to_host(host, service_key, timeout_seconds=ANSWER_SECONDS) as client:
        check_standalone(run_admin(client, "hello"), address=host.address)
        version = str(run_admin(client, "buildInfo")["version"])
        status = run_admin(client, "connectionStatus", showPrivileges=True)["authInfo"]
        # A server without access control lets everybody do everything, and shows no privilege.
        may_lock = not status["authenticatedUsers"] or may_lock_with(status["authenticatedUserPrivileges"])
        if not (may_lock and _may_read_all(client)):
            raise HostRefused(
                f"the account may not do all that a snapshot of {host.address} takes",
                hint="give it the roles backup, clusterMonitor, hostManager and readAnyDatabase",
            )
        return version


def _require_listening(address: str) -> None:
    """Raise Unreachable at once where nobody listens: a driver would go on trying."""
    try:
        socket.create_connection(split_host_port(address), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise Unreachable(f"{address} does not answer: {error}") from error


def _may_read_all(client: MongoClient[Document]) -> bool:
    """Whether databases may be listed and, what is granted least, users read."""
    try:
        with translated_errors("looking at what may be read"):
            client.list_database_names()
            client.admin["system.users"].find_one()
    except DeploymentError as error:
        if error.code == UNAUTHORIZED:
            return False
        raise
    return True


def remove_host(host: Host, *, catalog: Catalog, clock: Clock, actor: str) -> Host:
    """Forget how to log in; its snapshots stay. Harmless where it was removed. Raises SnapshotInProgress."""
    if host.state is HostState.ACTIVE:
        _require_no_snapshot(host, catalog)
        catalog.hosts.remove(host.id)
        _tell(
            host,
            "host.removed",
            f"host {host.address} was removed; its snapshots stay",
            catalog,
            clock,
            actor,
        )
    return catalog.hosts.find(host.id) or host


def request_host_snapshot(host: Host, *, catalog: Catalog, clock: Clock, actor: str) -> Snapshot:
    """Record the wish for a snapshot. Raises SnapshotInProgress, HostRemoved; then nothing was recorded."""
    if host.state is not HostState.ACTIVE:
        raise HostRemoved(f"host {host.address} was removed", hint=f"ebbtide hosts add {host.address}")
    _require_no_snapshot(host, catalog)
    snapshot = Snapshot(
        id=SnapshotId(new_id()),
        group_id=host.group_id,
        cluster_id=host.store_id,
        # Never the name of a cluster: those have no colon.
        cluster_name=host.address,
        replica_set_name=SET_NAME,
        created=clock.now(),
        state=SnapshotState.IN_PROGRESS,
    )
    catalog.snapshots.insert(snapshot)
    enqueue_snapshot(snapshot, catalog=catalog, clock=clock)
    _tell(
        host, "snapshot.requested", f"a snapshot of host {host.address} was asked for", catalog, clock, actor
    )
    return snapshot


def _require_no_snapshot(host: Host, catalog: Catalog) -> None:
    under_way = catalog.snapshots.page(host.store_id, states=(SnapshotState.IN_PROGRESS,), skip=0, limit=1)
    if under_way:
        raise SnapshotInProgress(
            f"snapshot {under_way[0].id} of host {host.address} is being taken",
            hint=f"look how far it is: ebbtide hosts show {host.address}",
        )


def _tell(host: Host, kind: str, message: str, catalog: Catalog, clock: Clock, actor: str) -> None:
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind=kind,
        message=message,
        group_id=host.group_id,
        cluster_id=host.store_id,
        subject_id=host.id,
        actor=actor,
    )
