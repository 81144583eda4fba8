"""Clusters, heads and snapshots: names, leases, order."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest

from ebbtide.catalog.catalog import Catalog
from ebbtide.catalog.clusters import NameTaken
from ebbtide.domain.cluster import ClusterState, HeadState
from ebbtide.domain.ids import ClusterId, SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.snapshot import SnapshotState

SECOND = timedelta(seconds=1)
LEASE = timedelta(seconds=15)


def test_a_cluster_comes_back_as_it_was_stored(catalog: Catalog, make: SimpleNamespace) -> None:
    cluster = make.cluster(username="u", password=make.sealed, oplog_bytes=2**40)
    catalog.clusters.insert(cluster)
    assert cluster == catalog.clusters.find(cluster.id)
    assert cluster == catalog.clusters.find_by_name(cluster.group_id, cluster.name)
    assert catalog.clusters.find(ClusterId("5f00000000000000000000ff")) is None


def test_a_name_is_taken_once_a_group(catalog: Catalog, make: SimpleNamespace) -> None:
    catalog.clusters.insert(make.cluster())
    with pytest.raises(NameTaken):
        catalog.clusters.insert(make.cluster())
    catalog.clusters.insert(make.cluster(group_id="5f00000000000000000000ee"))
    catalog.clusters.insert(make.cluster(name="shop2"))


def test_of_many_who_want_a_name_at_once_one_gets_it(catalog: Catalog, make: SimpleNamespace) -> None:
    def insert(_: int) -> bool:
        try:
            catalog.clusters.insert(make.cluster())
        except NameTaken:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert [took for took in pool.map(insert, range(8)) if took] == [True]


def test_a_name_is_free_only_once_the_cluster_is_removed(catalog: Catalog, make: SimpleNamespace) -> None:
    old = make.cluster()
    catalog.clusters.insert(old)
    catalog.clusters.set_state(old.id, ClusterState.REMOVING)
    with pytest.raises(NameTaken):
        catalog.clusters.insert(make.cluster())
    assert [old.id] == [cluster.id for cluster in catalog.clusters.list_live()]
    catalog.clusters.set_state(old.id, ClusterState.REMOVED)
    assert catalog.clusters.list_live() == []
    found = catalog.clusters.find_by_name(old.group_id, old.name)
    assert found is not None
    assert (old.id, ClusterState.REMOVED) == (found.id, found.state)
    new = make.cluster(created=make.now - SECOND)
    catalog.clusters.insert(new)
    assert new == catalog.clusters.find_by_name(old.group_id, old.name)
    assert catalog.clusters.count_in_group(old.group_id) == 1


def test_of_removed_clusters_the_last_one_answers_to_the_name(
    catalog: Catalog, make: SimpleNamespace
) -> None:
    for age in (3, 1, 2):
        cluster = make.cluster(created=make.now - age * SECOND)
        catalog.clusters.insert(cluster)
        catalog.clusters.set_state(cluster.id, ClusterState.REMOVED)
    found = catalog.clusters.find_by_name(make.group_id, "shop")
    assert found is not None
    assert make.now - SECOND == found.created


def test_clusters_are_listed_by_name(catalog: Catalog, make: SimpleNamespace) -> None:
    for name in ("b", "a", "c"):
        catalog.clusters.insert(make.cluster(name=name))
    assert [c.name for c in catalog.clusters.list_in_group(make.group_id)] == ["a", "b", "c"]


def test_a_set_may_be_upgraded(catalog: Catalog, make: SimpleNamespace) -> None:
    cluster = make.cluster()
    catalog.clusters.insert(cluster)
    catalog.clusters.set_version(cluster.id, mongod_version="7.0.1", fcv="7.0")
    found = catalog.clusters.find(cluster.id)
    assert found is not None
    assert (found.mongod_version, found.fcv) == ("7.0.1", "7.0")


def test_a_head_belongs_to_one_worker_until_its_lease_runs_out(
    catalog: Catalog, make: SimpleNamespace
) -> None:
    catalog.heads.insert(make.head())
    catalog.heads.insert(make.head(state=HeadState.FAILED))  # harmless
    now, until = make.now, make.now + LEASE
    one = catalog.heads.claim(make.cluster_id, worker_id="one", now=now, until=until)
    assert one is not None
    assert (HeadState.PROVISIONING, "one", until) == (one.state, one.lease_worker_id, one.lease_until)
    assert catalog.heads.claim(make.cluster_id, worker_id="two", now=until, until=until + LEASE) is None
    # Renewed by its holder, and only then does it run out later.
    assert catalog.heads.claim(make.cluster_id, worker_id="one", now=until, until=until + LEASE) is not None
    late = until + LEASE + timedelta(milliseconds=1)
    assert catalog.heads.claim(make.cluster_id, worker_id="two", now=late, until=late + LEASE) is not None
    assert catalog.heads.claim(make.cluster_id, worker_id="one", now=late, until=late + LEASE) is None


def test_of_many_workers_one_gets_the_head(catalog: Catalog, make: SimpleNamespace) -> None:
    catalog.heads.insert(make.head())

    def claim(number: int) -> bool:
        found = catalog.heads.claim(
            make.cluster_id, worker_id=f"w{number}", now=make.now, until=make.now + LEASE
        )
        return found is not None

    with ThreadPoolExecutor(8) as pool:
        assert [took for took in pool.map(claim, range(16)) if took] == [True]


def test_who_lost_the_lease_changes_nothing(catalog: Catalog, make: SimpleNamespace) -> None:
    catalog.heads.insert(make.head())
    catalog.heads.claim(make.cluster_id, worker_id="one", now=make.now, until=make.now + LEASE)
    changed = catalog.heads.update(
        make.cluster_id,
        worker_id="one",
        now=make.now + SECOND,
        state=HeadState.SYNCING,
        lag_seconds=1.5,
        lock_job_id="SNAPSHOT:x",
    )
    assert changed is not None
    assert (changed.state, changed.lag_seconds, changed.updated) == (
        HeadState.SYNCING,
        1.5,
        make.now + SECOND,
    )
    assert catalog.heads.update(make.cluster_id, worker_id="two", now=make.now, lag_seconds=9.0) is None
    assert changed == catalog.heads.find(make.cluster_id)
    assert [changed] == catalog.heads.list_all()


def test_a_worker_that_is_gone_gives_up_its_heads_and_no_others(
    catalog: Catalog, make: SimpleNamespace
) -> None:
    ids = [ClusterId(f"5f00000000000000000000{number:02x}") for number in range(3)]
    for number, head_id in enumerate(ids):
        catalog.heads.insert(make.head(id=head_id))
        worker = "gone" if number < 2 else "alive"
        catalog.heads.claim(head_id, worker_id=worker, now=make.now, until=make.now + LEASE)
    catalog.heads.release_all("gone")
    took = [
        catalog.heads.claim(head_id, worker_id="next", now=make.now, until=make.now + LEASE) is not None
        for head_id in ids
    ]
    assert took == [True, True, False]


def test_snapshots_are_paged_newest_first_with_a_stable_order(
    catalog: Catalog, make: SimpleNamespace
) -> None:
    snapshots = [
        make.snapshot(
            id=SnapshotId(f"5f00000000000000000000{number:02x}"),
            created=make.now + SECOND * (number // 4),  # several of one moment
            state=SnapshotState.COMPLETE if number % 2 else SnapshotState.IN_PROGRESS,
        )
        for number in range(10)
    ]
    for snapshot in snapshots:
        catalog.snapshots.insert(snapshot)
    catalog.snapshots.insert(snapshots[0])  # harmless
    catalog.snapshots.insert(make.snapshot(cluster_id=ClusterId("5f00000000000000000000ee")))
    every = tuple(SnapshotState)
    paged = [
        snapshot
        for page in range(4)
        for snapshot in catalog.snapshots.page(make.cluster_id, states=every, skip=3 * page, limit=3)
    ]
    assert snapshots[::-1] == paged
    complete = (SnapshotState.COMPLETE,)
    assert snapshots[::-2] == catalog.snapshots.page(make.cluster_id, states=complete, skip=0, limit=10)
    assert tuple(catalog.snapshots.count(make.cluster_id, states=s) for s in (every, complete)) == (10, 5)
    assert snapshots[9] == catalog.snapshots.newest_complete(make.cluster_id)
    assert {s.id for s in snapshots[::2]} < {s.id for s in catalog.snapshots.list_in_progress()}


def test_a_snapshot_that_has_ended_is_not_changed_any_more(catalog: Catalog, make: SimpleNamespace) -> None:
    snapshot = make.snapshot()
    catalog.snapshots.insert(snapshot)
    done = catalog.snapshots.update(
        snapshot.id,
        state=SnapshotState.COMPLETE,
        stable_timestamp=OplogTimestamp(2**32 - 1, 2**32 - 1),
        file_size_bytes=2**50,
        lock_seconds=0.25,
    )
    assert done is not None
    assert OplogTimestamp(2**32 - 1, 2**32 - 1) == done.stable_timestamp
    assert catalog.snapshots.update(snapshot.id, state=SnapshotState.FAILED) is None
    assert done == catalog.snapshots.find(snapshot.id)
