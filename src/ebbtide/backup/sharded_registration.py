"""Registering a sharded cluster: one record for the cluster, and one with a head of its own for each of its parts.

`check_sharded_registration` discovers the parts and judges each as a replica set; nothing is recorded unless all of
them, and the server versions, will do. `follow_parts` records the parts that are missing, so it both finishes a
registration and follows a cluster that got a shard.

Crash: between the cluster and its last part, what is recorded is right, and `follow_parts` records the rest.
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ebbtide.backup.head_requests import require_whole
from ebbtide.backup.registration import (
    ANSWER_SECONDS,
    RegistrationReport,
    check_registration,
    register_cluster,
    remove_cluster,
    request_credentials,
)
from ebbtide.backup.registration_checks import Check, RegistrationRequest, check_request
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import ClusterId, GroupId, new_id
from ebbtide.domain.sharding import PartAddress, ShardedTopology, check_versions
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import Refused, RegistrationRefused
from ebbtide.events import record_event
from ebbtide.mongod import deployment, sharding
from ebbtide.sealing import ServiceKey
from ebbtide.settings import Settings


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """The verdict on one part: `request` is what would register it alone."""

    address: PartAddress
    request: RegistrationRequest
    report: RegistrationReport


@dataclass(frozen=True, kw_only=True)
class ShardedReport:
    """The verdict on a sharded cluster, its config server first."""

    parts: tuple[PartReport, ...]

    @property
    def ok(self) -> bool:
        return all(part.report.ok for part in self.parts)

    @property
    def config(self) -> PartReport:
        return self.parts[0]

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every check of every part, under the part's name."""
        return tuple(
            replace(check, name=f"{part.address.name}: {check.name}")
            for part in self.parts
            for check in part.report.checks
        )

    @property
    def disk_bytes(self) -> int:
        return sum(part.report.disk_bytes for part in self.parts)

    @property
    def memory_bytes(self) -> int:
        return sum(part.report.memory_bytes for part in self.parts)

    def raise_unless_ok(self) -> None:
        """Raise RegistrationRefused with every failed check of every part."""
        failed = [
            (f"{part.address.name}: {check.what}", check.fix)
            for part in self.parts
            for check in part.report.checks
            if not check.ok
        ]
        if failed:
            raise RegistrationRefused(failed)


def check_sharded_registration(
    request: RegistrationRequest,
    *,
    settings: Settings,
    catalog: Catalog,
    group_id: GroupId,
    data_dir: Path | None = None,
) -> ShardedReport:
    """Judge a request whose `uri` names the config server. Takes seconds for each part; changes nothing.

    With a head port the parts' heads take that one and the next ones. Raises InvalidInput for a malformed request, and
    Refused, Unreachable or DeploymentError where the parts cannot be found or run versions that were not tried.
    """
    check_request(request)
    if request.keyfile is None:
        raise RegistrationRefused(
            [("the balancer is asked with the cluster's keyfile, and none was given", "give --keyfile FILE")]
        )
    topology = discover(request)
    wanted = part_requests(request, topology)
    reports: list[PartReport] = []
    ports: set[int] = set()
    for address, part in wanted:
        report = None
        # Chosen ports are free, but two that are chosen in a row may be the same.
        while report is None or (part.head_port is None and report.head_port in ports):
            report = check_registration(
                part, settings=settings, catalog=catalog, group_id=group_id, data_dir=data_dir
            )
        ports.add(report.head_port)
        reports.append(PartReport(address=address, request=part, report=report))
    return ShardedReport(parts=tuple(reports))


def discover(request: RegistrationRequest) -> ShardedTopology:
    """The parts of the cluster whose config server `request.uri` names, each of a version that was tried."""
    with ExitStack() as stack:

        def connect(uri: str) -> sharding.Client:
            return stack.enter_context(
                deployment.connect_to_set(
                    uri, request_credentials(request), tls=request.tls, timeout_seconds=ANSWER_SECONDS
                )
            )

        topology = sharding.read_topology(connect(request.uri))
        check_versions(sharding.read_versions({part.name: connect(part.uri) for part in topology.parts}))
        return topology


def part_requests(
    request: RegistrationRequest, topology: ShardedTopology
) -> list[tuple[PartAddress, RegistrationRequest]]:
    """What would register each part alone. Pure. Raises Refused where two parts would have the same name."""
    wanted = []
    for place, address in enumerate(topology.parts):
        port = None if request.head_port is None else request.head_port + place
        name = part_name(request.name, address)
        wanted.append((address, replace(request, name=name, uri=address.uri, head_port=port)))
    names = [part.name for _, part in wanted]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise Refused(f"two shards have names that differ only in signs: both would be {', '.join(doubled)}")
    return wanted


def part_name(cluster_name: str, address: PartAddress) -> str:
    """The name of a part as a cluster of its own: the sharded cluster's and the shard's."""
    return f"{cluster_name}-{re.sub(r'[^a-zA-Z0-9-]', '-', address.name)}"


