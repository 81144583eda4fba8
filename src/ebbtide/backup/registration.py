"""Registering a replica set: look first, report every problem together, change nothing until all is well.

`check_registration` gathers facts (read-only commands) and judges them with `judge`, a pure function.
`register_cluster` writes the cluster to the catalog and nothing else: a worker gives it a head.
Crash: a cluster without a head record gets one at the worker's next look.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.crash_points import reach
from ebbtide.domain.cluster import (
    CLUSTER_NAME,
    CLUSTER_NAME_LENGTH_MAX,
    Cluster,
    ClusterState,
    Head,
    HeadState,
)
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import ClusterId, GroupId, new_id
from ebbtide.domain.replica_set import (
    MEMBERS_MAX,
    ROLES_NEEDED,
    join_host_port,
    major_version,
    missing_roles,
    mixes_localhost,
    unhealthy_members,
)
from ebbtide.errors import EbbtideError, InvalidInput, RegistrationRefused, Unreachable
from ebbtide.events import record_event
from ebbtide.mongod import deployment
from ebbtide.mongod.binary import find_mongod, mongod_version
from ebbtide.mongod.ports import free_port
from ebbtide.sealing import ServiceKey
from ebbtide.settings import Settings

_KEYFILE = re.compile(r"[A-Za-z0-9+/=]{6,1024}")

# The files of a head beside its data: WiredTiger's preallocated journal, and room to breathe.
HEAD_EXTRA_BYTES = 512 * 1024 * 1024
# What a mongod takes besides its cache, as seen on heads that follow a set.
HEAD_EXTRA_MEMORY_BYTES = 250 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class RegistrationRequest:
    """What a user asks for. `keyfile` is the file's contents. Secrets are kept out of `repr`."""

    name: str
    uri: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    auth_source: str = "admin"
    keyfile: str | None = field(default=None, repr=False)
    head_host: str | None = None
    head_port: int | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must hold: `what` was found, and, unless `ok`, what fixes it."""

    name: str
    ok: bool
    what: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the deployment and this machine answered. None: it could not be asked."""

    hello: Mapping[str, Any] | None = None
    unreachable: str = ""
    login_error: str = ""
    mongod_version: str = ""
    fcv: str = ""
    our_version: str = ""
    our_version_error: str = ""
    privileges: tuple[Mapping[str, Any], ...] | None = None
    configuration: Mapping[str, Any] | None = None
    unhealthy: tuple[str, ...] = ()
    uses_keyfile: bool = False
    uses_tls: bool = False
    keyfile_error: str | None = None
    data_bytes: int = 0
    oplog_bytes: int = 0
    free_bytes: int | None = None
    storage_engine: str = "wiredTiger"
    errors: tuple[str, ...] = ()


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
    facts = gather_facts(request, settings=settings, data_dir=data_dir)
    head_host = request.head_host or str(settings["head.host"])
    head_port = request.head_port or free_port()
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
    )
    return RegistrationReport(
        checks=checks,
        facts=facts,
        head_host=head_host,
        head_port=head_port,
        disk_bytes=head_disk_bytes(facts),
        memory_bytes=int(settings.number("head.cache_gb") * 1024**3) + HEAD_EXTRA_MEMORY_BYTES,
    )


def check_request(request: RegistrationRequest) -> None:
    """Raise InvalidInput for what can be judged without asking anybody."""
    if not CLUSTER_NAME.fullmatch(request.name) or len(request.name) > CLUSTER_NAME_LENGTH_MAX:
        raise InvalidInput(
            "name",
            expected=f"1 to {CLUSTER_NAME_LENGTH_MAX} letters, digits and dashes, a letter or digit first",
            got=request.name,
        )
    deployment.check_uri(request.uri)
    if (request.username is None) != (request.password is None):
        lacking = "password" if request.password is None else "username"
        raise InvalidInput(lacking, expected="a user name and a password together, or neither")
    if request.head_port is not None and not 1 <= request.head_port <= 65535:
        raise InvalidInput("headPort", expected="a port, 1 to 65535", got=request.head_port)
    # Before it reaches a mongod, which quotes the text of a bad keyfile in its log.
    if request.keyfile is not None and not _KEYFILE.fullmatch("".join(request.keyfile.split())):
        raise InvalidInput("keyfile", expected="the contents of a keyfile: 6 to 1024 base64 characters")


