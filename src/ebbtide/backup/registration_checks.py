"""Judging a registration: what was asked for, what was found, and what that means. Pure.

`judge` turns a request and `Facts` into a list of checks, each with the exact fix: commands that can be pasted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ebbtide.domain.cluster import CLUSTER_NAME, CLUSTER_NAME_LENGTH_MAX
from ebbtide.domain.replica_set import (
    MEMBERS_MAX,
    ROLES_NEEDED,
    join_host_port,
    major_version,
    missing_roles,
    mixes_localhost,
)
from ebbtide.domain.server_version import Support, support_of, supported_versions
from ebbtide.errors import InvalidInput
from ebbtide.mongod import deployment

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
    address_problem: tuple[str, str] | None = None,
) -> tuple[Check, ...]:
    """Every check whose facts are known, in the order in which a person would fix them. Pure.

    `address_problem`: why the head cannot listen at its address, and what fixes that.
    """
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
    if not checks[-1].ok:
        return tuple(checks)
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
    if address_problem is not None:
        what, fix = address_problem
        checks.append(Check(name="head's port", ok=False, what=what, fix=fix))
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
    support = support_of(facts.mongod_version)
    if support is Support.REFUSED:
        return Check(
            name="version",
            ok=False,
            what=f"the set runs {facts.mongod_version}, which Ebbtide does not back up",
            fix=f"it backs up {supported_versions()}",
        )
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
    untried = "" if support is Support.TESTED else f"; nobody has tried Ebbtide with {wanted} yet"
    return Check(
        name="version",
        ok=True,
        what=(
            f"the set runs {facts.mongod_version} (FCV {facts.fcv}); "
            f"the head will run {facts.our_version}{untried}"
        ),
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
