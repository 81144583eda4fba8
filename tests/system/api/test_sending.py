"""How downloads leave: from threads on lent sockets, and through the event loop where there is none to lend."""

import http.client
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from ebbtide.api import sending
from ebbtide.api.lending import LentSocket
from ebbtide.testing.certificates import Authority

FILE_BYTES = 24_000_000
"""More than the kernel keeps for a client that takes nothing."""


@pytest.fixture(scope="module")
def snapshot(service: Any) -> Any:
    return service.stored_snapshot({"collection-0.wt": os.urandom(FILE_BYTES)})


@pytest.fixture
def sent_by_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes left from threads each time."""
    seen: list[int] = []
    send = LentSocket.send

    def note(lent: LentSocket, data: memoryview) -> int:
        seen.append(send(lent, data))
        return seen[-1]

    monkeypatch.setattr(LentSocket, "send", note)
    return seen


def connect(link: str) -> socket.socket:
    """A client that has asked for the whole file and taken nothing."""
    address = urlsplit(link)
    client = socket.create_connection((address.hostname or "", address.port or 0), timeout=60)
    client.sendall(f"GET {address.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return client


def take_all(client: socket.socket) -> bytes:
    """The body, up to the end of the connection."""
    got = bytearray()
    while received := client.recv(1024 * 1024):
        got += received
    return bytes(got).partition(b"\r\n\r\n")[2]


def has_a_part_of_the_body(client: socket.socket) -> bool:
    """So it is decided who sends to this client."""
    begun = client.recv(8192, socket.MSG_PEEK)
    return bool(begun.partition(b"\r\n\r\n")[2])


def iter_transfers(service: Any, job: Any) -> Iterator[Any]:
    yield from service.catalog.transfers.list_for_job(job.id)


def test_a_connection_is_kept_after_a_thread_sent_on_it(
    service: Any, snapshot: Any, sent_by_threads: list[int]
) -> None:
    job = service.ready_job(snapshot, downloads=10)
    link, data = urlsplit(service.links(job)[0]), service.archive_bytes(job)
    connection = http.client.HTTPConnection(link.hostname or "", link.port, timeout=60)
    try:
        connection.connect()
        first_socket = connection.sock
        for first in (0, 5_000_000, len(data) - 10):
            connection.request("GET", link.path, headers={"Range": f"bytes={first}-"})
            assert connection.getresponse().read() == data[first:]
        connection.request("GET", "/health/live")
        assert connection.getresponse().read() == b"ok\n"
        assert connection.sock is first_socket
    finally:
        connection.close()
    # All chunks but the last of each transfer, which is sent once the download was counted.
    assert sum(sent_by_threads) > len(data) * 3 // 2


def test_what_threads_sent_is_counted(service: Any, snapshot: Any) -> None:
    def counted_bytes() -> float:
        text = requests.get(f"{service.url}/metrics", timeout=60).text
        found = re.search(r"^ebbtide_api_response_bytes_total (\S+)$", text, re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    job = service.ready_job(snapshot)
    link, length = service.links(job)[0], job.archive_bytes
    before = counted_bytes()
    assert len(requests.get(link, timeout=60).content) == length
    service.wait_until(lambda: counted_bytes() >= before + length)
    assert counted_bytes() < before + 2 * length


def test_more_transfers_than_threads_all_end_well(
    service: Any, snapshot: Any, monkeypatch: pytest.MonkeyPatch, sent_by_threads: list[int]
) -> None:
    monkeypatch.setattr(sending, "SENDER_THREADS", 2)
    job = service.ready_job(snapshot, downloads=10)
    link, data = service.links(job)[0], service.archive_bytes(job)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(link)) for _ in range(5)]
        for client in clients:
            service.wait_until(lambda client=client: has_a_part_of_the_body(client))
        for client in clients:
            assert take_all(client) == data
    assert service.job(job.id).completed_downloads == 5
    # How many by threads depends on when these were free.
    assert sum(sent_by_threads) > 0
    # The threads are free again.
    sent_by_threads.clear()
    assert requests.get(link, timeout=60).content == data
    assert sent_by_threads


def test_a_client_that_takes_nothing_is_cut_off(
    service: Any, snapshot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "STALLED_SECONDS_MAX", 0.2)
    job = service.ready_job(snapshot)
    link, data = service.links(job)[0], service.archive_bytes(job)
    with connect(link) as client:
        service.wait_until(lambda: any(t.ended for t in iter_transfers(service, job)))
        monkeypatch.undo()
        begun = take_all(client)
    assert data.startswith(begun)
    assert len(begun) < len(data)
    rest = requests.get(link, headers={"Range": f"bytes={len(begun)}-"}, timeout=60).content
    assert begun + rest == data
    assert service.job(job.id).completed_downloads == 1


def test_with_tls_nothing_passes_by_the_encryption(
    start_service: Callable[..., Any], tmp_path: Path, sent_by_threads: list[int]
) -> None:
    authority = Authority.create()
    pair, ca = tmp_path / "pair.pem", tmp_path / "ca.pem"
    pair.write_text(authority.issue("127.0.0.1"))
    ca.write_text(authority.ca)
    service = start_service(api__tls_certificate_file=str(pair), api__tls_key_file=str(pair))
    job = service.ready_job(service.stored_snapshot({"collection-0.wt": os.urandom(3_000_000)}))
    shown = service.call("GET", f"{service.base}/restoreJobs/{job.id}", verify=str(ca)).json()
    answer = requests.get(shown["delivery"]["url"], verify=str(ca), timeout=60)
    assert answer.content == service.archive_bytes(job)
    assert sent_by_threads == []
