"""Stopping the API."""

import os
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit


def test_stopping_cuts_a_download_within_seconds(start_service: Callable[..., Any]) -> None:
    service = start_service()
    job = service.ready_job(service.stored_snapshot({"a.wt": os.urandom(48_000_000)}))
    address = urlsplit(service.links(job)[0])
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as connection:
        connection.sendall(f"GET {address.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        connection.recv(65536)
        began = time.monotonic()
        assert [t.ended for t in service.catalog.transfers.list_for_job(job.id)] == [None]
        service.stop()
        assert time.monotonic() - began < 10
    (transfer,) = service.catalog.transfers.list_for_job(job.id)
    assert transfer.ended is not None
    assert transfer.sent_bytes < transfer.end
