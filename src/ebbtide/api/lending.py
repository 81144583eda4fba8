"""A connection's socket, lent for the length of one body to a thread that sends on it without the event loop.

`LendingHttp` puts a `Connection` into each request's scope, under `extensions` and `EXTENSION`. What a handler does: send
the head of its answer by ASGI, `lend`, send a part of the body from a thread, `take_back`, send the rest by ASGI.
Nothing else of the answer changes: uvicorn made its head, and decides whether the connection is kept.

Invariants
  * the thread has a descriptor of its own, which it closes itself: no number that it sends on can be somebody else's
  * nothing of ours waits in user space when a socket is lent, so bytes never overtake each other
  * the event loop goes on reading: it hears when the client hangs up. Between `lend` and `take_back` it writes nothing
  * with TLS there is nothing to lend: what is sent must pass the transport that encrypts
Crash: a connection that breaks.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

EXTENSION = "ebbtide.connection"

_FLUSH_TURNS_MAX = 3
"""Turns of the event loop in which the head of an answer reaches the kernel, where it has room."""


class LentSocket:
    """What the borrowing thread sends on. Everything may be called from any thread."""

    def __init__(self, descriptor: int, *, stalled_seconds_max: float) -> None:
        self._socket = socket.socket(fileno=descriptor)
        # The event loop's descriptor is the same open file and must not block: with a timeout, this one need not.
        self._socket.settimeout(stalled_seconds_max)
        self._closing = threading.Lock()

    def send(self, data: memoryview) -> int:
        """Send what the kernel takes of `data`, at least a byte; how many is returned.

        Raises ConnectionError when the client left, TimeoutError when it took nothing for too long.
        """
        return self._socket.send(data)

    def cut(self) -> None:
        """End the connection both ways: whoever sends on it gets a ConnectionError at once."""
        with self._closing, suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back to the system; the connection goes on. By the borrowing thread alone."""
        with self._closing:
            self._socket.close()


class Connection:
    """The connection of one request, as its handler sees it; in the event loop only."""

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        self._cycle = cycle
        self.lent_bytes = 0
        """Bytes of the body that went out from threads."""

    async def lend(self, *, stalled_seconds_max: float) -> LentSocket | None:
        """The socket, once all that was written is in the kernel; None where that is not soon, or there is TLS.

        A send waits at most `stalled_seconds_max` for the client to take something.
        """
        if self._transport.get_extra_info("sslcontext") is not None:
            return None
        for _ in range(_FLUSH_TURNS_MAX):
            await asyncio.sleep(0)
            if self._transport.is_closing():
                return None
            if self._transport.get_write_buffer_size() == 0:
                descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
                return LentSocket(descriptor, stalled_seconds_max=stalled_seconds_max)
        return None

    def take_back(self, sent_bytes: int) -> None:
        """The thread is done, and has sent `sent_bytes` of the body: so much less is expected from ASGI."""
        self.lent_bytes += sent_bytes
        self._cycle.expected_content_length -= sent_bytes


class LendingHttp(HttpToolsProtocol):
    """uvicorn's HTTP, whose requests know their connection."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        # The task that answers has begun to exist, not to run.
        scope: MutableMapping[str, Any] = self.cycle.scope  # type: ignore[assignment]
        scope["extensions"] = {EXTENSION: Connection(self.transport, self.cycle)}


def find_connection(scope: Mapping[str, Any]) -> Connection | None:
    """The connection of a request; None under another server than ours."""
    found = scope.get("extensions", {}).get(EXTENSION)
    return found if isinstance(found, Connection) else None
