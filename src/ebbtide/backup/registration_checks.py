"""Judging a registration: what was asked for, what was found, and what that means. Pure.

`judge` turns a request and `Facts` into a list of checks, each with the exact fix: commands that can be pasted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ebbtide.domain.cluster import CLUSTER_NAME, CLUSTER_NAME_LENGTH_MAX
from ebbtide.domain.head import CERTIFICATE_WARN
from ebbtide.domain.replica_set import (
    MEMBERS_MAX,
    ROLES_NEEDED,
    ClusterAuthMode,
    TlsMode,
    join_host_port,
    major_version,
    missing_roles,
    mixes_localhost,
)
from ebbtide.domain.server_version import Support, support_of, supported_versions
from ebbtide.errors import InvalidInput
from ebbtide.mongod import deployment
from ebbtide.mongod.tls import (
    CertificateFacts,
    SubjectAttributes,
    TlsMaterial,
    read_material,
    show_membership,
)

_KEYFILE = re.compile(r"[A-Za-z0-9+/=]{6,1024}")

# The files of a head beside its data: WiredTiger's preallocated journal, and room to breathe.
HEAD_EXTRA_BYTES = 512 * 1024 * 1024
# What a mongod takes besides its cache, as seen on heads that follow a set.
HEAD_EXTRA_MEMORY_BYTES = 250 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class RegistrationRequest:
    """What a user asks for. `keyfile` is the file's contents, `tls_*` are PEM texts, the certificate with its key.

    Secrets are kept out of `repr`.
    """

    name: str
    uri: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    auth_source: str = "admin"
    keyfile: str | None = field(default=None, repr=False)
    tls_ca: str | None = field(default=None, repr=False)
    tls_certificate: str | None = field(default=None, repr=False)
    head_host: str | None = None
    head_port: int | None = None

    @property
    def tls(self) -> TlsMaterial | None:
        if self.tls_ca is None or self.tls_certificate is None:
            return None
        return TlsMaterial(ca=self.tls_ca, certificate=self.tls_certificate)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must hold: `what` was found, and, unless `ok`, what fixes it."""

    name: str
    ok: bool
    what: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the deployment and this machine answered. None: it could not be asked.

    `speaks_tls` is asked where nothing else was answered. `certificate` is what was given for the head,
    `certificate_trouble` why OpenSSL would not have it, `memberships` what members' certificates say of them.
    """

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
    tls_mode: TlsMode = TlsMode.DISABLED
    cluster_auth_mode: ClusterAuthMode = ClusterAuthMode.KEYFILE
    authorization: bool = False
    speaks_tls: bool | None = None
    certificate: CertificateFacts | None = None
    certificate_trouble: str = ""
    memberships: tuple[tuple[str, SubjectAttributes], ...] = ()
    asked: datetime = field(default_factory=lambda: datetime.now(UTC))
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
    if (request.tls_ca is None) != (request.tls_certificate is None):
        lacking = "tlsCertificate" if request.tls_certificate is None else "tlsCa"
        raise InvalidInput(
            lacking,
            expected="an authority and the head's certificate together, or neither (--tls-ca FILE --tls-certificate FILE)",
        )
    if request.tls is not None:
        read_material(ca=request.tls.ca, certificate=request.tls.certificate)


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
        checks.append(_judge_silence(facts, request, head_host))
        if facts.certificate is not None:
            # A server that does not like what it is shown hangs up without a word.
            certificate = _judge_certificate(facts, facts.certificate, head_host)
            checks += [] if certificate.ok else [certificate]
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
    checks += _judge_tls(facts, request, head_host)
    checks += [*_judge_keyfile(facts, request), _judge_disk(facts)]
    if registered_as is not None:
        fix = "one head per set is enough: use that cluster"
        checks.append(
            Check(name="registered", ok=False, what=f"this set is registered as {registered_as}", fix=fix)
        )
    checks += [Check(name="asked", ok=False, what=error) for error in facts.errors]
    return tuple(checks)


def _judge_silence(facts: Facts, request: RegistrationRequest, head_host: str) -> Check:
    """Nobody answered: because of TLS, or because nobody is there."""
    if request.tls is None and facts.speaks_tls:
        what = "the deployment answers with TLS only, and no certificate was given"
        return Check(name="TLS", ok=False, what=what, fix=_certificate_needed(facts, head_host))
    if request.tls is not None and facts.speaks_tls is False:
        what = "the deployment does not use TLS, and a certificate was given"
        return Check(name="TLS", ok=False, what=what, fix="leave out --tls-ca and --tls-certificate")
    if "CERTIFICATE_VERIFY_FAILED" in facts.unreachable:
        fix = (
            "--tls-ca must have the authority that signed the members' certificates, and these must name the hosts "
            "by which the connection string and the set's configuration call them"
        )
        return Check(name="TLS", ok=False, what=facts.unreachable, fix=fix)
    fix = "is mongod running there, and may this machine reach it?"
    return Check(name="reachable", ok=False, what=facts.unreachable, fix=fix)


def _judge_topology(hello: Mapping[str, Any]) -> Check:
    if hello.get("msg") == "isdbgrid":
        return Check(
            name="replica set",
            ok=False,
            what="this is a router of a sharded cluster",
            fix="name the cluster's config server; the whole cluster is registered then",
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


def _certificate_needed(facts: Facts, head_host: str) -> str:
    subject = ""
    if facts.cluster_auth_mode.uses_certificates:
        subject = ", whose subject has the members' O, OU and DC"
    return (
        "give --tls-ca FILE, the authority that signed the members' certificates, and --tls-certificate FILE, a "
        f"certificate for the head with its private key (PEM) that names {head_host} in its subjectAltName and is for "
        f"servers and for clients{subject}"
    )


def _judge_tls(facts: Facts, request: RegistrationRequest, head_host: str) -> list[Check]:
    is_needed = facts.tls_mode.is_used_between_members or facts.cluster_auth_mode.uses_certificates
    if facts.certificate is None or request.tls is None:
        if not is_needed:
            return []
        what = f"the set's members use TLS among each other ({facts.tls_mode.value})"
        return [Check(name="TLS", ok=False, what=what, fix=_certificate_needed(facts, head_host))]
    checks = [_judge_certificate(facts, facts.certificate, head_host)]
    if facts.cluster_auth_mode.uses_certificates:
        checks.append(_judge_membership(facts, facts.certificate))
    return checks


def _judge_certificate(facts: Facts, certificate: CertificateFacts, head_host: str) -> Check:
    """The first thing that is wrong with the head's certificate."""
    ends = f"{certificate.not_after:%Y-%m-%d}"
    names = ", ".join(certificate.names) or "nothing"
    wrong: list[tuple[bool, str, str]] = [
        (
            not certificate.covers(head_host),
            f"the head's certificate names {names}, and not {head_host}, where members look for the head",
            f"have one issued with {head_host} in its subjectAltName, or give a --head-host that it names",
        ),
        (
            certificate.not_after <= facts.asked,
            f"the head's certificate ended at {ends}",
            "have a new one issued",
        ),
        (
            not certificate.for_both_sides,
            "the head's certificate is not for servers and clients both, and a member is either",
            "have one issued whose extendedKeyUsage has serverAuth and clientAuth, or that has none",
        ),
        (
            bool(facts.certificate_trouble),
            f"the head's certificate does not stand the test: {facts.certificate_trouble}",
            "it must be signed by an authority in --tls-ca; certificates in between belong after it into its file",
        ),
    ]
    for is_wrong, what, fix in wrong:
        if is_wrong:
            return Check(name="head's certificate", ok=False, what=what, fix=fix)
    soon = ", which is soon" if certificate.not_after - facts.asked < CERTIFICATE_WARN else ""
    what = f"the head's certificate names {head_host} and is good until {ends}{soon}"
    return Check(name="head's certificate", ok=True, what=what)


def _judge_membership(facts: Facts, certificate: CertificateFacts) -> Check:
    """Members that know each other by certificates compare O, OU and DC: all of them, and there must be some."""
    name, own = "head's membership", certificate.membership
    others = [(host, found) for host, found in facts.memberships if found != own]
    if own and not others:
        return Check(name=name, ok=True, what=f"members are {show_membership(own)}, and so is the head")
    host, wanted = others[0] if others else ("the set", own)
    return Check(
        name=name,
        ok=False,
        what=f"{host} is {show_membership(wanted)}, and the head's certificate says {show_membership(own)}",
        fix="have one issued whose subject has the very O, OU and DC of the members' certificates",
    )


def _judge_keyfile(facts: Facts, request: RegistrationRequest) -> list[Check]:
    checks = []
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
