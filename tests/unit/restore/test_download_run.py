"""The steps of a download, with a real catalog and a stand-in for the archive: what each leaves, and running again."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ebbtide.backup.context import BackupContext
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId, new_id
from ebbtide.domain.job import JobState
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import BROKEN, DAMAGED, KILLED, NEW, READY, RestoreEvent, RestoreJob
from ebbtide.errors import IntegrityError, ObjectNotFound, Unreachable
from ebbtide.jobs.runner import JobRun, run_job
from ebbtide.repository.repository import Repository
from ebbtide.restore import download_run
from ebbtide.restore.download_run import DownloadRun
from ebbtide.restore.links import open_download_key
from ebbtide.restore.requesting import enqueue_restore
from ebbtide.sealing import ServiceKey
from ebbtide.settings import resolve_settings
from ebbtide.storage.directory import DirectoryStorage

CLOCK = SystemClock()
SHA1 = "ab" * 20


class StandInArchive:
    """An archive of 42 bytes whose hashing does what a test wants."""

    length_bytes = 42
    restore_info = "what it is"

    def __init__(self) -> None:
        self.on_hash: Callable[[], None] = lambda: None
        self.hashed = 0

    def hash(self, **_: Any) -> str:
        self.hashed += 1
        self.on_hash()
        return SHA1


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> StandInArchive:
    archive = StandInArchive()
    monkeypatch.setattr(download_run, "open_archive", lambda *_: archive)
    return archive


@pytest.fixture
def context(catalog: Catalog, tmp_path: Path) -> BackupContext:
    return BackupContext(
        settings=resolve_settings(flags={}, environment={}, file=None),
        directory=DataDirectory(tmp_path),
        catalog=catalog,
        service_key=ServiceKey(bytes(32)),
        clock=CLOCK,
        repository=Repository.create(DirectoryStorage(tmp_path / "repository"), now=CLOCK.now()),
        worker_id="w",
    )


@pytest.fixture
def restore(context: BackupContext) -> RestoreJob:
    job = RestoreJob(
        id=RestoreJobId(new_id()),
        group_id=GroupId("5f0000000000000000000001"),
        cluster_id=ClusterId("5f00000000000000000000c1"),
        cluster_name="shop",
        replica_set_name="rs0",
        snapshot_id=SnapshotId(new_id()),
        created=CLOCK.now(),
        status=NEW[0],
        delivery_status=NEW[1],
        timestamp=OplogTimestamp(1700000000, 1),
        expiration_hours=24,
        max_downloads=1,
        requested_by="abcdefgh",
        file_name="rs0.tar.gz",
    )
    context.catalog.restore_jobs.insert(job)
    enqueue_restore(job, catalog=context.catalog, clock=CLOCK)
    return job


def work(context: BackupContext) -> JobState:
    """Claim the job, run it as a worker does, and say how it stands afterwards."""
    # Later than now: a job that was put back may wait a moment.
    now = CLOCK.now() + timedelta(seconds=5)
    job = context.catalog.jobs.claim(
        worker_id="w", now=now, until=now + timedelta(minutes=1), snapshot_cluster_ids=[]
    )
    assert job is not None
    run = JobRun(job, catalog=context.catalog, clock=CLOCK, worker_id="w", stopping=threading.Event())
    download = DownloadRun(run, context=context)
    run_job(
        run,
        download.steps(),
        download.ending(),
        catalog=context.catalog,
        clock=CLOCK,
        worker_id="w",
        retry_for=timedelta(hours=1),
    )
    found = context.catalog.jobs.find(job.id)
    assert found is not None
    return found.state


def now_is(context: BackupContext, restore: RestoreJob) -> RestoreJob:
    found = context.catalog.restore_jobs.find(restore.id)
    assert found is not None
    return found


def test_the_link_is_ready_and_then_the_hash_is_known(
    context: BackupContext, restore: RestoreJob, archive: StandInArchive
) -> None:
    seen: list[RestoreJob] = []
    archive.on_hash = lambda: seen.append(now_is(context, restore))
    assert JobState.DONE is work(context)
    assert [(job.state, job.sha1) for job in seen] == [(READY, None)]
    found = now_is(context, restore)
    assert (found.sha1, found.archive_bytes) == (SHA1, 42)
    # Kept: the archive's bytes outlive a change of its wording.
    assert found.restore_info == "what it is"
    assert found.ready is not None
    assert found.expires == found.ready + timedelta(hours=24)
    assert len(open_download_key(found, context.service_key)) == 32


def test_an_interrupted_hash_is_taken_up_and_the_link_stays_the_same(
    context: BackupContext, restore: RestoreJob, archive: StandInArchive
) -> None:
    def fail() -> None:
        raise Unreachable("the storage does not answer")

    archive.on_hash = fail
    assert JobState.QUEUED is work(context)
    before = now_is(context, restore)
    assert (before.state, before.sha1) == (READY, None)
    archive.on_hash = lambda: None
    assert JobState.DONE is work(context)
    after = now_is(context, restore)
    assert (before.expires, before.download_key, SHA1) == (after.expires, after.download_key, after.sha1)
    assert archive.hashed == 2


@pytest.mark.parametrize("error", [IntegrityError("pack 7", "is damaged"), ObjectNotFound("pack 7")])
def test_damage_that_hashing_meets_kills_the_link_and_names_the_object(
    context: BackupContext, restore: RestoreJob, archive: StandInArchive, error: Exception
) -> None:
    def fail() -> None:
        raise error

    archive.on_hash = fail
    assert JobState.FAILED is work(context)
    found = now_is(context, restore)
    assert found.state == DAMAGED
    assert "pack 7" in found.reason


def test_a_snapshot_that_cannot_be_opened_breaks_the_job(
    context: BackupContext, restore: RestoreJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise IntegrityError("manifest", "is damaged")

    monkeypatch.setattr(download_run, "open_archive", fail)
    assert JobState.FAILED is work(context)
    found = now_is(context, restore)
    assert found.state == BROKEN
    assert "manifest" in found.reason
    assert found.download_key is None


def test_a_job_cancelled_while_it_was_prepared_gets_no_link(
    context: BackupContext, restore: RestoreJob, archive: StandInArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel(*_: object) -> StandInArchive:
        context.catalog.restore_jobs.apply(restore.id, RestoreEvent.CANCELLED)
        return archive

    monkeypatch.setattr(download_run, "open_archive", cancel)
    assert JobState.CANCELLED is work(context)
    found = now_is(context, restore)
    assert (found.state, found.download_key, archive.hashed) == (KILLED, None, 0)


def test_a_job_cancelled_before_it_began_is_left_alone(
    context: BackupContext, restore: RestoreJob, archive: StandInArchive
) -> None:
    context.catalog.restore_jobs.apply(restore.id, RestoreEvent.CANCELLED)
    assert JobState.CANCELLED is work(context)
    assert now_is(context, restore).state == KILLED
    assert archive.hashed == 0
