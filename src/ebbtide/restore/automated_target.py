"""What an automated restore writes into: a replica set, or a sharded cluster without a router.

A replica set is written by the account of its owner's consent. The commands by which a sharded cluster is rebuilt are
allowed to no role, so its parts are reached as the server's own user, by the keyfile that it was registered with; its
owner's consent needs no account.

Crash: nothing here outlives its client, but a balancer that is held (`backup.balancer_hold`).
"""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Any, Protocol

from pymongo import MongoClient

from ebbtide.backup.balancer_hold import hold_balancer, release_balancer, wait_for_rest
from ebbtide.backup.context import BackupContext
from ebbtide.domain.automated_restore import AutomatedRestore, Comparison, SourceFacts, WriteBlock
from ebbtide.domain.cluster import Cluster, ClusterKind
from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.jobs.runner import JobRun
from ebbtide.mongod.deployment import DeploymentError
from ebbtide.restore.automated_load import TargetLoad
from ebbtide.restore.automated_sharded_load import ShardedTargetLoad
from ebbtide.restore.automated_source import LoadSource
from ebbtide.restore.consent import prove_account
from ebbtide.restore.preflight import PreflightFailed, require_fit, require_sharded_fit
from ebbtide.restore.target_access import TargetAccess
from ebbtide.restore.write_block import block_writes, unblock_writes

Client = MongoClient[dict[str, Any]]


class Load(Protocol):
    """One attempt's work on one target; see `TargetLoad` and `ShardedTargetLoad`."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def namespaces(self) -> frozenset[str]: ...

    def prove_source(self) -> None: ...

    def remove(self) -> None: ...

    def load(self, finished: Collection[str]) -> None: ...

    def compare(self) -> Comparison: ...

    def complete(self) -> None: ...


class RestoreTarget(Protocol):
    """The target of one attempt. All but `prove` and `let_go` are called after `open`."""

    def prove(self) -> None:
        """Log in, and see that what a restore does is allowed. Raises Refused, Unreachable."""

    def open(self, stack: ExitStack, source: LoadSource, record: AutomatedRestore) -> Load:
        """Connect until `stack` is closed, and plan."""

    def require_fit(self, record: AutomatedRestore, source: SourceFacts) -> None:
        """Raises PreflightFailed with every reason not to begin."""

    def keep_quiet(self, record: AutomatedRestore) -> WriteBlock:
        """Keep other writers off, and whatever moves data. Harmless where it was done."""

    def let_go(self, record: AutomatedRestore) -> None:
        """The reverse, over a connection of its own. Harmless where nothing was done."""


def target_of(cluster: Cluster, *, context: BackupContext, run: JobRun) -> RestoreTarget:
    """The target that a cluster is."""
    if cluster.kind is ClusterKind.SHARDED:
        return ShardedTarget(cluster, context=context, run=run)
    return SetTarget(cluster, context=context, run=run)


class SetTarget:
    """A replica set."""

    def __init__(self, cluster: Cluster, *, context: BackupContext, run: JobRun) -> None:
        self._cluster = cluster
        self._context = context
        self._run = run
        self._access = TargetAccess(cluster=cluster, service_key=context.service_key)
        self._writer: Client | None = None

    def prove(self) -> None:
        prove_account(self._cluster, self._access.login(), service_key=self._context.service_key)

    def open(self, stack: ExitStack, source: LoadSource, record: AutomatedRestore) -> Load:
        self._writer = stack.enter_context(self._access.writer())
        return TargetLoad(
            source, self._writer, target=self._cluster, record=record, context=self._context, run=self._run
        )

    def require_fit(self, record: AutomatedRestore, source: SourceFacts) -> None:
        require_fit(opened(self._writer), self._cluster, scope=record.scope, source=source)

    def keep_quiet(self, record: AutomatedRestore) -> WriteBlock:
        has_login = self._cluster.username is not None
        return block_writes(opened(self._writer), record, self._context.catalog, has_login=has_login)

    def let_go(self, record: AutomatedRestore) -> None:
        with self._access.writer() as writer:
            unblock_writes(writer, record, self._context.catalog)


class ShardedTarget:
    """A sharded cluster, whose parts are found anew by each attempt."""

    def __init__(self, cluster: Cluster, *, context: BackupContext, run: JobRun) -> None:
        self._cluster = cluster
        self._context = context
        self._run = run
        self._access = TargetAccess(cluster=cluster, service_key=context.service_key)
        self._clients: Mapping[str, Client] = {}

    def prove(self) -> None:
        with self._access.parts():
            pass

    def open(self, stack: ExitStack, source: LoadSource, record: AutomatedRestore) -> Load:
        self._clients = stack.enter_context(self._access.parts())
        return ShardedTargetLoad(
            source,
            self._clients,
            target=self._cluster,
            record=record,
            context=self._context,
            run=self._run,
        )

    def require_fit(self, record: AutomatedRestore, source: SourceFacts) -> None:
        if not record.scope.is_everything:
            raise PreflightFailed(
                f"{self._cluster.name} is a sharded cluster: all of it is restored, or nothing"
            )
        require_sharded_fit(self._clients, self._cluster, source=source)

    def keep_quiet(self, record: AutomatedRestore) -> WriteBlock:
        config = self._clients[CONFIG_PART]
        shards = {name: client for name, client in self._clients.items() if name != CONFIG_PART}
        self._hold_balancer(config, shards)
        shard = next(iter(shards.values()))
        return block_writes(config, record, self._context.catalog, has_login=True, shard=shard)

    def let_go(self, record: AutomatedRestore) -> None:
        with self._access.writer() as config:
            unblock_writes(config, record, self._context.catalog, is_sharded=True)
        release_balancer(self._cluster, holder=self._run.job.id, context=self._context)

    def _hold_balancer(self, config: Client, shards: Mapping[str, Client]) -> None:
        """Crash: the catalog says how it was found, and it is put back when the job is over."""
        self._run.check_owner()
        hold_balancer(self._cluster, config, holder=self._run.job.id, context=self._context)
        rests = wait_for_rest(
            config,
            shards,
            must_stop=True,
            context=self._context,
            timeout_seconds=self._context.settings.number("cluster_snapshot.migration_wait_seconds"),
            check=self._run.check,
        )
        if not rests:
            raise DeploymentError(f"chunks of {self._cluster.name} are being moved, and do not come to rest")


def opened(client: Client | None) -> Client:
    """The client that `open` has made."""
    if client is None:
        raise RuntimeError("the target was not opened")
    return client
