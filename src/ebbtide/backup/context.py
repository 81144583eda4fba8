"""What the parts of a worker share."""

import os
from dataclasses import dataclass
from pathlib import Path

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.cluster import Cluster
from ebbtide.repository.repository import Repository
from ebbtide.sealing import ServiceKey
from ebbtide.settings import Settings


@dataclass(frozen=True, kw_only=True)
class BackupContext:
    """Everything that heads, snapshots and restores need."""

    settings: Settings
    directory: DataDirectory
    catalog: Catalog
    service_key: ServiceKey
    clock: Clock
    repository: Repository
    worker_id: str

    def access(self, cluster: Cluster) -> ClusterAccess:
        return ClusterAccess(cluster=cluster, service_key=self.service_key)

    def head_directory(self, cluster: Cluster) -> Path:
        return self.directory.heads / cluster.id

    @property
    def threads(self) -> int:
        """Threads for data work: as set, else one less than the cores that we may use."""
        return self.settings.count("worker.threads") or max(1, len(os.sched_getaffinity(0)) - 1)
