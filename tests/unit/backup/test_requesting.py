"""Asking for a snapshot: refused with what to do, or a record and one job."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ebbtide import crash_points
from ebbtide.backup.registration import new_head
from ebbtide.backup.requesting import (
    HeadNotReady,
    SnapshotInProgress,
    enqueue_snapshot,
    request_snapshot,
)
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.domain.cluster import Cluster, ClusterState, HeadState
from ebbtide.domain.ids import ClusterId, GroupId, new_id
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.snapshot import Snapshot, SnapshotState

CLOCK = SystemClock()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def cluster(state: ClusterState = ClusterState.ACTIVE) -> Cluster:
    return Cluster(
        id=ClusterId(new_id()),
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
        state=state,
        created=NOW,
        head_host="backup1",
        head_port=27200,
    )


def ask(catalog: Catalog, asked: Cluster) -> Snapshot:
    return request_snapshot(asked, catalog=catalog, clock=CLOCK, actor="abcdefgh")


def with_head(catalog: Catalog, state: HeadState) -> Cluster:
    asked = cluster()
    catalog.heads.insert(replace(new_head(asked, clock=CLOCK), state=state))
    return asked


@pytest.mark.parametrize("state", [HeadState.FOLLOWING, HeadState.DOWN])
def test_a_snapshot_is_recorded_with_its_job_and_event(catalog: Catalog, state: HeadState) -> None:
    asked = with_head(catalog, state)
    snapshot = ask(catalog, asked)
    assert snapshot == catalog.snapshots.find(snapshot.id)
    assert (
        snapshot.state,
        snapshot.cluster_name,
        snapshot.replica_set_name,
    ) == (SnapshotState.IN_PROGRESS, "shop", "rs0")
    job = catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))
    assert job is not None
    assert (JobState.QUEUED, asked.id) == (job.state, job.cluster_id)
    (event,) = catalog.events.page(asked.group_id, cluster_id=asked.id, skip=0, limit=5)
    assert (event.kind, event.subject_id, event.actor) == ("snapshot.requested", snapshot.id, "abcdefgh")


@pytest.mark.parametrize("state", [s for s in HeadState if s not in (HeadState.FOLLOWING, HeadState.DOWN)])
def test_a_head_that_never_followed_is_waited_for(catalog: Catalog, state: HeadState) -> None:
    asked = with_head(catalog, state)
    with pytest.raises(HeadNotReady, match="clusters watch shop"):
        ask(catalog, asked)
    assert catalog.snapshots.list_in_progress() == []


def test_a_cluster_without_a_head_or_on_its_way_out_takes_no_snapshot(catalog: Catalog) -> None:
    with pytest.raises(HeadNotReady, match="not backed up"):
        ask(catalog, cluster())
    leaving = with_head(catalog, HeadState.FOLLOWING)
    for state in (ClusterState.REMOVING, ClusterState.REMOVED):
        with pytest.raises(HeadNotReady, match="not backed up"):
            ask(catalog, replace(leaving, state=state))
    assert catalog.snapshots.list_in_progress() == []


def test_one_snapshot_of_a_cluster_is_taken_at_a_time(catalog: Catalog) -> None:
    asked = with_head(catalog, HeadState.FOLLOWING)
    first = ask(catalog, asked)
    with pytest.raises(SnapshotInProgress, match=first.id):
        ask(catalog, asked)
    catalog.snapshots.update(first.id, state=SnapshotState.COMPLETE)
    assert first.id != ask(catalog, asked).id


def test_a_snapshot_whose_job_was_lost_in_a_crash_gets_it_later_and_once(catalog: Catalog) -> None:
    asked = with_head(catalog, HeadState.FOLLOWING)
    snapshot = ask(catalog, asked)
    before = catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))
    enqueue_snapshot(snapshot, catalog=catalog, clock=CLOCK)
    assert before == catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id))
    assert before is not None
    assert before.not_before <= CLOCK.now() + timedelta(seconds=1)


def test_a_crash_right_after_leaves_record_and_job(catalog: Catalog) -> None:
    asked = with_head(catalog, HeadState.FOLLOWING)

    def crash(name: str) -> None:
        assert name == "snapshot.recorded"
        raise KeyboardInterrupt

    crash_points.arm(crash)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask(catalog, asked)
    finally:
        crash_points.arm(None)
    (snapshot,) = catalog.snapshots.list_in_progress()
    assert catalog.jobs.find(job_id(JobKind.SNAPSHOT, snapshot.id)) is not None
