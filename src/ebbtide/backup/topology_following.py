"""Following a sharded cluster that changes: a shard that was added is registered and gets a head, the head of one that
was removed leaves it, and its snapshots stay.

`config.shards` is read from the config server at majority, and a shard must be absent at two looks in a row before its
head is let go. A shard that comes back under its old name is registered anew, once the old record's head is gone.

Crash: what was recorded is right, and the next look does the rest.
"""

import structlog

from ebbtide.backup.context import BackupContext
from ebbtide.backup.registration import ANSWER_SECONDS, check_registration, register_cluster, remove_cluster
from ebbtide.backup.registration_checks import RegistrationRequest
from ebbtide.backup.sharded_registration import part_name
from ebbtide.catalog.clusters import NameTaken
from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.sharding import PartAddress, ShardedTopology, check_versions, compare_shards
from ebbtide.errors import EbbtideError, Refused, RegistrationRefused
from ebbtide.events import record_event
from ebbtide.mongod import sharding
from ebbtide.mongod.deployment import connect_to_set

ACTOR = "topology"

_log = structlog.get_logger()


class TopologyFollower:
    """Looks at every sharded cluster under backup. For one thread; what it remembers only makes it slower to act."""

    def __init__(self, context: BackupContext) -> None:
        self._context = context
        self._absent: dict[ClusterId, frozenset[str]] = {}
        self._told: dict[tuple[ClusterId, str], str] = {}

    def look(self) -> None:
        """Do what changed. A cluster that cannot be asked is asked at the next look."""
        for cluster in self._context.catalog.clusters.list_sharded():
            if cluster.state is not ClusterState.ACTIVE:
                continue
            try:
                self._follow(cluster)
            except EbbtideError as error:
                _log.warning("topology.trouble", cluster_id=cluster.id, message=str(error))

    def _follow(self, cluster: Cluster) -> None:
        topology = self._read(cluster)
        parts = self._context.catalog.clusters.list_parts(cluster.id)
        names = {part.shard_name for part in parts if part.shard_name and part.state is ClusterState.ACTIVE}
        change = compare_shards(topology, frozenset(names), absent_before=self._absent.get(cluster.id))
        self._absent[cluster.id] = change.absent
        for part in parts:
            if part.shard_name in change.gone and part.state is ClusterState.ACTIVE:
                self._let_go(cluster, part)
        for address in change.added:
            if part_name(cluster.name, address) not in {part.name for part in parts}:
                self._register(cluster, address)

    def _read(self, cluster: Cluster) -> ShardedTopology:
        with self._context.access(cluster).set_client(timeout_seconds=ANSWER_SECONDS) as config:
            return sharding.read_topology(config)

    def _let_go(self, cluster: Cluster, part: Cluster) -> None:
        self._tell(
            cluster,
            EventLevel.WARNING,
            "cluster.shard_removed",
            f"the shard {part.shard_name} was removed from {cluster.name}: its head leaves it, its snapshots stay",
        )
        remove_cluster(part, catalog=self._context.catalog, clock=self._context.clock, actor=ACTOR)

    def _register(self, cluster: Cluster, address: PartAddress) -> None:
        """Raises what keeps the catalog or the shard from answering; what is wrong with the shard is told, once."""
        request = self._request(cluster, address)
        try:
            with connect_to_set(
                address.uri,
                self._context.access(cluster).credentials(),
                tls=request.tls,
                timeout_seconds=ANSWER_SECONDS,
            ) as shard:
                check_versions(sharding.read_versions({address.name: shard}))
            report = check_registration(
                request,
                settings=self._context.settings,
                catalog=self._context.catalog,
                group_id=cluster.group_id,
                data_dir=self._context.directory.root,
            )
            register_cluster(
                request,
                report,
                catalog=self._context.catalog,
                service_key=self._context.service_key,
                clock=self._context.clock,
                group_id=cluster.group_id,
                actor=ACTOR,
                parent_id=cluster.id,
                part=address,
            )
        except NameTaken:
            # Its record of before is still being removed, or another worker was quicker.
            return
        except (RegistrationRefused, Refused) as error:
            self._tell_once(cluster, address, str(error))
            return
        self._tell(
            cluster,
            EventLevel.INFO,
            "cluster.shard_added",
            f"the shard {address.name} was added to {cluster.name}: it gets a head",
        )

    def _request(self, cluster: Cluster, address: PartAddress) -> RegistrationRequest:
        access = self._context.access(cluster)
        credentials, material = access.credentials(), access.tls()
        return RegistrationRequest(
            name=part_name(cluster.name, address),
            uri=address.uri,
            username=None if credentials is None else credentials.username,
            password=None if credentials is None else credentials.password,
            auth_source=cluster.auth_source,
            keyfile=access.keyfile(),
            tls_ca=cluster.tls_ca,
            tls_certificate=None if material is None else material.certificate,
            head_host=self._head_host(cluster),
        )

    def _head_host(self, cluster: Cluster) -> str | None:
        """Where its siblings' heads are reached."""
        parts = self._context.catalog.clusters.list_parts(cluster.id)
        return parts[0].head_host if parts else None

    def _tell_once(self, cluster: Cluster, address: PartAddress, why: str) -> None:
        if self._told.get((cluster.id, address.name)) != why:
            self._told[(cluster.id, address.name)] = why
            self._tell(
                cluster,
                EventLevel.ERROR,
                "cluster.shard_refused",
                f"the shard {address.name} of {cluster.name} is not backed up, so no snapshot of the cluster is whole: "
                f"{why}",
            )

    def _tell(self, cluster: Cluster, level: EventLevel, kind: str, message: str) -> None:
        record_event(
            self._context.catalog,
            self._context.clock,
            level=level,
            kind=kind,
            message=message,
            group_id=cluster.group_id,
            cluster_id=cluster.id,
        )
