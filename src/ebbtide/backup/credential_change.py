"""Giving a registered cluster its credentials again: after they changed, or after the service key was lost.

What is not given stays as it is; all of it together is then tried on the set, and replaced only if every check of
credentials that registration makes holds. The worker that keeps the head goes over to it at its next look.

What a sharded cluster is given goes to each of its parts, once all of their sets accept it.

Crash: the record has either the old credentials or the new ones, all of them; some parts of a sharded cluster may have the
new ones and others the old. Giving them again ends that.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.backup.registration import gather_facts, with_certificate
from ebbtide.backup.registration_checks import Check, Facts, RegistrationRequest, check_request, judge
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.sealed import Sealed
from ebbtide.errors import InvalidInput, Refused, RegistrationRefused
from ebbtide.events import record_event
from ebbtide.sealing import SealBroken, ServiceKey
from ebbtide.settings import Settings

_ABOUT_CREDENTIALS = frozenset(
    (
        "reachable",
        "replica set",
        "login",
        "roles",
        "keyfile",
        "TLS",
        "head's certificate",
        "head's membership",
        "asked",
    )
)
"""The checks of a registration that say something of credentials; the others are about a head that is there by now."""


@dataclass(frozen=True, kw_only=True)
class GivenCredentials:
    """What somebody gave; None: keep what there is. Secrets are kept out of `repr`."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    auth_source: str | None = None
    keyfile: str | None = field(default=None, repr=False)
    tls_ca: str | None = field(default=None, repr=False)
    tls_certificate: str | None = field(default=None, repr=False)


class CredentialsRefused(RegistrationRefused):
    """The set does not accept them. `checks` has all that were made; nothing was changed."""

    def __init__(self, name: str, checks: tuple[Check, ...]) -> None:
        super().__init__([(check.what, check.fix) for check in checks if not check.ok])
        self.message = f"the credentials of {name} were not replaced"
        self.checks = checks


def replace_credentials(
    cluster: Cluster,
    given: GivenCredentials,
    *,
    catalog: Catalog,
    service_key: ServiceKey,
    settings: Settings,
    clock: Clock,
    actor: str,
) -> Cluster:
    """Try the credentials on the cluster's set, or on those of all parts, then replace the stored ones. Takes seconds.

    Raises InvalidInput for what cannot be credentials, Refused for a cluster that has none any more or whose other
    secrets cannot be read, CredentialsRefused where the set does not accept them.
    """
    if cluster.state is ClusterState.REMOVED or cluster.is_detached:
        raise Refused(
            f"{cluster.name} is not backed up (any more)", hint="ebbtide clusters add registers it again"
        )
    is_sharded = cluster.kind is ClusterKind.SHARDED
    sets = catalog.clusters.list_parts(cluster.id) if is_sharded else [cluster]
    tried = [_try(one, given, service_key=service_key, settings=settings) for one in sets]
    if not all(check.ok for one in tried for check in one.checks):
        raise CredentialsRefused(
            cluster.name, tuple(chain.from_iterable(_named(one, tried) for one in tried))
        )
    for one in tried:
        _replace(one.cluster, one, catalog=catalog, service_key=service_key)
        parent_id = one.cluster.parent_id
        whole = None if parent_id is None else catalog.clusters.find(parent_id)
        if one.cluster.is_config_server and whole is not None:
            # What the cluster as a whole is asked with is what opens its config server.
            _replace(whole, one, catalog=catalog, service_key=service_key)
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="cluster.credentials",
        message=f"{cluster.name} was given its credentials again; its set accepts them",
        group_id=cluster.group_id,
        cluster_id=cluster.id,
        actor=actor,
    )
    return catalog.clusters.find(cluster.id) or cluster


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """Credentials as they would be, and what a set made of them."""

    cluster: Cluster
    request: RegistrationRequest
    facts: Facts
    checks: tuple[Check, ...]


