"""Registering a replica set: look first, report every problem together, change nothing until all is well.

`check_registration` gathers facts (read-only commands) and judges them with `judge`, a pure function.
`register_cluster` writes the cluster to the catalog and nothing else: a worker gives it a head.
Crash: a cluster without a head record gets one at the worker's next look.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ebbtide.backup.registration_checks import (
    HEAD_EXTRA_MEMORY_BYTES,
    Check,
    Facts,
    RegistrationRequest,
    check_request,
    head_disk_bytes,
    judge,
)
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.crash_points import reach
from ebbtide.domain.cluster import (
    Cluster,
    ClusterState,
    Head,
    HeadState,
)
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import ClusterId, GroupId, new_id
from ebbtide.domain.replica_set import (
    ClusterAuthMode,
    TlsMode,
    join_host_port,
    major_version,
    missing_roles,
    split_host_port,
    unhealthy_members,
)
from ebbtide.domain.sharding import PartAddress
from ebbtide.errors import EbbtideError, RegistrationRefused, Unreachable
from ebbtide.events import record_event
from ebbtide.mongod import deployment
from ebbtide.mongod.binary import find_mongod_of, mongod_version
from ebbtide.mongod.ports import free_port, is_bindable
from ebbtide.mongod.tls import (
    SubjectAttributes,
    TlsMaterial,
    answers_with_tls,
    find_trouble_among_themselves,
    membership_of,
    read_certificate,
)
from ebbtide.sealing import ServiceKey
from ebbtide.settings import Settings

ANSWER_SECONDS = 8.0
"""How long a set may take to answer; an election on a healthy set is shorter."""

ALONE_SECONDS = 3.0
"""How long its first server may then take to answer alone."""


@dataclass(frozen=True, kw_only=True)
class RegistrationReport:
    """The verdict on a request. `disk_bytes` and `memory_bytes` are what the head will take."""

    checks: tuple[Check, ...]
    facts: Facts
    head_host: str
    head_port: int
    disk_bytes: int
    memory_bytes: int

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def raise_unless_ok(self) -> None:
        """Raise RegistrationRefused with every failed check."""
        failed = [(check.what, check.fix) for check in self.checks if not check.ok]
        if failed:
            raise RegistrationRefused(failed)


def check_registration(
    request: RegistrationRequest,
    *,
    settings: Settings,
    catalog: Catalog,
    group_id: GroupId,
    data_dir: Path | None = None,
) -> RegistrationReport:
    """Judge a request. Takes seconds; changes nothing.

    `data_dir` is where the head's files will be. Raises InvalidInput for a request that is malformed in itself.
    """
    check_request(request)
    head_host = request.head_host or str(settings["head.host"])
    facts = with_certificate(gather_facts(request, settings=settings, data_dir=data_dir), request, head_host)
    head_port = request.head_port or _choose_port(head_host)
    existing = catalog.clusters.find_by_name(group_id, request.name)
    name_taken = existing is not None and existing.state is not ClusterState.REMOVED
    same_set = None
    if facts.configuration is not None:
        same_set = _registered_as(catalog, facts.configuration)
    checks = judge(
        facts,
        request=request,
        head_host=head_host,
        head_port=head_port,
        name_taken=name_taken,
        registered_as=same_set,
        address_problem=_find_address_problem(catalog, head_host, head_port),
    )
    return RegistrationReport(
        checks=checks,
        facts=facts,
        head_host=head_host,
        head_port=head_port,
        disk_bytes=head_disk_bytes(facts),
        memory_bytes=int(settings.number("head.cache_gb") * 1024**3) + HEAD_EXTRA_MEMORY_BYTES,
    )


def with_certificate(facts: Facts, request: RegistrationRequest, head_host: str) -> Facts:
    """`facts` with what the head's certificate in the request says, where there is one."""
    if request.tls is None:
        return facts
    return replace(
        facts,
        certificate=read_certificate(request.tls.certificate),
        certificate_trouble=find_trouble_among_themselves(request.tls, head_host),
    )


