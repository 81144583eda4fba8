"""What a person may ask of a cluster's head: come back, be let go, take no snapshots, show another certificate, run
another mongod.

Each writes a wish to the catalog, and the worker that keeps the head acts on it; asking twice is harmless. What is asked
of a sharded cluster is asked of each of its parts; what would tear a part from its cluster is refused.
Crash: a wish that is recorded is fulfilled by whichever worker keeps the head next.
"""

from pathlib import Path

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.replica_set import join_host_port
from ebbtide.errors import InvalidInput, NotFound, Refused
from ebbtide.events import record_event
from ebbtide.mongod.tls import (
    CertificateFacts,
    find_trouble_among_themselves,
    read_certificate,
    read_material,
    show_membership,
)
from ebbtide.sealing import ServiceKey


def rejoin(cluster: Cluster, *, catalog: Catalog, clock: Clock, actor: str) -> Cluster:
    """Have a head put back that somebody took out of its set. Raises Refused where it is in its set, or leaving it."""
    if cluster.kind is ClusterKind.SHARDED:
        raise Refused(
            f"{cluster.name} is a sharded cluster, and its parts have the heads",
            hint=f"ebbtide clusters show {cluster.name} names the part; ebbtide clusters rejoin PART",
        )
    head = catalog.heads.find(cluster.id)
    if cluster.state is not ClusterState.ACTIVE or head is None:
        raise Refused(
            f"{cluster.name} is not backed up (any more)", hint="ebbtide clusters add registers it again"
        )
    if head.state is not HeadState.REMOVED:
        raise Refused(
            f"the head of {cluster.name} is {head.state.value}: only one that somebody took out can be put back",
            hint=f"ebbtide clusters show {cluster.name}",
        )
    catalog.heads.want_rejoin(cluster.id)
    _record(catalog, clock, cluster, actor, "cluster.rejoin", f"the head of {cluster.name} was asked back")
    return cluster


def detach(cluster: Cluster, *, catalog: Catalog, clock: Clock, actor: str) -> Cluster:
    """Remove a cluster without its set: for one whose set, or whose head's machine, is lost. Its last snapshot stays.

    The set goes on listing the head, until somebody runs `removal_line` on its primary.
    """
    require_whole(cluster, catalog, "detach")
    if cluster.state is ClusterState.REMOVED or cluster.is_detached:
        return cluster
    for part in catalog.clusters.list_parts(cluster.id):
        _detach_one(part, catalog=catalog, clock=clock, actor=actor)
    if cluster.kind is ClusterKind.SHARDED:
        catalog.clusters.detach(cluster.id)
        # No head of its own has to be ended first.
        catalog.clusters.set_state(cluster.id, ClusterState.REMOVED)
        return catalog.clusters.find(cluster.id) or cluster
    return _detach_one(cluster, catalog=catalog, clock=clock, actor=actor)


def _detach_one(cluster: Cluster, *, catalog: Catalog, clock: Clock, actor: str) -> Cluster:
    catalog.clusters.detach(cluster.id)
    record_event(
        catalog,
        clock,
        level=EventLevel.WARNING,
        kind="cluster.detached",
        message=f"{cluster.name} is let go without its set being asked; on its primary: {removal_line(cluster)}",
        group_id=cluster.group_id,
        cluster_id=cluster.id,
        actor=actor,
    )
    return catalog.clusters.find(cluster.id) or cluster


def removal_line(cluster: Cluster) -> str:
    """What takes the head out of the set's configuration, for mongosh on the primary."""
    return f'rs.remove("{join_host_port(cluster.head_host, cluster.head_port)}")'


def removal_lines(cluster: Cluster, catalog: Catalog) -> list[str]:
    """`removal_line` of a cluster, or of each part of a sharded one, which is named."""
    if cluster.kind is ClusterKind.REPLICA_SET:
        return [removal_line(cluster)]
    return [
        f"{removal_line(part)}  // on the primary of {part.replica_set_name}"
        for part in catalog.clusters.list_parts(cluster.id)
    ]


def require_whole(cluster: Cluster, catalog: Catalog, command: str) -> None:
    """Raise Refused for a part of a sharded cluster that is backed up: `command` is for the whole of it."""
    parent = None if cluster.parent_id is None else catalog.clusters.find(cluster.parent_id)
    if parent is not None and parent.state is ClusterState.ACTIVE:
        raise Refused(
            f"{cluster.name} is a part of the sharded cluster {parent.name}",
            hint=f"ebbtide clusters {command} {parent.name}, which does it for all parts",
        )