def head_disk_bytes(facts: Facts) -> int:
    """Disk that the head will take: a full copy, the oplog at its largest, and its journal."""
    return facts.data_bytes + facts.oplog_bytes + HEAD_EXTRA_BYTES


def judge(
    facts: Facts,
    *,
    request: RegistrationRequest,
    head_host: str,
    head_port: int,
    name_taken: bool,
    registered_as: str | None,
) -> tuple[Check, ...]:
    """Every check whose facts are known, in the order in which a person would fix them. Pure."""
    checks = [
        Check(
            name="name",
            ok=not name_taken,
            what=f"the name {request.name} is free"
            if not name_taken
            else f"a cluster is named {request.name} already",
            fix="choose another name, or remove that cluster first",
        )
    ]
    if facts.hello is None:
        fix = "is mongod running there, and may this machine reach it?"
        checks.append(Check(name="reachable", ok=False, what=facts.unreachable, fix=fix))
        return tuple(checks)
    checks.append(Check(name="reachable", ok=True, what="the deployment answers"))
    checks.append(_judge_topology(facts.hello))
    if facts.login_error:
        fix = (
            "give the right --username and --password-file (and authSource), or create the user:\n"
            + _create_user(request.username or "ebbtide")
        )
        checks.append(Check(name="login", ok=False, what=facts.login_error, fix=fix))
        return tuple(checks)
    checks += [_judge_version(facts), _judge_roles(facts, request), _judge_engine(facts)]
    if facts.configuration is not None:
        checks += _judge_members(facts, facts.configuration, head_host=head_host, head_port=head_port)
    checks += [*_judge_authentication(facts, request), _judge_disk(facts)]
    if registered_as is not None:
        fix = "one head per set is enough: use that cluster"
        checks.append(
            Check(name="registered", ok=False, what=f"this set is registered as {registered_as}", fix=fix)
        )
    checks += [Check(name="asked", ok=False, what=error) for error in facts.errors]
    return tuple(checks)


def _judge_topology(hello: Mapping[str, Any]) -> Check:
    if hello.get("msg") == "isdbgrid":
        return Check(
            name="replica set",
            ok=False,
            what="this is a router of a sharded cluster",
            fix="only replica sets can be registered; a shard can be registered on its own",
        )
    if "setName" not in hello:
        fix = (
            "a lone server has no oplog to follow. Make it a replica set of one, which applications notice only as a restart:\n"
            "  1. stop mongod, and start it again with --replSet rs0 (replication.replSetName: rs0 in its configuration)\n"
            "  2. in mongosh: rs.initiate()"
        )
        return Check(
            name="replica set", ok=False, what="this server is not a member of a replica set", fix=fix
        )
    return Check(name="replica set", ok=True, what=f"replica set {hello['setName']}")


def _judge_version(facts: Facts) -> Check:
    if facts.our_version_error:
        return Check(name="version", ok=False, what=facts.our_version_error)
    wanted, ours = major_version(facts.mongod_version), major_version(facts.our_version)
    if wanted != ours:
        return Check(
            name="version",
            ok=False,
            what=f"the set runs {facts.mongod_version}, and Ebbtide's mongod is {facts.our_version}",
            fix=f"set EBBTIDE_MONGOD to the path of a mongod {wanted} on Ebbtide's machine",
        )
    return Check(
        name="version",
        ok=True,
        what=f"the set runs {facts.mongod_version} (FCV {facts.fcv}); the head will run {facts.our_version}",
    )


def _create_user(name: str) -> str:
    listed = ", ".join(f'"{role}"' for role in ROLES_NEEDED)
    return (
        f'  db.getSiblingDB("admin").createUser({{user: "{name}", pwd: passwordPrompt(), roles: [{listed}]}})'
    )


def _judge_roles(facts: Facts, request: RegistrationRequest) -> Check:
    if facts.privileges is None:
        return Check(name="roles", ok=True, what="the set asks for no login")
    missing = missing_roles(facts.privileges)
    if not missing:
        return Check(name="roles", ok=True, what=f"{request.username} may do what a backup needs")
    grants = ", ".join(f'{{role: "{role}", db: "admin"}}' for role in missing)
    return Check(
        name="roles",
        ok=False,
        what=f"{request.username} lacks the roles {', '.join(missing)}",
        fix=(
            f'  db.getSiblingDB("{request.auth_source}").grantRolesToUser("{request.username}", [{grants}])\n'
            "or make a user for Ebbtide:\n" + _create_user("ebbtide")
        ),
    )


