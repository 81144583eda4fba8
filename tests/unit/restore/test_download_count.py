"""A download whose api process died under it is counted in the end, on a real catalog."""

from datetime import timedelta

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.domain.download import IN_FLIGHT_BYTES, TRANSFER_STALE_AFTER, Transfer
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId, new_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import READY, DeliveryStatus, RestoreJob
from ebbtide.restore.download_count import settle_lost_transfers

CLOCK = SystemClock()
MIB = IN_FLIGHT_BYTES


def ready_job(catalog: Catalog) -> RestoreJob:
    job = RestoreJob(
        id=RestoreJobId(new_id()),
        group_id=GroupId(new_id()),
        cluster_id=ClusterId(new_id()),
        cluster_name="shop",
        replica_set_name="rs0",
        snapshot_id=SnapshotId(new_id()),
        created=CLOCK.now(),
        status=READY[0],
        delivery_status=READY[1],
        timestamp=OplogTimestamp(1700000000, 1),
        expiration_hours=24,
        max_downloads=1,
        requested_by="abcdefgh",
        archive_bytes=20 * MIB,
    )
    catalog.restore_jobs.insert(job)
    return job


def test_a_download_that_outlived_its_api_process_is_counted(catalog: Catalog) -> None:
    job, now = ready_job(catalog), CLOCK.now()
    begun = now - timedelta(minutes=2)

    def record(first: int, sent_bytes: int, *, after: int, is_ended: bool) -> None:
        started = begun + timedelta(seconds=after)
        catalog.transfers.insert(
            Transfer(
                id=new_id(),
                job_id=job.id,
                first=first,
                end=20 * MIB,
                sent_bytes=sent_bytes,
                started=started,
                updated=started,
                ended=started if is_ended else None,
            )
        )

    # It told 3 MiB, died at 6, and its client went on there.
    record(0, 3 * MIB, after=0, is_ended=False)
    record(6 * MIB, 14 * MIB, after=5, is_ended=True)

    settle_lost_transfers(catalog=catalog, clock=CLOCK, now=begun + TRANSFER_STALE_AFTER)
    assert catalog.transfers.list_lost(now)
    settle_lost_transfers(catalog=catalog, clock=CLOCK, now=now)

    found = catalog.restore_jobs.find(job.id)
    assert found is not None
    assert (found.completed_downloads, found.delivery_status) == (1, DeliveryStatus.MAX_DOWNLOADS_EXCEEDED)
    assert not [t for t in catalog.transfers.list_lost(now) if t.job_id == job.id]
