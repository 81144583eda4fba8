"""Restore jobs as the families of the hosted services show them, and those that were shown a moment ago.

Who waits for a restore asks for the same list over and over, and most of its jobs never change again. So what a list
shows of a job is remembered by the job's own stored bytes: whatever the catalog changes of it, in this process or in
another, makes other bytes. Who may see links, the family and whether the link has expired are told apart as well.

Invariant: what is remembered is what would be made anew; forgetting any of it costs time and nothing else. It is in this
process's memory alone, like the service key that opens the links.
"""

from contextlib import suppress
from datetime import datetime
from functools import lru_cache

from ebbtide.api.wire import Addresses, Document, restore_job_document
from ebbtide.catalog.restore_jobs import RestoreJobCollection
from ebbtide.domain.restore_job import RestoreJob, RestoreStatus
from ebbtide.restore.links import open_download_key
from ebbtide.sealing import SealBroken, ServiceKey

REMEMBERED_MAX = 1_000
"""In each view: two of the largest pages, in about 5 MB."""


def job_document(
    job: RestoreJob, *, now: datetime, addresses: Addresses, may_download: bool, service_key: ServiceKey
) -> Document:
    """A job's document, with a link for whoever may have one."""
    key = None
    if may_download and job.status is RestoreStatus.FINISHED and job.download_key is not None:
        # After the loss of the service key jobs are still to be seen; their links are lost with it.
        with suppress(SealBroken):
            key = open_download_key(job, service_key)
    return restore_job_document(job, now=now, addresses=addresses, download_key=key)


class ShownJobs:
    """Views of stored restore jobs. Safe to use from many threads; nobody may change what they give out."""

    def __init__(
        self, jobs: RestoreJobCollection, service_key: ServiceKey, *, remembered_max: int = REMEMBERED_MAX
    ) -> None:
        self._jobs = jobs
        self._service_key = service_key
        self._remembered_max = remembered_max
        self._views: dict[tuple[Addresses, bool], View] = {}

    def view(self, addresses: Addresses, *, may_download: bool) -> "View":
        """What callers see who may, or may not, have links, in one family; there are only a few of these."""
        key = (addresses, may_download)
        view = self._views.get(key)
        if view is None:
            made = View(self._jobs, self._service_key, addresses, may_download, self._remembered_max)
            view = self._views.setdefault(key, made)
        return view


class View:
    """Documents of stored restore jobs, as some callers see them."""

    def __init__(
        self,
        jobs: RestoreJobCollection,
        service_key: ServiceKey,
        addresses: Addresses,
        may_download: bool,
        remembered_max: int,
    ) -> None:
        def read(stored: bytes) -> _ShownJob:
            return _ShownJob(
                jobs.read_stored(stored), addresses, may_download=may_download, service_key=service_key
            )

        self._remembered = lru_cache(maxsize=remembered_max)(read)

    def document(self, stored: bytes, *, now: datetime) -> Document:
        """The document of one item of `RestoreJobCollection.page_as_stored`."""
        return self._remembered(stored).at(now)


class _ShownJob:
    """One job before and after its link expires; each document is made when it is first asked for."""

    def __init__(
        self, job: RestoreJob, addresses: Addresses, *, may_download: bool, service_key: ServiceKey
    ) -> None:
        self._job = job
        self._addresses = addresses
        self._may_download = may_download
        self._service_key = service_key
        self._documents: dict[bool, Document] = {}

    def at(self, now: datetime) -> Document:
        has_expired = self._job.expires is not None and now >= self._job.expires
        document = self._documents.get(has_expired)
        if document is None:
            document = self._documents[has_expired] = job_document(
                self._job,
                now=now,
                addresses=self._addresses,
                may_download=self._may_download,
                service_key=self._service_key,
            )
        return document
