"""Leases by name, schedules, and the two who want one deleted snapshot."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

from ebbtide.catalog.catalog import Catalog
from ebbtide.domain.snapshot import SnapshotState

MINUTE = timedelta(minutes=1)


def test_a_lease_is_one_workers_until_it_runs_out(catalog: Catalog, make: SimpleNamespace) -> None:
    leases, now = catalog.leases, make.now
    assert leases.claim("x", worker_id="a", now=now, until=now + MINUTE)
    assert not leases.claim("x", worker_id="b", now=now, until=now + MINUTE)
    assert leases.claim("y", worker_id="b", now=now, until=now + MINUTE)
    assert leases.claim("x", worker_id="a", now=now, until=now + 2 * MINUTE)
    assert leases.renew("x", worker_id="a", now=now, until=now + 3 * MINUTE)
    assert not leases.renew("x", worker_id="b", now=now, until=now + MINUTE)
    later = now + 3 * MINUTE
    assert leases.find("x", now=later) is None
    # One that ran out is not renewed: somebody else may have come and gone.
    assert not leases.renew("x", worker_id="a", now=later, until=later + MINUTE)
    assert leases.claim("x", worker_id="b", now=later, until=later + MINUTE)
    held = leases.find("x", now=later)
    assert held is not None
    assert held.worker_id == "b"


def test_a_lease_given_back_is_free(catalog: Catalog, make: SimpleNamespace) -> None:
    leases, now = catalog.leases, make.now
    for name in ("x", "y"):
        leases.claim(name, worker_id="a", now=now, until=now + MINUTE)
    leases.release("x", worker_id="b")
    assert leases.find("x", now=now) is not None
    leases.release("x", worker_id="a")
    assert leases.find("x", now=now) is None
    leases.release_all("a")
    assert leases.find("y", now=now) is None


def test_a_cluster_without_a_schedule_has_the_default_one(catalog: Catalog, make: SimpleNamespace) -> None:
    cluster = make.cluster()
    schedule = catalog.schedules.get(cluster)
    assert (schedule.interval_hours, schedule.retention_days) == (6, 2)
    assert (schedule.reference_hour, schedule.reference_minute) == (12, 0)
    changed = replace(schedule, interval_hours=24, reference_offset="-0800")
    catalog.schedules.put(changed)
    assert changed == catalog.schedules.get(cluster)


def test_of_bringing_back_and_removing_one_wins(catalog: Catalog, make: SimpleNamespace) -> None:
    snapshots, deleted = catalog.snapshots, SnapshotState.DELETED
    first, second = make.snapshot(state=deleted), make.snapshot(state=deleted)
    snapshots.insert(first)
    snapshots.insert(second)
    assert snapshots.change(first.id, only=deleted, unless_removed=True, removed=make.now) is not None
    back = {"state": SnapshotState.COMPLETE}
    assert snapshots.change(first.id, only=deleted, unless_removed=True, **back) is None
    assert snapshots.change(second.id, only=deleted, unless_removed=True, **back) is not None
    assert snapshots.change(second.id, only=deleted, unless_removed=True, removed=make.now) is None


def test_the_newest_slot_counts_whatever_became_of_it(catalog: Catalog, make: SimpleNamespace) -> None:
    assert catalog.snapshots.newest_slot(make.cluster_id) is None
    catalog.snapshots.insert(make.snapshot(scheduled_for=make.now, state=SnapshotState.FAILED))
    catalog.snapshots.insert(make.snapshot(scheduled_for=make.now - MINUTE, state=SnapshotState.COMPLETE))
    catalog.snapshots.insert(make.snapshot())
    assert make.now == catalog.snapshots.newest_slot(make.cluster_id)
    assert [make.cluster_id] == catalog.snapshots.list_cluster_ids()