def set_paused(cluster: Cluster, *, is_paused: bool, catalog: Catalog, clock: Clock, actor: str) -> Cluster:
    """Begin no snapshots of it any more, or begin them again. Its head goes on following either way."""
    require_whole(cluster, catalog, "pause" if is_paused else "resume")
    if cluster.state is not ClusterState.ACTIVE:
        raise Refused(f"{cluster.name} is not backed up (any more)")
    if cluster.is_paused is not is_paused:
        catalog.clusters.set_paused(cluster.id, is_paused)
        if is_paused:
            message = f"no snapshots of {cluster.name} are taken until it is resumed"
            _record(catalog, clock, cluster, actor, "cluster.paused", message)
        else:
            message = f"snapshots of {cluster.name} are taken again"
            _record(catalog, clock, cluster, actor, "cluster.resumed", message)
    return catalog.clusters.find(cluster.id) or cluster


def set_mongod(
    cluster: Cluster, *, mongod: str | None, catalog: Catalog, clock: Clock, actor: str
) -> Cluster:
    """Have this head alone run another mongod; None: the one that the settings say.

    The path is one of the worker's machine, so that worker judges it; a head that runs is not stopped for one that
    cannot be run. Raises InvalidInput for a path that is not absolute.
    """
    if cluster.state is not ClusterState.ACTIVE:
        raise Refused(f"{cluster.name} is not backed up (any more)")
    if mongod is not None and not Path(mongod).is_absolute():
        raise InvalidInput(
            "mongod", expected="an absolute path on the machine of Ebbtide's worker", got=mongod
        )
    for part in catalog.clusters.list_parts(cluster.id):
        set_mongod(part, mongod=mongod, catalog=catalog, clock=clock, actor=actor)
    if cluster.kind is ClusterKind.REPLICA_SET and cluster.mongod != mongod:
        catalog.clusters.set_mongod(cluster.id, mongod)
        message = f"the head of {cluster.name} is to run {mongod or 'the mongod that the settings say'}"
        _record(catalog, clock, cluster, actor, "cluster.mongod_set", message)
    return catalog.clusters.find(cluster.id) or cluster


def renew_certificate(
    cluster: Cluster,
    *,
    tls_ca: str | None,
    tls_certificate: str,
    catalog: Catalog,
    service_key: ServiceKey,
    clock: Clock,
    actor: str,
) -> Cluster:
    """Give the head another certificate; `tls_ca` None keeps whom it believes. The set is not asked.

    Raises InvalidInput for texts that are no certificates, Refused for a certificate that would not do.
    """
    if cluster.kind is ClusterKind.SHARDED:
        raise Refused(
            f"{cluster.name} is a sharded cluster, and its parts have the heads",
            hint=f"ebbtide clusters credentials {cluster.name} gives a certificate to all of them",
        )
    if cluster.tls_ca is None or cluster.tls_certificate is None or cluster.state is not ClusterState.ACTIVE:
        raise Refused(f"{cluster.name} has no certificate that another one could replace")
    material, facts = read_material(ca=tls_ca or cluster.tls_ca, certificate=tls_certificate)
    trouble = find_trouble_among_themselves(material, cluster.head_host)
    if trouble:
        raise Refused(f"the certificate would not serve a head at {cluster.head_host}: {trouble}")
    shown = read_certificate(service_key.open(cluster.tls_certificate, record_id=cluster.id).decode())
    _require_same_membership(cluster, shown, facts)
    catalog.clusters.set_certificate(
        cluster.id,
        tls_ca=material.ca,
        tls_certificate=service_key.seal(material.certificate.encode(), record_id=cluster.id),
        tls_expires=facts.not_after,
    )
    message = f"the head of {cluster.name} was given a certificate that ends at {facts.not_after:%Y-%m-%d}"
    _record(catalog, clock, cluster, actor, "cluster.certificate", message)
    found = catalog.clusters.find(cluster.id)
    if found is None:
        raise NotFound(f"{cluster.name} is gone")
    return found


def _require_same_membership(cluster: Cluster, shown: CertificateFacts, facts: CertificateFacts) -> None:
    if cluster.cluster_auth_mode.uses_certificates and shown.membership != facts.membership:
        raise Refused(
            f"members of this set are {show_membership(shown.membership)}, and the certificate says "
            f"{show_membership(facts.membership)}",
            hint="O, OU and DC of its subject must be those of the members",
        )


def _record(catalog: Catalog, clock: Clock, cluster: Cluster, actor: str, kind: str, message: str) -> None:
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind=kind,
        message=message,
        group_id=cluster.group_id,
        cluster_id=cluster.id,
        actor=actor,
    )