def gather_facts(request: RegistrationRequest, *, settings: Settings, data_dir: Path | None) -> Facts:
    """Ask the deployment and this machine. Read-only; never raises for what the deployment answers."""
    try:
        with deployment.connect_to_set(
            request.uri, None, tls=request.tls, timeout_seconds=ANSWER_SECONDS
        ) as anonymous:
            hello = deployment.run_admin(anonymous, "hello")
            if "setName" not in hello:
                return Facts(hello=hello)
            build = deployment.run_admin(anonymous, "buildInfo")
    except deployment.DeploymentError as error:
        # A server that is too old for PyMongo to talk to, for one; the message says which it needs.
        return Facts(unreachable=error.message)
    except Unreachable as error:
        return _facts_of_unreachable(request, error)
    known: dict[str, Any] = {"hello": hello, "mongod_version": str(build["version"])}
    known |= _our_version(settings, str(build["version"]))
    if data_dir is not None:
        known["free_bytes"] = shutil.disk_usage(data_dir).free
    client = deployment.connect_to_set(
        request.uri, request_credentials(request), tls=request.tls, timeout_seconds=ANSWER_SECONDS
    )
    try:
        known |= _ask_as_user(client, request)
    except (deployment.DeploymentError, Unreachable) as error:
        known["login_error"] = error.message
    finally:
        client.close()
    return Facts(**known)


def _facts_of_unreachable(request: RegistrationRequest, error: Unreachable) -> Facts:
    """A server that answers alone, but has no primary, is told apart from one that does not answer."""
    try:
        hosts = deployment.hosts_of(request.uri)
    except Unreachable as nowhere:
        return Facts(unreachable=nowhere.message)
    first_host = hosts[0]
    client = deployment.connect_to_member(first_host, None, tls=request.tls, timeout_seconds=ALONE_SECONDS)
    try:
        hello = deployment.run_admin(client, "hello")
    except EbbtideError:
        return Facts(unreachable=error.message, speaks_tls=_ask_speaks_tls(hosts))
    finally:
        client.close()
    if "setName" in hello:
        return Facts(unreachable=f"{first_host} answers, but its set {hello['setName']} has no primary now")
    return Facts(hello=hello)


def _ask_speaks_tls(hosts: Sequence[str]) -> bool | None:
    """Whether the first of the hosts that listens at all speaks TLS."""
    for host_port in hosts:
        host, port = split_host_port(host_port)
        speaks = answers_with_tls(host, port, timeout_seconds=ALONE_SECONDS)
        if speaks is not None:
            return speaks
    return None


def request_credentials(request: RegistrationRequest) -> deployment.Credentials | None:
    if request.username is None or request.password is None:
        return None
    return deployment.Credentials(
        username=request.username, password=request.password, auth_source=request.auth_source
    )


def _our_version(settings: Settings, wanted: str) -> dict[str, Any]:
    """The version that a head of a set of version `wanted` would run."""
    try:
        binary = find_mongod_of(
            (major_version(wanted),),
            own=None,
            binaries=settings.mapping("mongod.binaries"),
            default=settings.text("mongod"),
        )
        return {"our_version": mongod_version(binary)}
    except EbbtideError as error:
        return {"our_version_error": str(error)}


def _ask_as_user(client: Any, request: RegistrationRequest) -> dict[str, Any]:
    """Facts that need a login. The first command fails where the login is wrong; later ones only lack rights."""
    status = deployment.run_admin(client, "connectionStatus", showPrivileges=True)
    has_login = bool(status["authInfo"]["authenticatedUsers"])
    known: dict[str, Any] = {}
    lacks_roles = False
    if has_login:
        known["privileges"] = tuple(status["authInfo"]["authenticatedUserPrivileges"])
        lacks_roles = bool(missing_roles(known["privileges"]))
    errors = []
    for ask in (_ask_configuration, _ask_status, _ask_sizes, _ask_options):
        try:
            known |= ask(client)
        except deployment.DeploymentError as error:
            is_denied = error.code == deployment.UNAUTHORIZED
            if is_denied and not has_login:
                return {"login_error": "the set asks for a login, and none was given"}
            # What the roles do not allow to ask is said by the check of the roles.
            if not (is_denied and lacks_roles):
                errors.append(error.message)
    if request.keyfile is not None:
        uses_keyfile = known.get("uses_keyfile", True)
        known["keyfile_error"] = _try_keyfile(client, request, request.keyfile, uses_keyfile=uses_keyfile)
    if request.tls is not None and known.get("configuration") is not None:
        # A head that was there before may be down, for the very lack of what is in this request.
        others = [m for m in known["configuration"]["members"] if m["host"] != _head_address(request)]
        known["memberships"] = _ask_memberships(request.tls, others, errors)
    return {**known, "errors": tuple(errors)}


