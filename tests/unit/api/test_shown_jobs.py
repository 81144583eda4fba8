"""What lists show of restore jobs, remembered by their stored bytes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import bson
import pytest

from ebbtide.api.families import Family
from ebbtide.api.shown_jobs import ShownJobs, job_document
from ebbtide.api.wire import Addresses, Document
from ebbtide.catalog.codec import from_document, to_document
from ebbtide.catalog.restore_jobs import RestoreJobCollection
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import BEGUN, READY, RestoreJob
from ebbtide.restore.links import seal_new_download_key
from ebbtide.sealing import ServiceKey

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ATLAS, CLOUD = Addresses("https://here"), Addresses("https://here", Family.CLOUD)


class Jobs:
    """Stands in for the catalog's collection, and counts what is read."""

    def __init__(self) -> None:
        self.read = 0

    def read_stored(self, stored: bytes) -> RestoreJob:
        self.read += 1
        options = bson.CodecOptions[Document](tz_aware=True)
        return from_document(RestoreJob, bson.decode(stored, options))


@pytest.fixture
def service_key() -> ServiceKey:
    return ServiceKey(bytes(32))


@pytest.fixture
def job(service_key: ServiceKey) -> RestoreJob:
    job = RestoreJob(
        id=RestoreJobId("5f0000000000000000000002"),
        group_id=GroupId("5f0000000000000000000001"),
        cluster_id=ClusterId("5f00000000000000000000c1"),
        cluster_name="Cluster0",
        replica_set_name="rs0",
        snapshot_id=SnapshotId("5f0000000000000000000003"),
        created=NOW,
        status=READY[0],
        delivery_status=READY[1],
        timestamp=OplogTimestamp(1516661094, 7),
        expiration_hours=1,
        max_downloads=1,
        requested_by="somebody",
        expires=NOW + timedelta(hours=1),
        file_name="rs0.tar.gz",
    )
    return replace(job, download_key=seal_new_download_key(job, service_key))


def shown(jobs: ShownJobs, job: RestoreJob, *, now: datetime = NOW, **options: Any) -> Document:
    view = jobs.view(options.pop("addresses", ATLAS), may_download=options.pop("may_download", True))
    return view.document(bson.encode(to_document(job)), now=now)


def test_a_job_is_read_once_and_shown_as_if_it_were_read_each_time(
    job: RestoreJob, service_key: ServiceKey
) -> None:
    stored = Jobs()
    jobs = ShownJobs(cast(RestoreJobCollection, stored), service_key)
    expected = job_document(job, now=NOW, addresses=ATLAS, may_download=True, service_key=service_key)
    assert [expected] * 3 == [shown(jobs, job) for _ in range(3)]
    assert stored.read == 1


def test_whatever_changes_in_the_catalog_is_seen_at_once(job: RestoreJob, service_key: ServiceKey) -> None:
    jobs = ShownJobs(cast(RestoreJobCollection, Jobs()), service_key)
    assert shown(jobs, job)["delivery"]["statusName"] == "READY"
    begun = replace(job, status=BEGUN[0], delivery_status=BEGUN[1])
    assert shown(jobs, begun)["delivery"]["statusName"] == "IN_PROGRESS"
    hashed = replace(job, sha1="ab" * 20, completed_downloads=1)
    assert shown(jobs, hashed)["hashes"][0]["hash"] == "ab" * 20


def test_a_remembered_link_is_for_those_who_may_have_one_and_until_it_expires(
    job: RestoreJob, service_key: ServiceKey
) -> None:
    jobs = ShownJobs(cast(RestoreJobCollection, Jobs()), service_key)
    for _ in range(2):
        assert "url" in shown(jobs, job)["delivery"]
        assert "url" not in shown(jobs, job, may_download=False)["delivery"]
        later = shown(jobs, job, now=NOW + timedelta(hours=1))
        assert later["delivery"]["statusName"] == "EXPIRED"


def test_each_family_has_its_own_addresses(job: RestoreJob, service_key: ServiceKey) -> None:
    jobs = ShownJobs(cast(RestoreJobCollection, Jobs()), service_key)
    hrefs = [shown(jobs, job, addresses=addresses)["links"][0]["href"] for addresses in (ATLAS, CLOUD, ATLAS)]
    assert ["/atlas/" in href for href in hrefs] == [True, False, True]


def test_what_was_forgotten_is_read_again(job: RestoreJob, service_key: ServiceKey) -> None:
    stored = Jobs()
    jobs = ShownJobs(cast(RestoreJobCollection, stored), service_key, remembered_max=1)
    other = replace(job, cluster_name="Cluster1")
    for one in (job, other, job):
        assert shown(jobs, one)["clusterName"] == one.cluster_name
    assert stored.read == 3