def _judge_engine(facts: Facts) -> Check:
    ok = facts.storage_engine == "wiredTiger"
    return Check(
        name="storage engine",
        ok=ok,
        what=f"storage engine {facts.storage_engine}",
        fix="" if ok else "only WiredTiger's files can be taken",
    )


def _judge_members(
    facts: Facts, configuration: Mapping[str, Any], *, head_host: str, head_port: int
) -> list[Check]:
    count = len(configuration["members"])
    checks = [
        Check(
            name="members",
            ok=count < MEMBERS_MAX,
            what=f"the set has {count} members",
            fix="" if count < MEMBERS_MAX else f"a set has at most {MEMBERS_MAX}: remove one first",
        )
    ]
    unhealthy = ", ".join(facts.unhealthy)
    checks.append(
        Check(
            name="members up",
            ok=not facts.unhealthy,
            what=f"not reachable from the primary: {unhealthy}" if unhealthy else "every member is up",
            fix="bring them back first: each voting member must be able to reach the head"
            if unhealthy
            else "",
        )
    )
    mixed = mixes_localhost(configuration, head_host)
    checks.append(
        Check(
            name="head's address",
            ok=not mixed,
            what=f"the head will be {join_host_port(head_host, head_port)}",
            fix=(
                "a set names either all its members by localhost or none: give --head-host, a name of this machine "
                "that every member can resolve and reach"
                if mixed
                else ""
            ),
        )
    )
    return checks


def _judge_authentication(facts: Facts, request: RegistrationRequest) -> list[Check]:
    checks = []
    if facts.uses_tls:
        fix = "this version of Ebbtide runs heads without TLS only"
        checks.append(Check(name="TLS", ok=False, what="the set requires TLS between its members", fix=fix))
    if facts.uses_keyfile and request.keyfile is None:
        fix = "give the set's keyfile (--keyfile FILE): without it the head may not join"
        checks.append(
            Check(name="keyfile", ok=False, what="the set's members authenticate with a keyfile", fix=fix)
        )
    elif facts.keyfile_error is not None:
        fix = "" if not facts.keyfile_error else "give the very file that the members use"
        what = facts.keyfile_error or "the set accepts the keyfile"
        checks.append(Check(name="keyfile", ok=not facts.keyfile_error, what=what, fix=fix))
    return checks


def _judge_disk(facts: Facts) -> Check:
    needed = head_disk_bytes(facts)
    if facts.free_bytes is None:
        return Check(name="disk", ok=True, what=f"the head needs {_gib(needed)} of disk")
    ok = facts.free_bytes >= needed
    return Check(
        name="disk",
        ok=ok,
        what=f"the head needs {_gib(needed)} of disk, and {_gib(facts.free_bytes)} are free",
        fix="" if ok else "free space, or start Ebbtide with --data on a larger disk",
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 1024**3:.1f} GiB"


def gather_facts(request: RegistrationRequest, *, settings: Settings, data_dir: Path | None) -> Facts:
    """Ask the deployment and this machine. Read-only; never raises for what the deployment answers."""
    credentials = request_credentials(request)
    anonymous = deployment.connect_to_set(request.uri, None, timeout_seconds=8)
    try:
        hello = deployment.run_admin(anonymous, "hello")
        if "setName" not in hello:
            return Facts(hello=hello)
        build = deployment.run_admin(anonymous, "buildInfo")
    except Unreachable as error:
        return _facts_of_unreachable(request, error)
    finally:
        anonymous.close()
    known: dict[str, Any] = {"hello": hello, "mongod_version": str(build["version"])}
    known |= _our_version(settings)
    if data_dir is not None:
        known["free_bytes"] = shutil.disk_usage(data_dir).free
    client = deployment.connect_to_set(request.uri, credentials, timeout_seconds=8)
    try:
        known |= _ask_as_user(client, request)
    except (deployment.DeploymentError, Unreachable) as error:
        known["login_error"] = error.message
    finally:
        client.close()
    return Facts(**known)


