"""Restore jobs change along their table only, whoever writes at once; transfers are kept in order."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ebbtide.catalog.catalog import Catalog
from ebbtide.catalog.codec import to_document
from ebbtide.domain.ids import ClusterId, RestoreJobId, new_id
from ebbtide.domain.restore_job import (
    BEGUN,
    BROKEN,
    DAMAGED,
    EXPIRED,
    KILLED,
    NEW,
    READY,
    USED_UP,
    RestoreEvent,
    RestoreState,
    apply_event,
)

SECOND = timedelta(seconds=1)
STATES = (NEW, BEGUN, READY, EXPIRED, USED_UP, BROKEN, KILLED, DAMAGED)


def test_a_restore_job_comes_back_as_it_was_stored(catalog: Catalog, make: SimpleNamespace) -> None:
    job = make.restore_job(download_key=make.sealed, expires=make.now, archive_bytes=2**50)
    catalog.restore_jobs.insert(job)
    catalog.restore_jobs.insert(make.restore_job(id=job.id, reason="another"))  # harmless
    assert job == catalog.restore_jobs.find(job.id)
    assert catalog.restore_jobs.find(RestoreJobId("5f00000000000000000000ff")) is None


@pytest.mark.parametrize("state", STATES)
def test_every_event_is_applied_as_the_table_says(
    catalog: Catalog, make: SimpleNamespace, state: RestoreState
) -> None:
    for event in RestoreEvent:
        job = make.restore_job(status=state[0], delivery_status=state[1])
        catalog.restore_jobs.insert(job)
        after = catalog.restore_jobs.apply(job.id, event, reason="why")
        expected = apply_event(state, event)
        found = catalog.restore_jobs.find(job.id)
        assert found is not None
        if expected is None:
            assert after is None
            assert job == found
        else:
            assert after == found
            assert (expected, "why") == (found.state, found.reason)


@pytest.mark.parametrize("round_", range(5))
def test_of_events_that_race_one_wins_and_the_others_see_it(
    catalog: Catalog, make: SimpleNamespace, round_: int
) -> None:
    job = make.restore_job(status=BEGUN[0], delivery_status=BEGUN[1])
    catalog.restore_jobs.insert(job)
    events = [RestoreEvent.LINK_READY, RestoreEvent.FAILED] * 4
    events = events[round_ % 2 :] + events[: round_ % 2]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda event: catalog.restore_jobs.apply(job.id, event), events))
    winners = [result for result in results if result is not None]
    assert len(winners) == 1
    assert winners[0] == catalog.restore_jobs.find(job.id)


def test_a_cancel_is_never_lost_between_the_states_that_a_job_passes(
    catalog: Catalog, make: SimpleNamespace
) -> None:
    for _ in range(10):
        job = make.restore_job()
        catalog.restore_jobs.insert(job)

        def work(job_id: RestoreJobId = job.id) -> None:
            catalog.restore_jobs.apply(job_id, RestoreEvent.WORKER_BEGAN)
            catalog.restore_jobs.apply(job_id, RestoreEvent.LINK_READY)

        with ThreadPoolExecutor(2) as pool:
            working = pool.submit(work)
            cancelled = pool.submit(catalog.restore_jobs.apply, job.id, RestoreEvent.CANCELLED).result()
            working.result()
        found = catalog.restore_jobs.find(job.id)
        assert cancelled is not None
        assert found is not None
        assert found.state == KILLED


def test_restore_jobs_are_paged_newest_first_with_a_stable_order(
    catalog: Catalog, make: SimpleNamespace
) -> None:
    jobs = [
        make.restore_job(
            id=RestoreJobId(f"5f00000000000000000000{number:02x}"), created=make.now + SECOND * (number // 4)
        )
        for number in range(10)
    ]
    for job in jobs:
        catalog.restore_jobs.insert(job)
    catalog.restore_jobs.insert(make.restore_job(cluster_id=ClusterId("5f00000000000000000000ee")))
    pages = [catalog.restore_jobs.page(make.cluster_id, skip=3 * page, limit=3) for page in range(4)]
    assert jobs[::-1] == list(itertools.chain.from_iterable(pages))
    stored = catalog.restore_jobs.page_as_stored(make.cluster_id, skip=3, limit=3)
    assert pages[1] == [catalog.restore_jobs.read_stored(one) for one in stored]
    assert catalog.restore_jobs.count(make.cluster_id) == 10


def test_the_last_page_of_100_000_jobs_costs_only_the_skip(
    catalog: Catalog, database: Any, make: SimpleNamespace
) -> None:
    """Counted, not timed: keys of the index are passed over, and only the page's documents are read."""
    document = to_document(make.restore_job())
    for start in range(0, 100_000, 10_000):
        database.restore_jobs.insert_many(
            document | {"_id": new_id(), "created": make.now + timedelta(seconds=number // 3)}
            for number in range(start, start + 10_000)
        )
    everything = database.restore_jobs.find({}, {"_id": 1}).sort([("created", -1), ("_id", -1)])
    wanted = [found["_id"] for found in everything]
    for skip in (0, 50_000, 99_500):
        page = catalog.restore_jobs.page(make.cluster_id, skip=skip, limit=500)
        assert [job.id for job in page] == wanted[skip : skip + 500]
        cursor = database.restore_jobs.find({"cluster_id": make.cluster_id})
        cursor = cursor.sort([("created", -1), ("_id", -1)]).skip(skip).limit(500)
        spent = cursor.explain()["executionStats"]
        assert spent["totalKeysExamined"] <= skip + 500
        assert spent["totalDocsExamined"] <= 500


def test_unfinished_and_expired_jobs_are_found(catalog: Catalog, make: SimpleNamespace) -> None:
    by_state = {}
    for state in STATES:
        job = make.restore_job(status=state[0], delivery_status=state[1], expires=make.now)
        by_state[state] = job
        catalog.restore_jobs.insert(job)
    catalog.restore_jobs.insert(
        make.restore_job(status=READY[0], delivery_status=READY[1], expires=make.now + SECOND)
    )
    unfinished = {job.id for job in catalog.restore_jobs.list_unfinished()}
    assert {by_state[NEW].id, by_state[BEGUN].id} == unfinished
    assert [by_state[READY]] == catalog.restore_jobs.list_expired(make.now)
    assert catalog.restore_jobs.list_expired(make.now - SECOND) == []


def test_the_count_of_downloads_never_goes_down(catalog: Catalog, make: SimpleNamespace) -> None:
    job = make.restore_job()
    catalog.restore_jobs.insert(job)
    counts = []
    for completed in (1, 3, 2):
        found = catalog.restore_jobs.raise_completed_downloads(job.id, completed)
        assert found is not None
        counts.append(found.completed_downloads)
    assert counts == [1, 3, 3]
    catalog.restore_jobs.set_sha1(job.id, "ab" * 20)
    found = catalog.restore_jobs.find(job.id)
    assert found is not None
    assert found.sha1 == "ab" * 20


def test_transfers_of_a_job_are_listed_oldest_first(catalog: Catalog, make: SimpleNamespace) -> None:
    late, early = make.transfer(started=make.now + SECOND), make.transfer()
    for transfer in (late, early, make.transfer(job_id="5f00000000000000000000ee")):
        catalog.transfers.insert(transfer)
    assert [early, late] == catalog.transfers.list_for_job(early.job_id)
    catalog.transfers.record_progress(early.id, sent_bytes=2**40, now=make.now + SECOND, ended=make.now)
    catalog.transfers.delete(late.id)
    (found,) = catalog.transfers.list_for_job(early.job_id)
    assert found.is_complete
    assert (make.now + SECOND, make.now) == (found.updated, found.ended)
