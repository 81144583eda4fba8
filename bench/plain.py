"""What Ebbtide is compared with: reading, compressing, copying and sending the same bytes with plain tools."""

import http.client
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from isal import isal_zlib

from ebbtide.mongod.ports import free_port

PIECE_BYTES = 4 * 1024 * 1024
COMPRESSED_AT_ONCE_BYTES = 1024 * 1024
"""What isal alone is fastest with here: longer pieces leave the processor's cache, shorter ones add calls."""

RECEIVE_BYTES = 1024 * 1024
SERVER_READY_SECONDS = 10.0

_Piece = tuple[Path, int, int]


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def seconds_to_read(files: Sequence[Path]) -> float:
    """Reading every byte of the files, on all processors."""
    return _timed(files, lambda piece: len(_read(piece)))


def seconds_to_compress(files: Sequence[Path]) -> float:
    """Reading the files and compressing them with isal at level 1, on all processors; the result is dropped."""
    return _timed(files, _compress)


def seconds_to_copy(source: Path, target: Path) -> tuple[float, float]:
    """`cp -r` of a directory, and the same with the wait until the copy is durable."""
    started = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    copied = time.perf_counter() - started
    subprocess.run(["sync", "-f", str(target)], check=True)
    return copied, time.perf_counter() - started


def seconds_to_fetch(url: str, headers: Mapping[str, str], *, into: Path | None = None) -> float:
    """One GET from loopback to nowhere, or into a file; the time from connecting to the last byte.

    Raises ValueError where the answer is not a whole file.
    """
    parts = urlsplit(url)
    buffer = memoryview(bytearray(RECEIVE_BYTES))
    started = time.perf_counter()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
    try:
        connection.request("GET", parts.path, headers=dict(headers))
        with connection.getresponse() as response, open(into or os.devnull, "wb", buffering=0) as out:
            left = int(response.headers["Content-Length"])
            if response.status != 200:
                raise ValueError(f"{url} answered {response.status}")
            while received := response.readinto(buffer):
                left -= received
                if into is not None:
                    out.write(buffer[:received])
        if left:
            raise ValueError(f"{url} ended {left} bytes early")
    finally:
        connection.close()
    return time.perf_counter() - started


@contextmanager
def file_server(file: Path) -> Iterator[tuple[str, str]]:
    """A server of one ready file on loopback: its URL and what serves it (nginx, or a loop of `sendfile`)."""
    port = free_port("127.0.0.1")
    nginx = shutil.which("nginx")
    command = (
        _nginx_command(nginx, file, port)
        if nginx
        else [sys.executable, "-m", "bench.sendfile_server", str(file), str(port)]
    )
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/{file.name}"
    try:
        _wait_for_port(port)
        yield url, "nginx" if nginx else "a sendfile loop"
    finally:
        server.terminate()
        server.wait(SERVER_READY_SECONDS)


def _nginx_command(nginx: str, file: Path, port: int) -> list[str]:
    prefix = file.parent / "nginx"
    prefix.mkdir(exist_ok=True)
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{name}_temp_path {prefix}/{name};" for name in paths)
    configuration = (
        f"daemon off; pid {prefix}/nginx.pid; error_log {prefix}/error.log; events {{}}\n"
        f"http {{ access_log off; sendfile on; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port}; root {file.parent}; }} }}\n"
    )
    (prefix / "nginx.conf").write_text(configuration)
    return [nginx, "-p", str(prefix), "-e", str(prefix / "error.log"), "-c", str(prefix / "nginx.conf")]


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + SERVER_READY_SECONDS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SERVER_READY_SECONDS)
        try:
            connection.connect()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        finally:
            connection.close()


def _timed(files: Sequence[Path], work: Callable[[_Piece], int]) -> float:
    pieces = [
        (file, start, PIECE_BYTES) for file in files for start in range(0, file.stat().st_size, PIECE_BYTES)
    ]
    started = time.perf_counter()
    with ThreadPoolExecutor(processors()) as threads:
        list(threads.map(work, pieces))
    return time.perf_counter() - started


def _read(piece: _Piece) -> bytes:
    path, start, length = piece
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        return file.read(length)


def _compress(piece: _Piece) -> int:
    plain = memoryview(_read(piece))
    starts = range(0, len(plain), COMPRESSED_AT_ONCE_BYTES)
    return sum(
        len(isal_zlib.compress(plain[start : start + COMPRESSED_AT_ONCE_BYTES], 1, wbits=31))
        for start in starts
    )
