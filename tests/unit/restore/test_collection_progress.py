"""The progress of very many collections: what is written of them is bounded, and how often."""

from datetime import UTC, datetime

import bson

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.domain.automated_restore import (
    COLLECTIONS_SHOWN_MAX,
    AutomatedRestore,
    CollectionProgress,
    RestoreScope,
)
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, new_id
from ebbtide.domain.progress import NoProgress
from ebbtide.restore.collection_progress import CollectionReport


class StandingClock(SystemClock):
    """Time stands still."""

    def monotonic(self) -> float:
        return 1.0


def insert_restore(catalog: Catalog) -> RestoreJobId:
    restore = AutomatedRestore(
        id=RestoreJobId(new_id()),
        target_group_id=GroupId(new_id()),
        target_cluster_id=ClusterId(new_id()),
        target_name="shop",
        scope=RestoreScope(),
        requested=datetime.now(UTC),
    )
    catalog.automated_restores.insert(restore)
    return restore.id


def progress(number: int) -> CollectionProgress:
    return CollectionProgress(
        namespace=f"{number:0255d}", documents=0, documents_total=2, size_bytes=0, size_bytes_total=2**40
    )


def test_ten_thousand_collections_with_long_names_take_a_bounded_record(catalog: Catalog) -> None:
    job_id = insert_restore(catalog)
    found = [progress(number) for number in range(10_000)]
    report = CollectionReport(job_id, found, catalog=catalog, clock=SystemClock(), progress=NoProgress())
    report.loaded(found[-1].namespace, documents=1, size_bytes=1)
    report.finished(found[0].namespace)
    report.write()

    record = catalog.automated_restores.find(job_id)
    assert record is not None
    assert (record.collections_total, record.collections_done) == (10_000, 1)
    assert len(record.collections) == COLLECTIONS_SHOWN_MAX
    # What is under way comes first.
    assert record.collections[0].namespace == found[-1].namespace
    document = catalog._database.automated_restores.find_one({"_id": job_id})
    assert len(bson.encode(document or {})) < 2**20
    assert catalog.automated_restores.find_finished(job_id) == {found[0].namespace}


def test_a_finished_collection_is_recorded_at_once_and_the_rest_now_and_then(catalog: Catalog) -> None:
    job_id = insert_restore(catalog)
    found = [progress(number) for number in range(3)]
    report = CollectionReport(job_id, found, catalog=catalog, clock=StandingClock(), progress=NoProgress())
    for collection in found:
        report.loaded(collection.namespace, documents=2, size_bytes=2)
        report.finished(collection.namespace)

    record = catalog.automated_restores.find(job_id)
    assert record is not None
    assert record.collections_done == 0
    assert len(catalog.automated_restores.find_finished(job_id)) == 3
    report.write()
    record = catalog.automated_restores.find(job_id)
    assert record is not None
    assert record.collections_done == 3