def _try(cluster: Cluster, given: GivenCredentials, *, service_key: ServiceKey, settings: Settings) -> _Tried:
    request = _complete(cluster, given, service_key)
    check_request(request)
    facts = with_certificate(
        gather_facts(request, settings=settings, data_dir=None), request, cluster.head_host
    )
    checks = judge_credentials(facts, request=request, cluster=cluster)
    return _Tried(cluster=cluster, request=request, facts=facts, checks=checks)


def _named(one: _Tried, tried: list[_Tried]) -> tuple[Check, ...]:
    """Its checks, under its name where there are others."""
    if len(tried) == 1:
        return one.checks
    return tuple(replace(check, name=f"{one.cluster.name}: {check.name}") for check in one.checks)


def _replace(cluster: Cluster, tried: _Tried, *, catalog: Catalog, service_key: ServiceKey) -> None:
    request, certificate = tried.request, tried.facts.certificate

    def sealed(secret: str | None) -> Sealed | None:
        return None if secret is None else service_key.seal(secret.encode(), record_id=cluster.id)

    catalog.clusters.set_credentials(
        cluster.id,
        username=request.username,
        auth_source=request.auth_source,
        password=sealed(request.password),
        keyfile=sealed(request.keyfile),
        tls_ca=request.tls_ca,
        tls_certificate=sealed(request.tls_certificate),
        tls_expires=None if certificate is None else certificate.not_after,
    )


def judge_credentials(facts: Facts, *, request: RegistrationRequest, cluster: Cluster) -> tuple[Check, ...]:
    """Whether a set accepts these credentials, and is the one that the cluster was registered as. Pure."""
    checks = judge(
        facts,
        request=request,
        head_host=cluster.head_host,
        head_port=cluster.head_port,
        name_taken=False,
        registered_as=None,
    )
    kept = [check for check in checks if check.name in _ABOUT_CREDENTIALS]
    found = str((facts.hello or {}).get("setName", ""))
    if found and found != cluster.replica_set_name:
        what = f"who answers is replica set {found}, and not {cluster.replica_set_name}"
        kept.append(Check(name="same set", ok=False, what=what, fix="register that set by itself"))
    return tuple(kept)


def _complete(cluster: Cluster, given: GivenCredentials, service_key: ServiceKey) -> RegistrationRequest:
    """All credentials as they would be then."""
    stored = ClusterAccess(cluster=cluster, service_key=service_key)
    if given == GivenCredentials():
        raise InvalidInput("credentials", expected="a password, a keyfile or a certificate")
    if (given.tls_ca or given.tls_certificate) and cluster.tls_certificate is None:
        raise Refused(
            f"{cluster.name} was registered without TLS",
            hint="remove it and add it again with --tls-ca and --tls-certificate; its snapshots stay",
        )
    if given.username is not None and given.password is None:
        raise InvalidInput("password", expected="it with a user name")
    return RegistrationRequest(
        name=cluster.name,
        uri=cluster.uri,
        username=given.username or cluster.username,
        password=given.password or _kept(cluster, "password", lambda: _stored_password(stored)),
        auth_source=given.auth_source or cluster.auth_source,
        keyfile=given.keyfile or _kept(cluster, "keyfile", stored.keyfile),
        tls_ca=given.tls_ca or cluster.tls_ca,
        tls_certificate=given.tls_certificate
        or _kept(cluster, "certificate", lambda: _stored_certificate(stored)),
        head_host=cluster.head_host,
        head_port=cluster.head_port,
    )


def _kept(cluster: Cluster, what: str, read: Callable[[], str | None]) -> str | None:
    """A secret that was not given. Raises Refused where only another service key can read it."""
    try:
        return read()
    except SealBroken as error:
        raise Refused(
            f"the stored {what} of {cluster.name} cannot be read, so it must be given too ({error.message})"
        ) from error


def _stored_password(stored: ClusterAccess) -> str | None:
    credentials = stored.credentials()
    return None if credentials is None else credentials.password


def _stored_certificate(stored: ClusterAccess) -> str | None:
    material = stored.tls()
    return None if material is None else material.certificate
