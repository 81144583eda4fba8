"""Download links: who may fetch what, sending it, and counting it.

`v2` has the key in its address, `v3` in a header; neither asks for digest. A wrong job, key or file name gets one and
the same 404. Rules of counting are in `domain.download`; this module feeds them with what was really sent.

Bytes come from reader threads of this module's own, one chunk ahead of the socket, so that neither the event loop nor
the threads of API calls wait for a disk; at most two chunks a transfer are in memory. The socket's pace is the
reader's. Damage found under way cuts the connection: the client sees fewer bytes than were promised, never a clean end.

Crash: a transfer keeps what it last told (at most a second old, less what may have been in flight) and counts as
broken off after `TRANSFER_STALE_AFTER`.
"""

import asyncio
import hmac
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ebbtide.api.context import ApiContext, Archive
from ebbtide.api.queries import Presentation
from ebbtide.api.ranges import Part, Unsatisfiable, is_listed, resolve_range
from ebbtide.api.refusals import Refusal, refusal
from ebbtide.api.responses import render_refusal
from ebbtide.api.wire import AUTH_BEARER, effective_state, link_key
from ebbtide.catalog.damage import Damage
from ebbtide.domain.access_list import read_address
from ebbtide.domain.download import (
    IN_FLIGHT_BYTES,
    Gone,
    TooMany,
    Transfer,
    decide_transfer,
)
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import RestoreJobId, is_id, new_id
from ebbtide.domain.restore_job import RestoreEvent, RestoreJob, RestoreStatus
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import EbbtideError, IntegrityError, ObjectNotFound
from ebbtide.events import record_event
from ebbtide.restore.download_count import count_downloads
from ebbtide.restore.links import open_download_key

CHUNK_BYTES = 1024 * 1024
READER_THREADS = 16
PROGRESS_EVERY_SECONDS = 1.0
STALLED_SECONDS_MAX = 600.0
"""A client that takes nothing for so long is cut off: its transfer keeps others out."""

HELD_BACK_BYTES = 4096
"""The tail of a file that is sent only once the download is counted."""

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


@dataclass(frozen=True, kw_only=True)
class Sending:
    """A transfer that may begin: `chunks` gives bytes `first` … `end`−1."""

    job: RestoreJob
    transfer: Transfer
    status: int
    headers: dict[str, str]
    chunks: Iterator[bytes]