def _head_address(request: RegistrationRequest) -> str | None:
    if request.head_host is None or request.head_port is None:
        return None
    return join_host_port(request.head_host, request.head_port)


def _ask_configuration(client: Any) -> dict[str, Any]:
    return {"configuration": deployment.get_configuration(client)}


def _ask_status(client: Any) -> dict[str, Any]:
    status = deployment.run_admin(client, "replSetGetStatus")
    server = deployment.run_admin(client, "serverStatus")
    return {
        "unhealthy": tuple(unhealthy_members(status)),
        "storage_engine": server.get("storageEngine", {}).get("name", "wiredTiger"),
        "fcv": deployment.get_fcv(client),
    }


def _ask_sizes(client: Any) -> dict[str, Any]:
    return {
        "data_bytes": deployment.data_bytes(client),
        "oplog_bytes": deployment.oplog_max_bytes(client),
    }


def _ask_options(client: Any) -> dict[str, Any]:
    options = deployment.run_admin(client, "getCmdLineOpts").get("parsed", {})
    return read_member_options(options)


def read_member_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The facts in a member's own options (`parsed` of getCmdLineOpts). Pure.

    Before 4.2 TLS was SSL in the names of options, and still may be.
    """
    security, net = options.get("security", {}), options.get("net", {})
    tls = net.get("tls") or net.get("ssl") or {}
    mode = ClusterAuthMode(security.get("clusterAuthMode", ClusterAuthMode.KEYFILE))
    return {
        "uses_keyfile": "keyFile" in security and mode is not ClusterAuthMode.X509,
        "tls_mode": TlsMode(str(tls.get("mode", TlsMode.DISABLED)).replace("SSL", "TLS")),
        "cluster_auth_mode": mode,
        "authorization": security.get("authorization") == "enabled",
    }


def _ask_memberships(
    tls: TlsMaterial, members: Sequence[Mapping[str, Any]], errors: list[str]
) -> tuple[tuple[str, SubjectAttributes], ...]:
    """What each member's certificate says of it; a member whose certificate does not hold becomes an error."""
    found = []
    for member in members:
        host, port = split_host_port(member["host"])
        try:
            found.append(
                (member["host"], membership_of(tls, host=host, port=port, timeout_seconds=ALONE_SECONDS))
            )
        except OSError as error:
            errors.append(f"the head could not talk to {member['host']} with TLS: {error}")
    return tuple(found)


def _try_keyfile(client: Any, request: RegistrationRequest, keyfile: str, *, uses_keyfile: bool) -> str:
    """Empty where a member accepts the keyfile, else why not.

    A keyfile is the password of the internal user `__system`, so logging in with it proves it without joining.
    """
    if not uses_keyfile:
        return "the set uses no keyfile, and one was given"
    if client.primary is None:
        return "the set has no primary now that could be asked whether it accepts the keyfile"
    host, port = client.primary
    member = deployment.connect_to_member(
        join_host_port(host, port),
        deployment.keyfile_credentials(keyfile),
        tls=request.tls,
        timeout_seconds=ANSWER_SECONDS,
    )
    try:
        deployment.run_admin(member, "connectionStatus")
    except EbbtideError:
        return "the set does not accept this keyfile"
    finally:
        member.close()
    return ""


def _registered_as(catalog: Catalog, configuration: Mapping[str, Any]) -> str | None:
    """The name of a live cluster that is this set already: its head is a member, or will be."""
    hosts = {member["host"] for member in configuration["members"]}
    for cluster in catalog.clusters.list_live():
        has_head = join_host_port(cluster.head_host, cluster.head_port) in hosts
        # Before its head has joined, the members that its connection string names tell.
        same_name = cluster.replica_set_name == configuration["_id"]
        if has_head or (same_name and hosts & _hosts_named_by(cluster)):
            return cluster.name
    return None


def _hosts_named_by(cluster: Cluster) -> set[str]:
    try:
        return set(deployment.hosts_of(cluster.uri))
    except Unreachable:
        # A name that DNS does not know now says nothing of a set that was reached by another.
        return set()


