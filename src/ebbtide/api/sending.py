"""Sending a download that was allowed: bytes to the client, how far it is to the books.

Nearly all of a body goes out from one thread a transfer, which reads a chunk, has it checked, and sends it on the
connection's own socket (`api.lending`): the event loop and its buffers are passed by, so this costs what the kernel
costs. Where no socket can be lent (TLS, no thread free, a client that is slow from the beginning) chunks go through
ASGI, read one ahead by the readers. Either way the last chunk goes through ASGI, after the download was counted.

Bounds: `SENDER_THREADS`, and two chunks in memory for a transfer. The socket's pace is the reader's. A client that hangs
up or takes nothing for STALLED_SECONDS_MAX, damage found on the way, and the end of the process cut the connection:
the client sees fewer bytes than were promised, never a clean end.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ebbtide.api.context import Archive
from ebbtide.api.lending import Connection, LentSocket, find_connection
from ebbtide.api.transfer_books import TransferBooks
from ebbtide.domain.download import Transfer
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.errors import EbbtideError, IntegrityError, ObjectNotFound

CHUNK_BYTES = 1024 * 1024
SENDER_THREADS = 16
"""Transfers that send from threads of their own; more are sent by the event loop."""

PROGRESS_EVERY_SECONDS = 1.0
STALLED_SECONDS_MAX = 600.0
"""A client that takes nothing for so long is cut off: its transfer keeps others out."""

HELD_BACK_BYTES = 4096
"""The tail of a file that is sent only once the download is counted."""

_log = structlog.get_logger("ebbtide.api")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Sending:
    """A transfer that may begin: `chunks` gives bytes `first` … `end`−1."""

    job: RestoreJob
    transfer: Transfer
    status: int
    headers: dict[str, str]
    chunks: Iterator[bytes]

    def iter_exact(self) -> Iterator[tuple[bytes, bool]]:
        """Each chunk, and whether it is the last. Raises IntegrityError where they are not what was promised."""
        left = self.transfer.end - self.transfer.first
        while left > 0:
            chunk = next(self.chunks, b"")
            if not chunk or len(chunk) > left:
                raise IntegrityError(self.job.file_name, f"{left} bytes are missing or too many")
            left -= len(chunk)
            yield chunk, left == 0


class Sender:
    """Sends transfers; in the event loop, but for `close`. `readers` are threads that may wait for disk and catalog."""

    def __init__(self, books: TransferBooks, readers: Executor) -> None:
        self._books = books
        self._readers = readers
        self._threads = ThreadPoolExecutor(max_workers=SENDER_THREADS, thread_name_prefix="download-sender")
        self._threads_taken = 0
        self._under_way: set[asyncio.Task[Any]] = set()

    def cut_all(self) -> None:
        """End every transfer under way; they can be resumed after the restart."""
        for task in self._under_way:
            task.cancel()

    def close(self) -> None:
        """Wait for the threads; call `cut_all` before."""
        self._threads.shutdown(wait=True)

    async def send_all(self, sending: Sending, scope: Scope, receive: Receive, send: Send) -> None:
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
            await self._send_chunks(sending, state, gone, find_connection(scope), send)
        except (IntegrityError, ObjectNotFound) as damage:
            found = damage
            await self._in_thread(lambda: self._books.note_damage(sending.job, found))
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

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def _end_quietly(self, sending: Sending, sent_bytes: int, is_complete: bool) -> None:
        try:
            self._books.note_end(
                sending.job, sending.transfer, sent_bytes=sent_bytes, is_complete=is_complete
            )
        except EbbtideError as error:
            _log.error("download.end_lost", job_id=sending.job.id, problem=str(error))

    async def _send_chunks(
        self,
        sending: Sending,
        state: "_Progress",
        gone: asyncio.Event,
        connection: Connection | None,
        send: Send,
    ) -> None:
        """Send everything, or stop where the client went away; `state` tells which."""
        headers = [(k.lower().encode(), v.encode("latin-1")) for k, v in sending.headers.items()]
        await send({"type": "http.response.start", "status": sending.status, "headers": headers})
        lent = None
        if connection is not None and self._threads_taken < SENDER_THREADS:
            lent = await connection.lend(stalled_seconds_max=STALLED_SECONDS_MAX)
        if connection is None or lent is None:
            last = await self._send_by_loop(sending, state, gone, send)
        else:
            last = await self._send_by_thread(sending, state, gone, connection, lent)
        if last is not None:
            await self._send_last(sending, state, gone, send, last)

    async def _send_by_thread(
        self,
        sending: Sending,
        state: "_Progress",
        gone: asyncio.Event,
        connection: Connection,
        lent: LentSocket,
    ) -> bytes | None:
        """Send all chunks but the last, which is returned; None where the client went away."""
        self._threads_taken += 1
        pumping = asyncio.get_running_loop().run_in_executor(self._threads, _pump, sending, state, lent)
        pumping.add_done_callback(self._release)
        leaving: asyncio.Future[Any] = asyncio.ensure_future(gone.wait())
        either: set[asyncio.Future[Any]] = {pumping, leaving}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not pumping.done():
                lent.cut()
            # The iterator must not be left running in a thread.
            await asyncio.shield(asyncio.wait({pumping}))
            connection.take_back(state.sent_bytes)
        return pumping.result()

    def _release(self, pumping: "asyncio.Future[bytes | None]") -> None:
        self._threads_taken -= 1
        if not pumping.cancelled():
            pumping.exception()  # Seen, even where nobody waits for it any more.

    async def _send_by_loop(
        self, sending: Sending, state: "_Progress", gone: asyncio.Event, send: Send
    ) -> bytes | None:
        """As `_send_by_thread`, by ASGI."""
        chunks = sending.iter_exact()
        following = asyncio.ensure_future(self._in_thread(lambda: next(chunks)))
        try:
            while not gone.is_set():
                chunk, is_last = await following
                if is_last:
                    return chunk
                following = asyncio.ensure_future(self._in_thread(lambda: next(chunks)))
                await _send_body(send, chunk)
                state.sent_bytes += len(chunk)
        finally:
            # The iterator must not be left running in a thread.
            with suppress(EbbtideError, OSError):
                await asyncio.shield(following)
        return None

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
            await self._in_thread(lambda sent=sent_bytes: self._books.note_progress(transfer, sent))  # type: ignore[misc]


class ArchiveResponse(Response):
    """A download as a response; everything happens in `Sender.send_all`."""

    def __init__(self, sender: Sender, sending: Sending) -> None:
        super().__init__(status_code=sending.status)
        self._sender = sender
        self._sending = sending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._sender.send_all(self._sending, scope, receive, send)


class _Progress:
    """How much was handed to the socket; written by whoever sends, read in the event loop."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.is_complete = False


def _pump(sending: Sending, state: _Progress, lent: LentSocket) -> bytes | None:
    """In a thread of its own: send all chunks but the last, which is returned; None where the client went away.

    The socket is closed at the end. Raises IntegrityError, ObjectNotFound, StorageError, TimeoutError.
    """
    try:
        for chunk, is_last in sending.iter_exact():
            if is_last:
                return chunk
            left = memoryview(chunk)
            while left:
                sent_bytes = lent.send(left)
                # At once: what is counted as sent must never be far behind what a client has.
                state.sent_bytes += sent_bytes
                left = left[sent_bytes:]
    except ConnectionError:
        return None
    finally:
        lent.close()
    return None


async def _send_body(send: Send, data: bytes, *, is_last: bool = False) -> None:
    """Hand bytes to the connection, after waiting until it takes some."""
    async with asyncio.timeout(STALLED_SECONDS_MAX):
        await send({"type": "http.response.body", "body": data, "more_body": not is_last})


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    """Set `gone` when the client has left."""
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
    gone.set()


def iter_chunks(archive: Archive, first: int, end: int) -> Iterator[bytes]:
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