def _facts_of_unreachable(request: RegistrationRequest, error: Unreachable) -> Facts:
    """A server that answers alone, but has no primary, is told apart from one that does not answer."""
    first_host = deployment.first_host(request.uri)
    client = deployment.connect_to_member(first_host, None, timeout_seconds=3)
    try:
        hello = deployment.run_admin(client, "hello")
    except EbbtideError:
        return Facts(unreachable=error.message)
    finally:
        client.close()
    if "setName" in hello:
        return Facts(unreachable=f"{first_host} answers, but its set {hello['setName']} has no primary now")
    return Facts(hello=hello)


def request_credentials(request: RegistrationRequest) -> deployment.Credentials | None:
    if request.username is None or request.password is None:
        return None
    return deployment.Credentials(
        username=request.username, password=request.password, auth_source=request.auth_source
    )


def _our_version(settings: Settings) -> dict[str, Any]:
    try:
        return {"our_version": mongod_version(find_mongod(settings.text("mongod")))}
    except EbbtideError as error:
        return {"our_version_error": str(error)}


def _ask_as_user(client: Any, request: RegistrationRequest) -> dict[str, Any]:
    """Facts that need a login. The first command fails where the login is wrong; later ones only lack rights."""
    status = deployment.run_admin(client, "connectionStatus", showPrivileges=True)
    users = status["authInfo"]["authenticatedUsers"]
    known: dict[str, Any] = {}
    if users:
        known["privileges"] = tuple(status["authInfo"]["authenticatedUserPrivileges"])
        if missing_roles(known["privileges"]):
            return known
    try:
        known["configuration"] = deployment.get_configuration(client)
        known["unhealthy"] = tuple(unhealthy_members(deployment.run_admin(client, "replSetGetStatus")))
        known["fcv"] = deployment.get_fcv(client)
        known["data_bytes"] = deployment.data_bytes(client)
        known["oplog_bytes"] = deployment.oplog_max_bytes(client)
        server = deployment.run_admin(client, "serverStatus")
        known["storage_engine"] = server.get("storageEngine", {}).get("name", "wiredTiger")
        options = deployment.run_admin(client, "getCmdLineOpts").get("parsed", {})
    except deployment.DeploymentError as error:
        if error.code == deployment.UNAUTHORIZED and not users:
            return {"login_error": "the set asks for a login, and none was given"}
        return {**known, "errors": (error.message,)}
    security, net = options.get("security", {}), options.get("net", {})
    known["uses_keyfile"] = "keyFile" in security
    known["uses_tls"] = (
        net.get("tls", {}).get("mode") == "requireTLS" or security.get("clusterAuthMode") == "x509"
    )
    if request.keyfile is not None:
        known["keyfile_error"] = _try_keyfile(client, request.keyfile, uses_keyfile=known["uses_keyfile"])
    return known


def _try_keyfile(client: Any, keyfile: str, *, uses_keyfile: bool) -> str:
    """Empty where a member accepts the keyfile, else why not.

    A keyfile is the password of the internal user `__system`, so logging in with it proves it without joining.
    """
    if not uses_keyfile:
        return "the set uses no keyfile, and one was given"
    host, port = client.primary
    member = deployment.connect_to_member(
        join_host_port(host, port), deployment.keyfile_credentials(keyfile), timeout_seconds=8
    )
    try:
        deployment.run_admin(member, "connectionStatus")
    except EbbtideError:
        return "the set does not accept this keyfile"
    finally:
        member.close()
    return ""


def _registered_as(catalog: Catalog, configuration: Mapping[str, Any]) -> str | None:
    """The name of a live cluster whose head is a member of this set already."""
    hosts = {member["host"] for member in configuration["members"]}
    for cluster in catalog.clusters.list_live():
        head = catalog.heads.find(cluster.id)
        if head is not None and join_host_port(head.host, head.port) in hosts:
            return cluster.name
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
) -> Cluster:
    """Record the cluster and its future head. Raises RegistrationRefused unless every check passed, NameTaken."""
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
            message=f"{cluster.name} is being removed: its head leaves the set, its snapshots stay",
            group_id=cluster.group_id,
            cluster_id=cluster.id,
            actor=actor,
        )
    return catalog.clusters.find(cluster.id) or cluster
