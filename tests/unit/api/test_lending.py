"""A lent socket: sending for somebody else who goes on using the connection."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from ebbtide.api.lending import LentSocket


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The owner's end, which does not block, and the client's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.settimeout(60)
        yield ours, theirs


def lend(ours: socket.socket, *, seconds: float = 60.0) -> LentSocket:
    return LentSocket(os.dup(ours.fileno()), stalled_seconds_max=seconds)


def send_all(lent: LentSocket, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[lent.send(left) :]


def test_more_than_the_kernel_holds_is_sent_and_the_connection_goes_on(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    lent, data, got = lend(ours), os.urandom(3_000_000), bytearray()

    def receive() -> None:
        while len(got) < len(data):
            got.extend(theirs.recv(65536))

    client = threading.Thread(target=receive)
    client.start()
    send_all(lent, data)
    client.join()
    lent.close()
    lent.cut()  # too late to hurt
    assert data == got
    assert not ours.getblocking()
    ours.send(b"more")
    assert theirs.recv(10) == b"more"


def test_who_waits_for_a_client_is_woken_when_the_connection_is_cut(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    lent, problems = lend(ends[0]), []
    begun = threading.Event()

    def send() -> None:
        begun.set()
        try:
            send_all(lent, bytes(50_000_000))
        except OSError as problem:
            problems.append(problem)
        finally:
            lent.close()

    sender = threading.Thread(target=send)
    sender.start()
    begun.wait()
    lent.cut()
    sender.join(timeout=60)
    assert [BrokenPipeError] == [type(problem) for problem in problems]


def test_a_client_that_takes_nothing_is_given_up(ends: tuple[socket.socket, socket.socket]) -> None:
    lent = lend(ends[0], seconds=0.05)
    with pytest.raises(TimeoutError):
        send_all(lent, bytes(50_000_000))
    lent.close()