def register_sharded_cluster(
    request: RegistrationRequest,
    report: ShardedReport,
    *,
    catalog: Catalog,
    service_key: ServiceKey,
    clock: Clock,
    group_id: GroupId,
    actor: str,
) -> Cluster:
    """Record the cluster and its parts. Raises RegistrationRefused unless every check passed, NameTaken."""
    report.raise_unless_ok()
    cluster = _parent(request, report, service_key=service_key, clock=clock, group_id=group_id)
    catalog.clusters.insert(cluster)
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="cluster.added",
        message=f"{cluster.name} (sharded cluster of {len(report.parts) - 1} shards) was registered",
        group_id=group_id,
        cluster_id=cluster.id,
        actor=actor,
    )
    follow_parts(cluster, report, catalog=catalog, service_key=service_key, clock=clock, actor=actor)
    return cluster


def _parent(
    request: RegistrationRequest,
    report: ShardedReport,
    *,
    service_key: ServiceKey,
    clock: Clock,
    group_id: GroupId,
) -> Cluster:
    """The record of the cluster as a whole, with what opens its config server."""
    facts = report.config.report.facts
    cluster_id = ClusterId(new_id())

    def sealed(secret: str | None) -> Any:
        return None if secret is None else service_key.seal(secret.encode(), record_id=cluster_id)

    return Cluster(
        id=cluster_id,
        group_id=group_id,
        name=request.name,
        replica_set_name="",
        uri=report.config.request.uri,
        username=request.username,
        auth_source=request.auth_source,
        password=sealed(request.password),
        keyfile=sealed(request.keyfile),
        mongod_version=facts.mongod_version,
        fcv=facts.fcv,
        state=ClusterState.ACTIVE,
        created=clock.now(),
        head_host="",
        head_port=0,
        tls_mode=facts.tls_mode,
        cluster_auth_mode=facts.cluster_auth_mode,
        authorization=facts.authorization,
        tls_ca=request.tls_ca,
        tls_certificate=sealed(request.tls_certificate),
        tls_expires=None if facts.certificate is None else facts.certificate.not_after,
        kind=ClusterKind.SHARDED,
    )


def follow_parts(
    cluster: Cluster,
    report: ShardedReport,
    *,
    catalog: Catalog,
    service_key: ServiceKey,
    clock: Clock,
    actor: str,
) -> list[Cluster]:
    """Record the parts that are not recorded yet; those. A part that left the cluster keeps its record.

    Raises RegistrationRefused where a missing part's checks did not pass, NameTaken.
    """
    known = {part.name for part in catalog.clusters.list_parts(cluster.id)}
    return [
        register_cluster(
            part.request,
            part.report,
            catalog=catalog,
            service_key=service_key,
            clock=clock,
            group_id=cluster.group_id,
            actor=actor,
            parent_id=cluster.id,
            part=part.address,
        )
        for part in report.parts
        if part.request.name not in known
    ]


def remove_sharded_cluster(cluster: Cluster, *, catalog: Catalog, clock: Clock, actor: str) -> None:
    """Ask for every part's head to leave its set, then forget the cluster. Snapshots stay. Repeatable.

    With the cluster its keyfile is forgotten, and it alone puts a stopped balancer back: while a job keeps that
    stopped, the cluster is REMOVING, and the worker's tidying forgets it afterwards.
    """
    for part in catalog.clusters.list_parts(cluster.id):
        remove_cluster(part, catalog=catalog, clock=clock, actor=actor)
    current = catalog.clusters.find(cluster.id)
    if current is None or current.state is ClusterState.REMOVED:
        return
    # First, so that no job begins to stop the balancer between the look and the end.
    catalog.clusters.set_state(cluster.id, ClusterState.REMOVING)
    in_progress = catalog.cluster_snapshots.list_in_state(cluster.id, SnapshotState.IN_PROGRESS)
    if not in_progress and catalog.balancer_holds.find(cluster.id) is None:
        catalog.clusters.set_state(cluster.id, ClusterState.REMOVED)


def remove_registered(cluster: Cluster, *, catalog: Catalog, clock: Clock, actor: str) -> Cluster:
    """Remove a cluster of any kind. Raises Refused for a part of a sharded cluster that is backed up."""
    require_whole(cluster, catalog, "remove")
    if cluster.kind is ClusterKind.REPLICA_SET:
        return remove_cluster(cluster, catalog=catalog, clock=clock, actor=actor)
    if cluster.state is ClusterState.REMOVED:
        return cluster
    if cluster.state is ClusterState.ACTIVE:
        record_event(
            catalog,
            clock,
            level=EventLevel.INFO,
            kind="cluster.removing",
            message=f"{cluster.name} is being removed: the heads of its parts leave, the last snapshots stay",
            group_id=cluster.group_id,
            cluster_id=cluster.id,
            actor=actor,
        )
    remove_sharded_cluster(cluster, catalog=catalog, clock=clock, actor=actor)
    return catalog.clusters.find(cluster.id) or cluster
