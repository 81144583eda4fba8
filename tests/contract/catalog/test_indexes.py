"""Every query that the catalog makes is answered by an index: as the server itself explains it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from ebbtide.catalog.catalog import Catalog
from ebbtide.catalog.connection import DATABASE_NAME
from ebbtide.catalog.damage import Damage
from ebbtide.catalog.tokens import SigningKey
from ebbtide.catalog.watch import WebhookCursor
from ebbtide.catalog.workers import WorkerRecord
from ebbtide.domain.access_list import AccessEntry
from ebbtide.domain.archive_state import ArchiveState
from ebbtide.domain.balancer_hold import BalancerHold
from ebbtide.domain.bounds import REPOSITORY_SPACE_ID, RepositorySpace
from ebbtide.domain.checkpoint import Checkpoint, CheckpointState
from ebbtide.domain.cluster import ClusterState
from ebbtide.domain.cluster_snapshot import ClusterSnapshot
from ebbtide.domain.expiry import ExpiryStage
from ebbtide.domain.ids import BatchId, CheckpointId
from ebbtide.domain.job import JobState
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.prune_run import PruneRun, PruneState
from ebbtide.domain.restore_job import RestoreEvent
from ebbtide.domain.service_account import LiveToken
from ebbtide.domain.sharding import BalancerMode
from ebbtide.domain.snapshot import SnapshotState

Document = dict[str, Any]

# Not a query: the caller wants every document, and there are few.
WHOLE_COLLECTIONS = {"heads", "workers", "archives", "balancer_holds"}


SPACE = RepositorySpace(
    id=REPOSITORY_SPACE_ID,
    free_bytes=1,
    total_bytes=2,
    least_free_bytes=1,
    is_low=False,
    since=datetime(2026, 1, 1, tzinfo=UTC),
    updated=datetime(2026, 1, 1, tzinfo=UTC),
)


class _Recorder(CommandListener):
    """Keeps what was asked."""

    def __init__(self) -> None:
        self.commands: list[Document] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.database_name == DATABASE_NAME:
            self.commands.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


@pytest.fixture
def recorder() -> _Recorder:
    return _Recorder()


@pytest.fixture
def recorded_catalog(catalog_uri: str, database: Any, recorder: _Recorder) -> Iterator[Catalog]:  # noqa: ARG001
    client: MongoClient[Document] = MongoClient(catalog_uri, tz_aware=True, event_listeners=[recorder])
    catalog = Catalog(client)
    yield catalog
    catalog.close()


def _use_everything(catalog: Catalog, make: SimpleNamespace) -> None:
    """Call every method of every collection."""
    key, cluster, snapshot = make.key(), make.cluster(id=make.cluster_id), make.snapshot()
    restore, transfer, job = make.restore_job(), make.transfer(), make.job()
    now, until = make.now, make.now
    catalog.groups.insert(make.group())
    catalog.groups.find(make.group_id)
    catalog.groups.list_all()
    catalog.groups.rename(make.group_id, "Other")
    catalog.api_keys.insert(key)
    catalog.api_keys.find_by_public_key(key.public_key)
    catalog.api_keys.list_all()
    catalog.api_keys.replace_secret(key.id, make.sealed)
    catalog.api_keys.list_ending(now)
    catalog.api_keys.note_expiry_told(key.id, ExpiryStage.SOON)
    catalog.api_keys.allow(key.id, AccessEntry(cidr="::1/128", created=now))
    catalog.api_keys.record_use(key.id, "::1/128", address="::1", now=now)
    catalog.api_keys.disallow(key.id, "::1/128")
    catalog.api_keys.change(key.id, description="x", grants=key.grants)
    catalog.api_keys.find(key.id)
    catalog.api_keys.delete(key.id)
    account = make.account()
    catalog.service_accounts.insert(account)
    catalog.service_accounts.find(account.id)
    catalog.service_accounts.list_all()
    catalog.service_accounts.add_secret(account.id, account.secrets[0])
    catalog.service_accounts.record_secret_use(account.id, account.secrets[0].id, now=now)
    catalog.service_accounts.remove_secret(account.id, account.secrets[0].id)
    catalog.service_accounts.change(account.id, name="x")
    catalog.service_accounts.delete(account.id)
    catalog.tokens.add(account.id, LiveToken(id="t", expires=now), now=now)
    catalog.tokens.is_live(account.id, "t", now=now)
    catalog.tokens.revoke(account.id, "t")
    catalog.tokens.revoke_all(account.id)
    catalog.signing_keys.insert(SigningKey(id="k", key=make.sealed, created=now))
    catalog.signing_keys.find("k")
    catalog.signing_keys.newest()
    catalog.clusters.insert(cluster)
    catalog.clusters.find(cluster.id)
    catalog.clusters.find_by_name(make.group_id, cluster.name)
    catalog.clusters.list_in_group(make.group_id)
    catalog.clusters.list_live()
    catalog.clusters.list_parts(cluster.id)
    catalog.clusters.list_part_ids(cluster.id)
    catalog.clusters.list_sharded()
    catalog.clusters.count_in_group(make.group_id)
    catalog.clusters.set_version(cluster.id, mongod_version="6.0.6", fcv="6.0")
    catalog.clusters.set_mongod(cluster.id, None)
    catalog.clusters.set_restore_target(
        cluster.id, restore_target=True, username="u", auth_source="admin", password=make.sealed
    )
    catalog.archives.begin(ArchiveState(id=cluster.id, observed=now))
    catalog.archives.update(cluster.id, source="m:1")
    catalog.archives.want(cluster.id, OplogTimestamp(1, 2))
    catalog.archives.find(cluster.id)
    catalog.archives.list_all()
    catalog.damage.note(Damage(id=cluster.id, found=now, problem=""))
    catalog.damage.find(cluster.id)
    catalog.clusters.set_paused(cluster.id, True)
    catalog.clusters.set_certificate(cluster.id, tls_ca="", tls_certificate=make.sealed, tls_expires=now)
    catalog.clusters.set_credentials(
        cluster.id,
        username="u",
        auth_source="admin",
        password=make.sealed,
        keyfile=None,
        tls_ca=None,
        tls_certificate=None,
        tls_expires=None,
    )
    catalog.clusters.detach(cluster.id)
    catalog.clusters.set_state(cluster.id, ClusterState.REMOVING)
    catalog.clusters.revive(cluster.id)
    catalog.heads.insert(make.head())
    catalog.heads.find(cluster.id)
    catalog.heads.list_all()
    catalog.heads.want_rejoin(cluster.id)
    catalog.heads.claim(cluster.id, worker_id="w", now=now, until=until)
    catalog.heads.update(cluster.id, worker_id="w", now=now, message="")
    catalog.heads.release_all("w")
    catalog.heads.forget_gone(cluster.id)
    catalog.snapshots.insert(snapshot)
    catalog.snapshots.find(snapshot.id)
    catalog.snapshots.page(cluster.id, states=tuple(SnapshotState), skip=0, limit=10)
    catalog.snapshots.count(cluster.id, states=(SnapshotState.COMPLETE,))
    catalog.snapshots.newest_complete(cluster.id)
    catalog.snapshots.list_in_progress()
    catalog.snapshots.update(snapshot.id, error="")
    catalog.snapshots.list_in_state(cluster.id, SnapshotState.DELETED)
    catalog.snapshots.list_cluster_ids()
    catalog.snapshots.newest_slot(cluster.id)
    catalog.snapshots.change(snapshot.id, only=SnapshotState.DELETED, unless_removed=True, removed=now)
    catalog.snapshots.find_many([snapshot.id])
    whole = ClusterSnapshot(
        id=snapshot.id,
        group_id=make.group_id,
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        created=now,
        state=SnapshotState.IN_PROGRESS,
    )
    catalog.cluster_snapshots.insert(whole)
    catalog.cluster_snapshots.find(whole.id)
    catalog.cluster_snapshots.page(cluster.id, states=tuple(SnapshotState), skip=0, limit=10)
    catalog.cluster_snapshots.count(cluster.id, states=(SnapshotState.COMPLETE,))
    catalog.cluster_snapshots.list_in_state(cluster.id, SnapshotState.IN_PROGRESS)
    catalog.cluster_snapshots.list_in_progress()
    catalog.cluster_snapshots.list_cluster_ids()
    catalog.cluster_snapshots.newest_slot(cluster.id)
    catalog.cluster_snapshots.update(whole.id, message="")
    checkpoint = Checkpoint(
        id=CheckpointId("e" * 24),
        group_id=make.group_id,
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        created=now,
    )
    catalog.checkpoints.insert(checkpoint)
    catalog.checkpoints.find(checkpoint.id)
    catalog.checkpoints.page(cluster.id, skip=0, limit=10)
    catalog.checkpoints.page(cluster.id, only_noted=True, skip=0, limit=10)
    catalog.checkpoints.count(cluster.id, only_noted=True)
    catalog.checkpoints.list_in_state(cluster.id, *CheckpointState)
    catalog.checkpoints.list_cluster_ids()
    catalog.checkpoints.newest_slot(cluster.id)
    catalog.checkpoints.change(checkpoint.id, only=CheckpointState.WANTED, message="")
    catalog.checkpoints.delete(checkpoint.id)
    catalog.cluster_snapshots.change(whole.id, only=SnapshotState.COMPLETE, message="")
    hold = BalancerHold(id=cluster.id, holder=job.id, found=BalancerMode.FULL, since=now)
    catalog.balancer_holds.take(hold)
    catalog.balancer_holds.find(cluster.id)
    catalog.balancer_holds.list_all()
    catalog.balancer_holds.forget(cluster.id, holder=job.id)
    catalog.restore_jobs.insert(restore)
    catalog.restore_jobs.find(restore.id)
    catalog.restore_jobs.page(cluster.id, skip=0, limit=10)
    for stored in catalog.restore_jobs.page_as_stored(cluster.id, skip=0, limit=10):
        catalog.restore_jobs.read_stored(stored)
    catalog.restore_jobs.count(cluster.id)
    catalog.restore_jobs.page_as_stored(cluster.id, make.cluster_id, skip=0, limit=10)
    catalog.restore_jobs.count(cluster.id, make.cluster_id)
    catalog.restore_jobs.list_unfinished()
    catalog.restore_jobs.list_expired(now)
    catalog.restore_jobs.list_for_snapshot(restore.snapshot_id)
    catalog.restore_jobs.list_batch(BatchId(restore.id))
    catalog.restore_jobs.list_ready()
    for event in RestoreEvent:
        catalog.restore_jobs.apply(restore.id, event)
    catalog.restore_jobs.set_sha1(restore.id, "")
    catalog.restore_jobs.raise_completed_downloads(restore.id, 1)
    automated = make.automated_restore(id=restore.id, target_cluster_id=cluster.id)
    catalog.automated_restores.insert(automated)
    catalog.automated_restores.find(automated.id)
    catalog.automated_restores.find_active(cluster.id)
    catalog.automated_restores.list_active()
    catalog.automated_restores.list_with_undo(cluster.id, now)
    catalog.automated_restores.update(automated.id, entries_applied=1)
    catalog.automated_restores.finish_collection(automated.id, "a.b")
    catalog.automated_restores.find_finished(automated.id)
    catalog.automated_restores.forget_finished(automated.id)
    catalog.automated_restores.release(automated.id)
    catalog.transfers.insert(transfer)
    catalog.transfers.list_for_job(transfer.job_id)
    catalog.transfers.record_progress(transfer.id, sent_bytes=1, now=now, ended=None)
    catalog.transfers.list_lost(now)
    catalog.transfers.delete_ended_before(now - timedelta(days=400))
    catalog.transfers.delete(transfer.id)
    catalog.jobs.enqueue(job)
    catalog.jobs.find(job.id)
    catalog.jobs.count_by_kind_and_state()
    catalog.jobs.note_waiting(job.kind, "no space")
    catalog.jobs.is_running(job.kind, cluster.id)
    catalog.jobs.is_running(job.kind, cluster.id, step="x")
    catalog.jobs.claim(
        worker_id="w", now=now, until=until, snapshot_cluster_ids=[cluster.id], except_ids=["SNAPSHOT:x"]
    )
    catalog.jobs.heartbeat(job.id, worker_id="w", until=until)
    catalog.jobs.record(job.id, worker_id="w", step="x")
    catalog.jobs.request_cancel(job.id)
    catalog.jobs.put_back(job.id, worker_id="w")
    catalog.jobs.finish(job.id, worker_id="w", state=JobState.DONE)
    catalog.jobs.release_all("w")
    host = make.host()
    catalog.hosts.put(host)
    catalog.hosts.find(host.id)
    catalog.hosts.find_by_store(host.store_id)
    catalog.hosts.list_in_group(make.group_id)
    catalog.hosts.list_store_ids()
    catalog.hosts.set_lock(host.id, job.id)
    catalog.hosts.list_locked()
    catalog.hosts.remove(host.id)
    catalog.events.insert(make.event())
    catalog.events.page(make.group_id, cluster_id=None, skip=0, limit=10)
    catalog.events.page(make.group_id, cluster_id=cluster.id, skip=0, limit=10)
    catalog.events.page_of_all(skip=0, limit=10)
    catalog.events.count_all()
    catalog.events.delete_before(now - timedelta(days=400))
    catalog.events.count(make.group_id, cluster_id=None)
    catalog.events.count(make.group_id, cluster_id=cluster.id)
    catalog.events.list_after(now, "", until=until, limit=10)
    catalog.repository_space.observe(SPACE)
    catalog.repository_space.record_used(1, now=now)
    catalog.repository_space.find()
    catalog.webhook_cursors.put(WebhookCursor(id="w", time=now, event_id="e"))
    catalog.webhook_cursors.find("w")
    catalog.workers.put(WorkerRecord(id="w", boot_id="b", pid=1, start_ticks=1, heartbeat=now))
    catalog.workers.list_all()
    catalog.workers.delete("w")
    run = PruneRun(id="r", requested=now, requested_by="", dry_run=True, state=PruneState.QUEUED)
    catalog.schedules.put(catalog.schedules.get(cluster))
    catalog.leases.claim("x", worker_id="w", now=now, until=until)
    catalog.leases.renew("x", worker_id="w", now=now, until=until)
    catalog.leases.find("x", now=now)
    catalog.leases.release("x", worker_id="w")
    catalog.leases.release_all("w")
    catalog.prune_runs.insert(run)
    catalog.prune_runs.find(run.id)
    catalog.prune_runs.newest()
    catalog.prune_runs.newest_done()
    catalog.prune_runs.next_unfinished()
    catalog.prune_runs.update(run.id, error="")


_EXPLAINED = ("find", "findAndModify", "update", "delete", "aggregate")
_OF_THE_DRIVER = (
    "lsid",
    "$db",
    "$clusterTime",
    "$readPreference",
    "txnNumber",
    "writeConcern",
    "readConcern",
)


def _stages(plan: Any) -> set[str]:
    """Every stage named anywhere in an explanation."""
    if isinstance(plan, dict):
        found = {plan["stage"]} if isinstance(plan.get("stage"), str) else set()
        return found.union(*(_stages(value) for name, value in plan.items() if name != "rejectedPlans"))
    if isinstance(plan, list):
        return set().union(*(_stages(item) for item in plan))
    return set()


def _is_whole(command: Document) -> bool:
    return command.get("find") in WHOLE_COLLECTIONS and not command.get("filter")


def test_no_query_reads_a_whole_collection(
    recorded_catalog: Catalog, recorder: _Recorder, database: Any, make: SimpleNamespace
) -> None:
    _use_everything(recorded_catalog, make)
    explained = 0
    scans: list[Document] = []
    for command in recorder.commands:
        if next(iter(command)) not in _EXPLAINED or _is_whole(command):
            continue
        question = {name: value for name, value in command.items() if name not in _OF_THE_DRIVER}
        explained += 1
        if "COLLSCAN" in _stages(database.command("explain", question, verbosity="queryPlanner")):
            scans.append(question)
    assert explained > 50
    assert scans == []


def test_every_method_of_every_collection_is_used_here() -> None:
    used = set(_use_everything.__code__.co_names)
    catalog = Catalog(MongoClient(connect=False))
    try:
        collections = [name for name in vars(catalog) if not name.startswith("_")]
        assert len(collections) > 20
        for name in collections:
            methods = {m for m in dir(getattr(catalog, name)) if not m.startswith("_")}
            assert set() == methods - used, name
    finally:
        catalog.close()


def test_lists_in_order_are_not_sorted_in_memory(
    recorded_catalog: Catalog, recorder: _Recorder, database: Any, make: SimpleNamespace
) -> None:
    """What grows for ever is read in the index's order: pages stay cheap however long the list is."""
    catalog = recorded_catalog
    catalog.restore_jobs.page(make.cluster_id, skip=0, limit=10)
    catalog.snapshots.newest_complete(make.cluster_id)
    catalog.snapshots.page(make.cluster_id, states=(SnapshotState.COMPLETE,), skip=0, limit=10)
    catalog.events.page(make.group_id, cluster_id=None, skip=0, limit=10)
    catalog.events.page_of_all(skip=0, limit=10)
    for command in recorder.commands:
        question = {name: value for name, value in command.items() if name not in _OF_THE_DRIVER}
        stages = _stages(database.command("explain", question, verbosity="queryPlanner"))
        assert "SORT" not in stages, question
