"""A sharded cluster under backup, with a worker at work, for all tests of a module."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ebbtide.backup.cluster_snapshot_requesting import request_cluster_snapshot
from ebbtide.domain.cluster import Cluster, ClusterState, HeadState
from ebbtide.domain.cluster_snapshot import ClusterSnapshot
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.testing.sharded_lab import CONFIG, ShardedLab


@dataclass
class Sharded:
    """The installation, the lab, and the cluster that is registered."""

    installation: Any  # `Installation` of the conftest above
    lab: ShardedLab
    cluster: Cluster
    settings: dict[str, Any]  # the worker's own, by name: a test may change them for a while

    @property
    def catalog(self) -> Any:
        return self.installation.catalog

    @property
    def parts(self) -> list[Cluster]:
        return list(self.catalog.clusters.list_parts(self.cluster.id))

    def part(self, name: str) -> Cluster:
        return next(part for part in self.parts if part.name == f"{self.cluster.name}-{name}")

    def request(self, **changes: Any) -> ClusterSnapshot:
        context = self.installation.context
        cluster = self.installation.cluster(self.cluster)
        return request_cluster_snapshot(
            cluster, catalog=self.catalog, clock=context.clock, actor="test", **changes
        )

    def find(self, snapshot: ClusterSnapshot) -> ClusterSnapshot:
        found = self.catalog.cluster_snapshots.find(snapshot.id)
        if found is None:
            raise LookupError(snapshot.id)
        return found

    def wait_for(self, snapshot: ClusterSnapshot, *states: SnapshotState) -> ClusterSnapshot:
        """The snapshot once it is in one of `states` (complete, if none is named), and its job is over."""

        def look() -> ClusterSnapshot | None:
            found = self.find(snapshot)
            if found.state is SnapshotState.FAILED and SnapshotState.FAILED not in states:
                raise AssertionError(found.message)
            job = self.catalog.jobs.find(job_id(JobKind.CLUSTER_SNAPSHOT, snapshot.id))
            is_over = job is not None and job.state not in (JobState.QUEUED, JobState.RUNNING)
            return found if is_over and found.state in (states or (SnapshotState.COMPLETE,)) else None

        found: ClusterSnapshot = self.installation.wait_until(look, what="the cluster's snapshot")
        return found

    def take(self) -> ClusterSnapshot:
        return self.wait_for(self.request())

    def job(self, snapshot: ClusterSnapshot) -> str:
        return job_id(JobKind.CLUSTER_SNAPSHOT, snapshot.id)

    def part_snapshots(self, snapshot: ClusterSnapshot) -> list[Snapshot]:
        """Those that were asked for so far."""
        return list(
            self.catalog.snapshots.find_many(part.snapshot_id for part in self.find(snapshot).parts).values()
        )

    def kinds(self, snapshot: ClusterSnapshot) -> set[str]:
        """Of the events that name the snapshot."""
        events = self.installation.events(self.cluster)
        return {event.kind for event in events if event.subject_id == snapshot.id}

    def set_balancer(self, mode: str) -> None:
        settings = self.lab.admin_client(CONFIG).config.settings
        stopped = mode == "off"
        settings.update_one({"_id": "balancer"}, {"$set": {"mode": mode, "stopped": stopped}}, upsert=True)

    def balancer_mode(self) -> str:
        return str(self.lab.balancer_status()["mode"])

    def wait_until_put_back(self, mode: str = "full") -> None:
        self.installation.wait_until(
            lambda: (
                self.catalog.balancer_holds.find(self.cluster.id) is None and self.balancer_mode() == mode
            ),
            what=f"the balancer to be {mode} again",
        )


@pytest.fixture(scope="module")
def sharded(shared_installation: Any, shared_sharded_lab: ShardedLab) -> Iterator[Sharded]:
    shared_sharded_lab.reset()
    with shared_installation.working() as worker:
        cluster = shared_installation.register_sharded(shared_sharded_lab)
        parts = shared_installation.catalog.clusters.list_parts(cluster.id)
        for part in parts:
            shared_installation.wait_for_head(part, HeadState.FOLLOWING)
        yield Sharded(
            installation=shared_installation,
            lab=shared_sharded_lab,
            cluster=cluster,
            settings=worker._context.settings.values,
        )
        shared_installation.remove_sharded(cluster)
        for gone in (*parts, cluster):
            shared_installation.wait_until(
                lambda gone=gone: shared_installation.cluster(gone).state is ClusterState.REMOVED,
                what=f"{gone.name} to be removed",
            )


@pytest.fixture(autouse=True)
def balancer_on(sharded: Sharded) -> Iterator[None]:
    """Every test begins, and leaves the lab, with a balancer that is on and that nobody holds."""
    yield
    sharded.set_balancer("full")
    sharded.wait_until_put_back()
