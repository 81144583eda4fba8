"""The queue: order, filters, leases."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

from ebbtide.catalog.catalog import Catalog
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.job import Job, JobKind, JobState
from ebbtide.domain.progress import Progress

SECOND = timedelta(seconds=1)
LEASE = timedelta(seconds=15)


def claim(
    catalog: Catalog,
    make: SimpleNamespace,
    *,
    worker: str = "one",
    after: timedelta = timedelta(0),
    clusters: tuple[ClusterId, ...] = (),
) -> Job | None:
    now = make.now + after
    return catalog.jobs.claim(worker_id=worker, now=now, until=now + LEASE, snapshot_cluster_ids=clusters)


def test_the_oldest_waiting_job_is_claimed_first(catalog: Catalog, make: SimpleNamespace) -> None:
    jobs = [make.job(created=make.now - age * SECOND) for age in (1, 3, 2)]
    for job in jobs:
        catalog.jobs.enqueue(job)
    order = [claim(catalog, make) for _ in range(4)]
    assert [jobs[1].id, jobs[2].id, jobs[0].id, None] == [job.id if job else None for job in order]
    assert order[0] is not None
    assert (JobState.RUNNING, "one", make.now + LEASE, 1) == (
        order[0].state,
        order[0].lease_worker_id,
        order[0].lease_until,
        order[0].attempts,
    )


def test_a_job_waits_for_its_time(catalog: Catalog, make: SimpleNamespace) -> None:
    catalog.jobs.enqueue(make.job(not_before=make.now + SECOND))
    assert claim(catalog, make) is None
    assert claim(catalog, make, after=SECOND) is not None


def test_enqueueing_twice_is_harmless_even_after_the_end(catalog: Catalog, make: SimpleNamespace) -> None:
    job = make.job()
    catalog.jobs.enqueue(job)
    assert claim(catalog, make) is not None
    assert catalog.jobs.finish(job.id, worker_id="one", state=JobState.DONE)
    catalog.jobs.enqueue(job)
    assert claim(catalog, make, after=timedelta(days=1)) is None
    found = catalog.jobs.find(job.id)
    assert found is not None
    assert found.state is JobState.DONE


def test_a_snapshot_is_claimed_only_where_its_head_is_held(catalog: Catalog, make: SimpleNamespace) -> None:
    snapshot = make.job(kind=JobKind.SNAPSHOT, created=make.now - SECOND)
    restore = make.job()
    for job in (snapshot, restore):
        catalog.jobs.enqueue(job)
    other = ClusterId("5f00000000000000000000ee")
    first = claim(catalog, make, clusters=(other,))
    assert first is not None
    assert restore.id == first.id
    assert claim(catalog, make, clusters=(other,)) is None
    taken = claim(catalog, make, clusters=(other, make.cluster_id))
    assert taken is not None
    assert snapshot.id == taken.id


def test_of_many_workers_each_gets_a_job_of_its_own(catalog: Catalog, make: SimpleNamespace) -> None:
    for _ in range(6):
        catalog.jobs.enqueue(make.job())
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda n: claim(catalog, make, worker=f"w{n}"), range(12)))
    ids = [job.id for job in taken if job is not None]
    assert len(ids) == 6
    assert len(set(ids)) == 6


def test_a_dead_workers_job_is_taken_over_when_its_lease_ran_out(
    catalog: Catalog, make: SimpleNamespace
) -> None:
    job = make.job()
    catalog.jobs.enqueue(job)
    assert claim(catalog, make, worker="one") is not None
    assert claim(catalog, make, worker="two", after=LEASE) is None
    taken = claim(catalog, make, worker="two", after=LEASE + timedelta(milliseconds=1))
    assert taken is not None
    assert (taken.attempts, taken.lease_worker_id) == (2, "two")
    # The first worker comes back to life: nothing that it does has an effect.
    assert catalog.jobs.heartbeat(job.id, worker_id="one", until=make.now + 9 * LEASE) is None
    assert catalog.jobs.record(job.id, worker_id="one", step="late") is None
    assert not catalog.jobs.finish(job.id, worker_id="one", state=JobState.DONE)
    assert not catalog.jobs.put_back(job.id, worker_id="one")
    assert taken == catalog.jobs.find(job.id)


def test_a_worker_does_not_claim_what_it_still_works_on(catalog: Catalog, make: SimpleNamespace) -> None:
    """As after a pause beyond its lease: the lease names the worker alone, and its run would go on as the owner."""
    job = make.job()
    catalog.jobs.enqueue(job)
    assert claim(catalog, make) is not None
    now = make.now + 2 * LEASE
    again = {"worker_id": "one", "now": now, "until": now + LEASE, "snapshot_cluster_ids": ()}
    assert catalog.jobs.claim(**again, except_ids=[job.id]) is None
    assert catalog.jobs.claim(**again, except_ids=["RESTORE:another"]) is not None


def test_a_heartbeat_renews_the_lease_and_tells_of_a_cancel(catalog: Catalog, make: SimpleNamespace) -> None:
    job = make.job()
    catalog.jobs.enqueue(job)
    claim(catalog, make)
    renewed = catalog.jobs.heartbeat(job.id, worker_id="one", until=make.now + 3 * LEASE)
    assert renewed is not None
    assert (make.now + 3 * LEASE, False) == (renewed.lease_until, renewed.cancel_requested)
    assert claim(catalog, make, worker="two", after=2 * LEASE) is None
    catalog.jobs.request_cancel(job.id)
    renewed = catalog.jobs.heartbeat(job.id, worker_id="one", until=make.now + 3 * LEASE)
    assert renewed is not None
    assert renewed.cancel_requested


def test_progress_is_part_of_the_job(catalog: Catalog, make: SimpleNamespace) -> None:
    job = make.job()
    catalog.jobs.enqueue(job)
    claim(catalog, make)
    progress = Progress(
        phase="store", done=2**40, total=None, unit="bytes", started=make.now, updated=make.now + SECOND
    )
    catalog.jobs.record(job.id, worker_id="one", progress=progress, step="store")
    found = catalog.jobs.find(job.id)
    assert found is not None
    assert (progress, "store") == (found.progress, found.step)


def test_a_waiting_job_is_cancelled_at_once_and_an_ended_one_never(
    catalog: Catalog, make: SimpleNamespace
) -> None:
    waiting, ended = make.job(created=make.now + SECOND), make.job()
    for job in (waiting, ended):
        catalog.jobs.enqueue(job)
    claimed = claim(catalog, make)
    assert claimed is not None
    assert ended.id == claimed.id
    catalog.jobs.finish(ended.id, worker_id="one", state=JobState.DONE)
    cancelled, still_done = (catalog.jobs.request_cancel(job.id) for job in (waiting, ended))
    assert cancelled is not None
    assert still_done is not None
    assert (cancelled.state, still_done.state) == (JobState.CANCELLED, JobState.DONE)
    assert claim(catalog, make, after=SECOND) is None
    assert catalog.jobs.request_cancel("RESTORE:nothing") is None


def test_a_job_that_is_put_back_waits_again(catalog: Catalog, make: SimpleNamespace) -> None:
    job = make.job()
    catalog.jobs.enqueue(job)
    claim(catalog, make)
    changes = {"failures": 1, "first_failed": make.now, "not_before": make.now + SECOND, "error": "full"}
    assert catalog.jobs.put_back(job.id, worker_id="one", **changes)
    found = catalog.jobs.find(job.id)
    assert found is not None
    assert (
        found.state,
        found.lease_worker_id,
        found.failures,
        found.error,
    ) == (JobState.QUEUED, None, 1, "full")
    assert claim(catalog, make) is None
    assert claim(catalog, make, after=SECOND) is not None


def test_a_worker_that_is_gone_gives_its_jobs_back_and_no_others(
    catalog: Catalog, make: SimpleNamespace
) -> None:
    jobs = [make.job(created=make.now + number * SECOND) for number in range(3)]
    for job in jobs:
        catalog.jobs.enqueue(job)
    for worker in ("gone", "gone", "alive"):
        claim(catalog, make, worker=worker)
    assert catalog.jobs.finish(jobs[1].id, worker_id="gone", state=JobState.FAILED, error="why")
    catalog.jobs.release_all("gone")
    found = [catalog.jobs.find(job.id) for job in jobs]
    states = [job.state for job in found if job is not None]
    assert states == [JobState.QUEUED, JobState.FAILED, JobState.RUNNING]