def _choose_port(head_host: str) -> int:
    """A free port of `head_host`, or of loopback where that is no address of this machine: a check says so."""
    return free_port(head_host) if is_bindable(head_host, 0) else free_port()


def _find_address_problem(catalog: Catalog, head_host: str, head_port: int) -> tuple[str, str] | None:
    """Why a head could not listen at its address on this machine, and what fixes it."""
    for cluster in catalog.clusters.list_live():
        if cluster.head_port == head_port and cluster.head_host == head_host:
            return f"port {head_port} is that of the head of {cluster.name}", "give another --head-port"
    if not is_bindable(head_host, 0):
        return (
            f"{head_host} is no address of this machine, so the head cannot listen there",
            "give --head-host, a name or an address of the machine that Ebbtide runs on",
        )
    if not is_bindable(head_host, head_port):
        return (
            f"port {head_port} of {head_host} is taken",
            "give another --head-port, or none: then a free one is chosen",
        )
    return None


def register_cluster(
    request: RegistrationRequest,
    report: RegistrationReport,
    *,
    catalog: Catalog,
    service_key: ServiceKey,
    clock: Clock,
    group_id: GroupId,
    actor: str,
    parent_id: ClusterId | None = None,
    part: PartAddress | None = None,
) -> Cluster:
    """Record the cluster and its future head; `part` says which part of the sharded cluster `parent_id` it is.

    Raises RegistrationRefused unless every check passed, NameTaken.
    """
    report.raise_unless_ok()
    if report.facts.configuration is None:
        raise RegistrationRefused([("the set's configuration is not known", "")])
    cluster_id = ClusterId(new_id())

    def sealed(secret: str | None) -> Any:
        return None if secret is None else service_key.seal(secret.encode(), record_id=cluster_id)

    cluster = Cluster(
        id=cluster_id,
        group_id=group_id,
        name=request.name,
        replica_set_name=str(report.facts.configuration["_id"]),
        uri=request.uri,
        username=request.username,
        auth_source=request.auth_source,
        password=sealed(request.password),
        keyfile=sealed(request.keyfile),
        mongod_version=report.facts.mongod_version,
        fcv=report.facts.fcv,
        state=ClusterState.ACTIVE,
        created=clock.now(),
        head_host=report.head_host,
        head_port=report.head_port,
        oplog_bytes=report.facts.oplog_bytes,
        tls_mode=report.facts.tls_mode,
        cluster_auth_mode=report.facts.cluster_auth_mode,
        authorization=report.facts.authorization,
        tls_ca=request.tls_ca,
        tls_certificate=sealed(request.tls_certificate),
        tls_expires=None if report.facts.certificate is None else report.facts.certificate.not_after,
        parent_id=parent_id,
        shard_name=None if part is None or part.is_config_server else part.name,
        is_config_server=part is not None and part.is_config_server,
    )
    catalog.clusters.insert(cluster)
    reach("cluster.recorded")
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="cluster.added",
        message=f"{cluster.name} (replica set {cluster.replica_set_name}) was registered",
        group_id=group_id,
        cluster_id=cluster.id,
        actor=actor,
    )
    return cluster


def new_head(cluster: Cluster, *, clock: Clock) -> Head:
    """The record of a head that does not exist yet."""
    now = clock.now()
    return Head(
        id=cluster.id,
        state=HeadState.PROVISIONING,
        state_since=now,
        host=cluster.head_host,
        port=cluster.head_port,
        dbpath=f"heads/{cluster.id}/db",
        updated=now,
    )


def remove_cluster(cluster: Cluster, *, catalog: Catalog, clock: Clock, actor: str) -> Cluster:
    """Ask for the cluster's head to leave its set. Snapshots stay. Harmless where it was asked for before."""
    if cluster.state is ClusterState.ACTIVE:
        catalog.clusters.set_state(cluster.id, ClusterState.REMOVING)
        record_event(
            catalog,
            clock,
            level=EventLevel.INFO,
            kind="cluster.removing",
            message=f"{cluster.name} is being removed: its head leaves the set, its last snapshot stays",
            group_id=cluster.group_id,
            cluster_id=cluster.id,
            actor=actor,
        )
    return catalog.clusters.find(cluster.id) or cluster
