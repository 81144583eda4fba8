"""Download links: who may fetch what.

`v2` has the key in its address, `v3` in a header; neither asks for digest. A wrong job, key or file name gets one and
the same 404. What is allowed is sent by `api.sending` and written down by `api.transfer_books`.

Deciding happens in reader threads of this module's own, so that neither the event loop nor the threads of API calls
wait for a disk. Crash: a transfer that was entered and never told its progress counts as broken off after
`TRANSFER_STALE_AFTER`.
"""

import asyncio
import hmac
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response

from ebbtide.api.context import ApiContext
from ebbtide.api.queries import Presentation
from ebbtide.api.ranges import Part, Unsatisfiable, is_listed, resolve_range
from ebbtide.api.refusals import Refusal, refusal
from ebbtide.api.responses import render_refusal
from ebbtide.api.sending import ArchiveResponse, Sender, Sending, iter_chunks
from ebbtide.api.transfer_books import TransferBooks
from ebbtide.api.wire import AUTH_BEARER, effective_state, link_key
from ebbtide.domain.access_list import read_address
from ebbtide.domain.download import (
    Gone,
    TooMany,
    Transfer,
    decide_transfer,
)
from ebbtide.domain.ids import RestoreJobId, is_id, new_id
from ebbtide.domain.restore_job import RestoreJob, RestoreStatus
from ebbtide.errors import EbbtideError, IntegrityError, ObjectNotFound
from ebbtide.restore.links import open_download_key

READER_THREADS = 16
RETRY_AFTER_SECONDS = 10

V2_PATH = "/backup/restore/v2/pull/{jobId}/{key}/{fileName}"
V3_PATH = "/backup/restore/v3/pull/{jobId}/{fileName}"

_log = structlog.get_logger("ebbtide.api")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """One request for a download: what it named and presented, from where."""

    is_head: bool
    path: str
    job_id: str
    file_name: str
    key: str
    key_is_from_link: bool
    range_header: str | None
    if_range: str | None
    if_match: str | None
    if_none_match: str | None
    address: str


