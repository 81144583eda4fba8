"""Asking for a download, and taking that back."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import KILLED, NEW, READY, RestoreEvent, RestoreJob
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.restore.requesting import SnapshotNotComplete, cancel_restore_job, request_http_restore

CLOCK = SystemClock()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTER = Cluster(
    id=ClusterId("5f00000000000000000000c1"),
    group_id=GroupId("5f0000000000000000000001"),
    name="shop",
    replica_set_name="rs0",
    uri="mongodb://db1",
    username=None,
    auth_source="admin",
    password=None,
    keyfile=None,
    mongod_version="6.0.5",
    fcv="6.0",
    state=ClusterState.ACTIVE,
    created=NOW,
    head_host="backup1",
    head_port=27200,
)
SNAPSHOT = Snapshot(
    id=SnapshotId("5f00000000000000000000e1"),
    group_id=CLUSTER.group_id,
    cluster_id=CLUSTER.id,
    cluster_name="shop",
    replica_set_name="rs0",
    created=NOW,
    state=SnapshotState.COMPLETE,
    stable_timestamp=OplogTimestamp(1700000000, 3),
)


def ask(catalog: Catalog, snapshot: Snapshot = SNAPSHOT) -> RestoreJob:
    return request_http_restore(
        cluster=CLUSTER,
        snapshot=snapshot,
        expiration_hours=24,
        max_downloads=10,
        catalog=catalog,
        clock=CLOCK,
        actor="abcdefgh",
    )


def cancel(catalog: Catalog, job: RestoreJob) -> RestoreJob | None:
    return cancel_restore_job(job, catalog=catalog, clock=CLOCK, actor="abcdefgh")


def queued(catalog: Catalog, job: RestoreJob) -> JobState | None:
    found = catalog.jobs.find(job_id(JobKind.RESTORE, job.id))
    return None if found is None else found.state


def kinds(catalog: Catalog) -> list[str]:
    events = catalog.events.page(CLUSTER.group_id, cluster_id=CLUSTER.id, skip=0, limit=10)
    return sorted(event.kind for event in events)


def test_a_restore_is_recorded_with_its_job_and_event(catalog: Catalog) -> None:
    job = ask(catalog)
    assert job == catalog.restore_jobs.find(job.id)
    assert job.state == NEW
    assert (SNAPSHOT.stable_timestamp, 24, 10, None) == (
        job.timestamp,
        job.expiration_hours,
        job.max_downloads,
        job.download_key,
    )
    assert job.file_name == f"rs0-1700000000-{job.id}.tar.gz"
    assert JobState.QUEUED is queued(catalog, job)
    assert kinds(catalog) == ["restore.requested"]


@pytest.mark.parametrize(
    "snapshot",
    [
        replace(SNAPSHOT, state=SnapshotState.IN_PROGRESS),
        replace(SNAPSHOT, state=SnapshotState.FAILED),
        replace(SNAPSHOT, stable_timestamp=None),
    ],
)
def test_only_a_complete_snapshot_is_restored(catalog: Catalog, snapshot: Snapshot) -> None:
    with pytest.raises(SnapshotNotComplete):
        ask(catalog, snapshot)
    assert catalog.restore_jobs.count(CLUSTER.id) == 0
    assert kinds(catalog) == []


def test_a_cancelled_restore_is_killed_and_its_job_does_not_begin(catalog: Catalog) -> None:
    job = ask(catalog)
    cancelled = cancel(catalog, job)
    assert cancelled is not None
    assert (cancelled.state, cancelled.reason) == (KILLED, "cancelled by abcdefgh")
    assert JobState.CANCELLED is queued(catalog, job)
    assert kinds(catalog) == ["restore.cancelled", "restore.requested"]


def test_cancelling_what_has_ended_changes_nothing(catalog: Catalog) -> None:
    job = ask(catalog)
    assert cancel(catalog, job) is not None
    assert cancel(catalog, job) is None
    assert len(kinds(catalog)) == 2


def test_a_link_that_is_ready_is_killed_too(catalog: Catalog) -> None:
    job = ask(catalog)
    catalog.restore_jobs.apply(job.id, RestoreEvent.WORKER_BEGAN)
    ready = catalog.restore_jobs.apply(job.id, RestoreEvent.LINK_READY)
    assert ready is not None
    assert ready.state == READY
    cancelled = cancel(catalog, job)
    assert cancelled is not None
    assert cancelled.state == KILLED
    assert catalog.restore_jobs.apply(job.id, RestoreEvent.LINK_EXPIRED) is None


def test_a_moment_is_shown_in_numbers_that_every_client_takes(catalog: Catalog) -> None:
    for increment, shown in ((7, 7), (2**32 - 1, 1)):
        limit = OplogTimestamp(1700000100, increment)
        job = request_http_restore(
            cluster=CLUSTER,
            snapshot=SNAPSHOT,
            limit=limit,
            expiration_hours=1,
            max_downloads=1,
            catalog=catalog,
            clock=CLOCK,
            actor="abcdefgh",
        )
        assert (job.point_in_time, job.limit) == (True, limit)
        assert job.timestamp == OplogTimestamp(1700000100, shown)
        assert job == catalog.restore_jobs.find(job.id)
