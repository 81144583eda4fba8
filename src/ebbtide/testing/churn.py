"""Downloads that take their time, to be under way while everything else happens.

A slow download is an honest client: it takes an archive in ranges or in one stretch, waits between reads, comes back
after a broken connection at the byte where it stopped, and stops for good when the link is gone. What it got is in a
file, so that a test can judge every byte of it. It is no part of the command line's client, which is thus not judged
by itself.
"""

import hashlib
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import httpx

Document = dict[str, Any]

READ_BYTES = 64 * 1024
RETRY_SECONDS = 0.3
OUTAGE_SECONDS_MAX = 90.0
"""Without a new byte for so long the download gives up."""

GONE, TOO_MANY = 410, 429
UNREACHABLE = 0


class UnexpectedAnswer(Exception):
    """What the server sent is neither the bytes that were asked for nor a refusal that a client can live with."""


class Ended(StrEnum):
    """How a slow download ended."""

    COMPLETE = "complete"
    GONE = "gone"  # the link died first: 410
    CUT = "cut"  # it was stopped, or nothing came any more


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How slowly. `range_bytes` 0: one request for all that is missing."""

    range_bytes: int
    bytes_per_second: int


class SlowDownload(threading.Thread):
    """One download of a READY restore job into `path`. `ended` and `problem` are to be read after `join`."""

    def __init__(self, job: Mapping[str, Any], path: Path, *, pace: Pace) -> None:
        super().__init__(name=f"download {job['id']}", daemon=True)
        delivery = job["delivery"]
        self.job_id = str(job["id"])
        self.snapshot_id = str(job["snapshotId"])
        self.path = path
        self.ended = Ended.CUT
        self.problem = ""
        self.position = 0
        self.interruptions = 0
        self._url = str(delivery["urlV2"])
        self._key = {delivery["authHeader"]: f"{delivery['authBearer']} {delivery['authValue']}"}
        self._pace = pace
        self._etag = ""
        self._total: int | None = None
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let go of it after the read in hand; it then counts as cut."""
        self._stopping.set()

    def sha1(self) -> str:
        """Of all that came, in hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()

    def run(self) -> None:
        try:
            # No proxy of the environment stands between this machine and itself.
            with httpx.Client(trust_env=False, timeout=30.0) as client, self.path.open("wb") as file:
                self._fetch_all(client, file)
        except UnexpectedAnswer as error:
            self.problem = str(error)

    def _fetch_all(self, client: httpx.Client, file: BinaryIO) -> None:
        last_success, seen = time.monotonic(), 0
        while not self._stopping.is_set() and time.monotonic() - last_success < OUTAGE_SECONDS_MAX:
            if self._total is not None and self.position >= self._total:
                self.ended = Ended.COMPLETE
                return
            try:
                status = self._fetch_some(client, file)
            except httpx.TransportError:
                status = UNREACHABLE
            if status == GONE:
                self.ended = Ended.GONE
                return
            if status in (UNREACHABLE, TOO_MANY) or status >= 500:
                self.interruptions += 1
                self._stopping.wait(RETRY_SECONDS)
            if self.position > seen:
                last_success, seen = time.monotonic(), self.position

    def _fetch_some(self, client: httpx.Client, file: BinaryIO) -> int:
        """The status of one request, whose bytes are written. Raises UnexpectedAnswer and httpx's errors."""
        length = self._pace.range_bytes
        last = str(self.position + length - 1) if length else ""
        headers = {**self._key, "Accept-Encoding": "identity", "Range": f"bytes={self.position}-{last}"}
        if self._etag:
            headers["If-Range"] = self._etag
        with client.stream("GET", self._url, headers=headers) as response:
            if response.status_code in (GONE, TOO_MANY) or response.status_code >= 500:
                return response.status_code
            self._begin(response)
            for data in response.iter_raw(READ_BYTES):
                file.write(data)
                self.position += len(data)
                if self._stopping.wait(len(data) / self._pace.bytes_per_second):
                    break
            return response.status_code

    def _begin(self, response: httpx.Response) -> None:
        """Take note of the archive's ETag and length. Raises UnexpectedAnswer if it is not the range asked for."""
        content_range = response.headers.get("content-range", "")
        place, _, total = content_range.removeprefix("bytes ").partition("/")
        is_asked_for = response.status_code == 206 and place.startswith(f"{self.position}-")
        if not is_asked_for or self._total not in (None, int(total)):
            raise UnexpectedAnswer(
                f"asked for bytes from {self.position}, got {response.status_code} {content_range!r}"
            )
        self._total = int(total)
        self._etag = self._etag or response.headers["etag"]


def find_wrong_bytes(path: Path) -> str:
    """What is wrong with an archive, or with the beginning of one; empty where every member that is whole is right.

    An archive is gzip members one after another, each with its CRC; the last may be cut anywhere.
    """
    inflater = zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            while data:
                try:
                    inflater.decompress(data)
                except zlib.error as error:
                    return f"before byte {file.tell()}: {error}"
                data = inflater.unused_data
                if inflater.eof:
                    inflater = zlib.decompressobj(wbits=31)
    return ""
