"""Stopping the API."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests


def test_stopping_cuts_a_download(start_service: Callable[..., Any]) -> None:
    service = start_service()
    job = service.ready_job(service.stored_snapshot({"a.wt": os.urandom(48_000_000)}))
    address = urlsplit(service.links(job)[0])
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
        connection.sendall(f"GET {address.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        connection.recv(65536)
        assert [t.ended for t in service.catalog.transfers.list_for_job(job.id)] == [None]
        # The client reads no more: it is not waited for, else this would come to its deadline.
        service.stop()
    (transfer,) = service.catalog.transfers.list_for_job(job.id)
    assert transfer.ended is not None
    assert transfer.sent_bytes < transfer.end


PROGRAM = """
import sys
from pathlib import Path
from ebbtide.api.server import run_api
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.sealing import ServiceKey
from ebbtide.settings import resolve_settings

catalog = Catalog.connect("mongodb://127.0.0.1:1", timeout_seconds=1)
run_api(
    settings=resolve_settings(flags={"api.listen": "127.0.0.1:0"}, environment={}, file=None),
    catalog=catalog,
    service_key=ServiceKey(bytes(32)),
    clock=SystemClock(),
    repository_path=Path(sys.argv[1]),
    on_started=lambda url: print("at", url, flush=True),
)
catalog.close()
print("stopped", flush=True)
"""


def test_sigterm_ends_the_process_cleanly_and_a_dead_catalog_is_an_error_document(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            if process.stdout is None:
                raise ValueError("no output")
            url = next(line for line in process.stdout if line.startswith("at ")).split()[1]
            header = {"Authorization": WELL_FORMED}
            answer = requests.get(f"{url}/api/atlas/v1.0/groups", headers=header, timeout=120)
            assert (answer.status_code, answer.json()["errorCode"]) == (500, "UNEXPECTED_ERROR")
            assert "127.0.0.1" not in answer.text
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
            assert (process.wait(timeout=60), rest.splitlines()[-1]) == (0, "stopped")
        finally:
            process.kill()


WELL_FORMED = (
    'Digest username="a", realm="MMS Public API", nonce="n", uri="/api/atlas/v1.0/groups", cnonce="x", '
    'nc=00000001, qop="auth", response="0123456789abcdef0123456789abcdef", algorithm="MD5"'
)