class Downloads:
    """The two download endpoints. `close` after the server stopped; the catalog must live until then."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._readers = ThreadPoolExecutor(max_workers=READER_THREADS, thread_name_prefix="download")
        self._under_way: set[asyncio.Task[Any]] = set()

    def cut_all(self) -> None:
        """End every transfer under way, in the event loop; they can be resumed after the restart."""
        for task in self._under_way:
            task.cancel()

    def close(self) -> None:
        """Wait for what reader threads are still writing down."""
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
        return outcome if isinstance(outcome, Response) else ArchiveResponse(self, outcome)

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
            chunks = _chunks(archive, transfer.first, transfer.end)
            head = next(chunks)
        except (IntegrityError, ObjectNotFound) as damage:
            self._context.catalog.transfers.delete(transfer.id)
            self.note_damage(job, damage)
            raise refusal(
                "LINK_NOT_USABLE", "The stored data of this restore job is damaged; restore another snapshot."
            ) from damage
        except BaseException:
            self._context.catalog.transfers.delete(transfer.id)
            raise
        return _with_head(head, chunks)

    # --- keeping the books, in a thread ---

    def note_progress(self, transfer: Transfer, sent_bytes: int) -> None:
        """Tell how far a running transfer is; it goes on where the catalog does not answer for a moment."""
        try:
            self._context.catalog.transfers.record_progress(
                transfer.id,
                sent_bytes=max(0, sent_bytes - IN_FLIGHT_BYTES),
                now=self._context.clock.now(),
                ended=None,
            )
        except EbbtideError as error:
            _log.warning("download.progress_lost", job_id=transfer.job_id, problem=str(error))

    def note_end(self, job: RestoreJob, transfer: Transfer, *, sent_bytes: int, is_complete: bool) -> None:
        """Write down the end of a transfer, and count what it completes."""
        sent = sent_bytes if is_complete else max(0, sent_bytes - IN_FLIGHT_BYTES)
        catalog, now = self._context.catalog, self._context.clock.now()
        catalog.transfers.record_progress(transfer.id, sent_bytes=sent, now=now, ended=now)
        count_downloads(job, last=transfer, catalog=catalog, clock=self._context.clock)

    def note_damage(self, job: RestoreJob, damage: EbbtideError) -> None:
        """The stored data is damaged: the link dies, and somebody must hear of it.

        What was deleted meanwhile is not damaged: that link has merely expired.
        """
        snapshot = self._context.catalog.snapshots.find(job.snapshot_id)
        was_deleted = snapshot is not None and snapshot.state is SnapshotState.DELETED
        if was_deleted and isinstance(damage, ObjectNotFound):
            self._context.catalog.restore_jobs.apply(job.id, RestoreEvent.LINK_EXPIRED)
            return
        reason = f"stored data is damaged: {damage.message}"
        _log.error("download.damage_found", job_id=job.id, problem=damage.message)
        found = Damage(id=job.cluster_id, found=self._context.clock.now(), problem=damage.message)
        self._context.catalog.damage.note(found)
        if self._context.catalog.restore_jobs.apply(job.id, RestoreEvent.DAMAGE_FOUND, reason=reason) is None:
            return
        record_event(
            self._context.catalog,
            self._context.clock,
            level=EventLevel.ERROR,
            kind="restore.damaged",
            message=f"restore job {job.id} cannot be downloaded: {reason}",
            group_id=job.group_id,
            cluster_id=job.cluster_id,
            subject_id=job.id,
        )

    # --- sending, in the event loop ---

    async def send_all(self, sending: Sending, receive: Receive, send: Send) -> None:
        """Send a transfer and write down how it ended, whatever ends it.

        Returning early makes the server close the connection, before the promised length.
        """
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        state = _Progress()
        gone = asyncio.Event()
        watchers = [
            asyncio.create_task(_watch(receive, gone)),
            asyncio.create_task(self._tell_progress(sending.transfer, state)),
        ]
        try:
            await self._send_chunks(sending, state, gone, send)
        except (IntegrityError, ObjectNotFound) as damage:
            found = damage
            await self._in_thread(lambda: self.note_damage(sending.job, found))
        except asyncio.CancelledError:
            # The server stops and this task is its last work: nobody is left who waits for the cancellation.
            _log.info("download.cut", job_id=sending.job.id)
        except (EbbtideError, OSError, TimeoutError) as problem:
            _log.warning("download.broken_off", job_id=sending.job.id, problem=str(problem))
        finally:
            for watcher in watchers:
                watcher.cancel()
            if not state.is_complete:
                # Shielded: a stopping server cancels this task, and the end must be written all the same.
                await asyncio.shield(
                    asyncio.get_running_loop().run_in_executor(
                        self._readers, self._end_quietly, sending, state.sent_bytes, False
                    )
                )

    def _end_quietly(self, sending: Sending, sent_bytes: int, is_complete: bool) -> None:
        try:
            self.note_end(sending.job, sending.transfer, sent_bytes=sent_bytes, is_complete=is_complete)
        except EbbtideError as error:
            _log.error("download.end_lost", job_id=sending.job.id, problem=str(error))

    async def _send_chunks(
        self, sending: Sending, state: "_Progress", gone: asyncio.Event, send: Send
    ) -> None:
        """Send everything, or stop where the client went away; `state` tells which."""
        headers = [(k.lower().encode(), v.encode("latin-1")) for k, v in sending.headers.items()]
        await send({"type": "http.response.start", "status": sending.status, "headers": headers})
        left = sending.transfer.end - sending.transfer.first
        following = asyncio.ensure_future(self._in_thread(lambda: next(sending.chunks, b"")))
        try:
            while left > 0 and not gone.is_set():
                chunk = await following
                if not chunk or len(chunk) > left:
                    raise IntegrityError(sending.job.file_name, f"{left} bytes are missing or too many")
                left -= len(chunk)
                if left == 0:
                    await self._send_last(sending, state, gone, send, chunk)
                    return
                following = asyncio.ensure_future(self._in_thread(lambda: next(sending.chunks, b"")))
                await _send_body(send, chunk)
                state.sent_bytes += len(chunk)
        finally:
            # The iterator must not be left running in a thread.
            with suppress(EbbtideError, OSError):
                await asyncio.shield(following)

    async def _send_last(
        self, sending: Sending, state: "_Progress", gone: asyncio.Event, send: Send, chunk: bytes
    ) -> None:
        """Send the last chunk but for its tail, write the end down, then send the tail.

        So whoever has the whole file and asks for the job finds it counted.
        """
        await _send_body(send, chunk[:-HELD_BACK_BYTES])
        # Waits until the buffers before the kernel's are nearly empty.
        await _send_body(send, b"")
        if gone.is_set():
            state.sent_bytes += len(chunk)
            return
        state.is_complete = True
        whole = sending.transfer.end - sending.transfer.first
        await asyncio.shield(self._in_thread(lambda: self._end_quietly(sending, whole, True)))
        await _send_body(send, chunk[-HELD_BACK_BYTES:], is_last=True)

    async def _tell_progress(self, transfer: Transfer, state: "_Progress") -> None:
        while True:
            await asyncio.sleep(PROGRESS_EVERY_SECONDS)
            sent_bytes = state.sent_bytes
            await self._in_thread(lambda sent=sent_bytes: self.note_progress(transfer, sent))  # type: ignore[misc]


async def _send_body(send: Send, data: bytes, *, is_last: bool = False) -> None:
    """Hand bytes to the connection, after waiting until it takes some."""
    async with asyncio.timeout(STALLED_SECONDS_MAX):
        await send({"type": "http.response.body", "body": data, "more_body": not is_last})


class _Progress:
    """How much was handed to the socket; written and read in the event loop only."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.is_complete = False


class ArchiveResponse(Response):
    """A download as a response; everything happens in `Downloads.send_all`."""

    def __init__(self, downloads: Downloads, sending: Sending) -> None:
        super().__init__(status_code=sending.status)
        self._downloads = downloads
        self._sending = sending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await self._downloads.send_all(self._sending, receive, send)


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    """Set `gone` when the client has left."""
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
    gone.set()


def _file_headers(job: RestoreJob, *, etag: str) -> dict[str, str]:
    return {
        "Content-Type": "application/gzip",
        "Content-Disposition": f'attachment; filename="{job.file_name}"',
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }


def _chunks(archive: Archive, first: int, end: int) -> Iterator[bytes]:
    """The archive's bytes in pieces, none of them empty; only short ones are joined, which copies them."""
    pieces: list[bytes] = []
    size = 0
    for piece in archive.iter_range(first, end):
        if pieces and size + len(piece) > CHUNK_BYTES:
            yield b"".join(pieces)
            pieces, size = [], 0
        pieces.append(piece)
        size += len(piece)
        if size >= CHUNK_BYTES // 2:
            yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces, size = [], 0
    if size:
        yield b"".join(pieces)


def _with_head(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest
