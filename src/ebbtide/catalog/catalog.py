"""What exists: the one door to the catalog database."""

from typing import Any

import pymongo
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ebbtide.catalog.archives import ArchiveCollection
from ebbtide.catalog.automated_restores import AutomatedRestoreCollection
from ebbtide.catalog.balancer_holds import BalancerHoldCollection
from ebbtide.catalog.checkpoints import CheckpointCollection
from ebbtide.catalog.cluster_snapshots import ClusterSnapshotCollection
from ebbtide.catalog.clusters import ClusterCollection, HeadCollection
from ebbtide.catalog.connection import (
    CATALOG_FORMAT,
    DATABASE_NAME,
    CatalogError,
    Document,
    connect,
    ensure_indexes,
    translated,
)
from ebbtide.catalog.damage import DamageCollection
from ebbtide.catalog.events import EventCollection
from ebbtide.catalog.groups import ApiKeyCollection, GroupCollection
from ebbtide.catalog.hosts import HostCollection
from ebbtide.catalog.jobs import JobCollection
from ebbtide.catalog.leases import LeaseCollection
from ebbtide.catalog.prune_runs import PruneRunCollection
from ebbtide.catalog.restore_jobs import RestoreJobCollection, TransferCollection
from ebbtide.catalog.schedules import ScheduleCollection
from ebbtide.catalog.service_accounts import ServiceAccountCollection
from ebbtide.catalog.snapshots import SnapshotCollection
from ebbtide.catalog.tokens import SigningKeyCollection, TokenCollection
from ebbtide.catalog.watch import RepositorySpaceCollection, WebhookCursorCollection
from ebbtide.catalog.workers import WorkerCollection


class Catalog:
    """All collections of one catalog. Safe to use from many threads."""

    def __init__(self, client: MongoClient[Document]) -> None:
        self._client = client
        self._database = client[DATABASE_NAME]
        self.groups = GroupCollection(self._database)
        self.api_keys = ApiKeyCollection(self._database)
        self.service_accounts = ServiceAccountCollection(self._database)
        self.tokens = TokenCollection(self._database)
        self.signing_keys = SigningKeyCollection(self._database)
        self.clusters = ClusterCollection(self._database)
        self.heads = HeadCollection(self._database)
        self.hosts = HostCollection(self._database)
        self.snapshots = SnapshotCollection(self._database)
        self.cluster_snapshots = ClusterSnapshotCollection(self._database)
        self.balancer_holds = BalancerHoldCollection(self._database)
        self.checkpoints = CheckpointCollection(self._database)
        self.restore_jobs = RestoreJobCollection(self._database)
        self.automated_restores = AutomatedRestoreCollection(self._database)
        self.transfers = TransferCollection(self._database)
        self.jobs = JobCollection(self._database)
        self.events = EventCollection(self._database)
        self.workers = WorkerCollection(self._database)
        self.schedules = ScheduleCollection(self._database)
        self.leases = LeaseCollection(self._database)
        self.prune_runs = PruneRunCollection(self._database)
        self.archives = ArchiveCollection(self._database)
        self.damage = DamageCollection(self._database)
        self.repository_space = RepositorySpaceCollection(self._database)
        self.webhook_cursors = WebhookCursorCollection(self._database)

    @classmethod
    def connect(cls, uri: str, *, timeout_seconds: float = 10.0) -> "Catalog":
        return cls(connect(uri, timeout_seconds=timeout_seconds))

    @translated
    def prepare(self) -> None:
        """Create what is missing (indexes, the format's mark). Running it again changes nothing.

        Raises CatalogError for a catalog that a newer Ebbtide wrote.
        """
        ensure_indexes(self._database)
        self._database.meta.update_one(
            {"_id": "format"}, {"$setOnInsert": {"version": CATALOG_FORMAT}}, upsert=True
        )
        mark: dict[str, Any] = self._database.meta.find_one({"_id": "format"}) or {}
        if mark.get("version") != CATALOG_FORMAT:
            raise CatalogError(
                f"this catalog has format {mark.get('version')}, and this Ebbtide knows {CATALOG_FORMAT}",
                hint="run the version of Ebbtide that wrote it, or a newer one",
            )

    @translated
    def ping(self) -> None:
        """Raise Unreachable unless the catalog answers."""
        self._client.admin.command("ping")

    def answers(self, *, within_seconds: float) -> bool:
        """Whether the catalog answers a ping in time."""
        try:
            with pymongo.timeout(within_seconds):
                self._client.admin.command("ping")
        except PyMongoError:
            return False
        return True

    def close(self) -> None:
        """All later calls raise CatalogError; one that waits for an answer still waits its time."""
        self._client.close()