class Downloads:
    """The two download endpoints. `close` after the server stopped; the catalog must live until then."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._readers = ThreadPoolExecutor(max_workers=READER_THREADS, thread_name_prefix="download")
        self._books = TransferBooks(context)
        self._sender = Sender(self._books, self._readers)

    def cut_all(self) -> None:
        """End every transfer under way, in the event loop; they can be resumed after the restart."""
        self._sender.cut_all()

    def close(self) -> None:
        """Wait for what threads are still sending and writing down."""
        self._sender.close()
        self._readers.shutdown(wait=True)

    async def v2(self, request: Request) -> Response:
        """The key is in the path."""
        return await self._answer(request, key=request.path_params["key"], key_is_from_link=True)

    async def v3(self, request: Request) -> Response:
        """The key is in the Authorization header."""
        scheme, _, key = request.headers.get("authorization", "").strip().partition(" ")
        presented = key.strip() if scheme.lower() == AUTH_BEARER.lower() else ""
        return await self._answer(request, key=presented, key_is_from_link=False)

    async def _answer(self, request: Request, *, key: str, key_is_from_link: bool) -> Response:
        fetch = Fetch(
            is_head=request.method == "HEAD",
            path=request.url.path,
            job_id=request.path_params["jobId"],
            file_name=request.path_params["fileName"],
            key=key,
            key_is_from_link=key_is_from_link,
            range_header=request.headers.get("range"),
            if_range=request.headers.get("if-range"),
            if_match=request.headers.get("if-match"),
            if_none_match=request.headers.get("if-none-match"),
            address=str(read_address(request.client.host if request.client else None)),
        )
        try:
            outcome = await self._in_thread(lambda: self._begin(fetch))
        except Refusal as refused:
            return render_refusal(refused, Presentation())
        except EbbtideError as error:
            # Its message may tell of storage or catalog, which is nothing for whoever holds a link.
            _log.error("download.failed", job_id=fetch.job_id[:24], problem=str(error))
            return render_refusal(refusal("UNEXPECTED_ERROR", "The service's log says more."), Presentation())
        return outcome if isinstance(outcome, Response) else ArchiveResponse(self._sender, outcome)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    # --- deciding, in a thread ---

    def _begin(self, fetch: Fetch) -> Response | Sending:
        job = self._find_job(fetch)
        etag = f'"{job.id}-{job.archive_bytes}"'
        length = job.archive_bytes or 0
        headers = _file_headers(job, etag=etag)
        if fetch.if_match is not None and not is_listed(etag, fetch.if_match, weakly=False):
            raise refusal("PRECONDITION_FAILED")
        if fetch.is_head:
            self._check(job, transfers=[], is_resumption=False)
            if is_listed(etag, fetch.if_none_match, weakly=True):
                return Response(status_code=304, headers={"ETag": etag})
            return Response(headers={**headers, "Content-Length": str(length)})
        asked = resolve_range(fetch.range_header, if_range=fetch.if_range, etag=etag, length_bytes=length)
        first, end = (asked.first, asked.end) if isinstance(asked, Part) else (0, length)
        is_not_modified = is_listed(etag, fetch.if_none_match, weakly=True)
        if is_not_modified or isinstance(asked, Unsatisfiable):
            self._check(job, transfers=[], is_resumption=False)
            if is_not_modified:
                return Response(status_code=304, headers={"ETag": etag})
            raise refusal(
                "RANGE_NOT_SATISFIABLE", str(length), headers={"Content-Range": f"bytes */{length}"}
            )
        transfer = self._enter(job, first=first, end=end, address=fetch.address)
        headers["Content-Length"] = str(end - first)
        if isinstance(asked, Part):
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{length}"
        return Sending(
            job=job,
            transfer=transfer,
            status=206 if isinstance(asked, Part) else 200,
            headers=headers,
            chunks=self._open(job, transfer),
        )

    def _find_job(self, fetch: Fetch) -> RestoreJob:
        """The job, for the one who has its key; else a 404 that tells nothing."""
        job = None
        if is_id(fetch.job_id):
            job = self._context.catalog.restore_jobs.find(RestoreJobId(fetch.job_id))
        expected, has_link = "0" * 32, False
        if job is not None and job.download_key is not None and job.archive_bytes and job.expires is not None:
            expected, has_link = open_download_key(job, self._context.service_key), True
        shown = link_key(expected) if fetch.key_is_from_link else expected
        is_right = hmac.compare_digest(shown.encode(), fetch.key.encode("utf-8", "replace"))
        if job is None or not has_link or not is_right or fetch.file_name != job.file_name:
            raise refusal("RESOURCE_NOT_FOUND", "of this download link")
        return job

    def _check(self, job: RestoreJob, *, transfers: list[Transfer], is_resumption: bool) -> None:
        now = self._context.clock.now()
        status, delivery_status = effective_state(job, now=now)
        if job.expires is None or status is RestoreStatus.IN_PROGRESS:
            raise refusal("RESOURCE_NOT_FOUND", "of this download link")
        decision = decide_transfer(
            delivery_status=delivery_status,
            expires=job.expires,
            max_downloads=job.max_downloads,
            completed=job.completed_downloads,
            transfers=transfers,
            now=now,
            is_resumption=is_resumption,
            transfers_max=self._context.settings.count("downloads.transfers_max"),
            resume_for=timedelta(minutes=self._context.settings.number("downloads.resume_minutes")),
        )
        if isinstance(decision, Gone):
            raise refusal("LINK_NOT_USABLE", decision.reason)
        if isinstance(decision, TooMany):
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            raise refusal("TOO_MANY_TRANSFERS", str(decision.transfers_max), headers=headers)

    def _enter(self, job: RestoreJob, *, first: int, end: int, address: str) -> Transfer:
        """Record the transfer, then decide: of two that come at once each sees the other."""
        now = self._context.clock.now()
        transfer = Transfer(
            id=new_id(),
            job_id=job.id,
            first=first,
            end=end,
            sent_bytes=0,
            started=now,
            updated=now,
            address=address,
        )
        transfers = self._context.catalog.transfers
        transfers.insert(transfer)
        try:
            others = [t for t in transfers.list_for_job(job.id) if t.id != transfer.id]
            self._check(job, transfers=others, is_resumption=first > 0)
        except BaseException:
            transfers.delete(transfer.id)
            raise
        return transfer

    def _open(self, job: RestoreJob, transfer: Transfer) -> Iterator[bytes]:
        """The transfer's chunks, the first one read already: damage at the beginning becomes a clean refusal."""
        try:
            archive = self._context.open_archive(job)
            chunks = iter_chunks(archive, transfer.first, transfer.end)
            head = next(chunks)
        except (IntegrityError, ObjectNotFound) as damage:
            self._context.catalog.transfers.delete(transfer.id)
            self._books.note_damage(job, damage)
            raise refusal(
                "LINK_NOT_USABLE", "The stored data of this restore job is damaged; restore another snapshot."
            ) from damage
        except BaseException:
            self._context.catalog.transfers.delete(transfer.id)
            raise
        return _with_head(head, chunks)


def _file_headers(job: RestoreJob, *, etag: str) -> dict[str, str]:
    return {
        "Content-Type": "application/gzip",
        "Content-Disposition": f'attachment; filename="{job.file_name}"',
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }


def _with_head(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest
