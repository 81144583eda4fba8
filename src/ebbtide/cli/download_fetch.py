"""Fetching one archive over as many connections as it takes.

A broken connection is resumed by Range with If-Range, from OVERLAP_BYTES before the end of what is here. The server
cannot know what of its last bytes arrived, so it counts up to 1 MiB of a broken transfer as not sent; asking for them
again makes the download complete in its books too, and without that it never tells the SHA-1. What comes again is
compared with what is here.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from ebbtide.cli.api_errors import ApiRefusal, translated
from ebbtide.cli.client import EbbtideClient
from ebbtide.cli.download_sinks import OVERLAP_BYTES, READ_BYTES, FileSink, Sink
from ebbtide.errors import IntegrityError, Refused, Unreachable

ATTEMPTS_MAX = 6
"""Attempts in a row that bring nothing new."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.tar\.gz")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, kw_only=True)
class DownloadLink:
    """Where the archive is. `headers` hold the key and are shown to nobody."""

    url: str
    headers: Mapping[str, str]
    file_name: str

    def __repr__(self) -> str:
        return f"DownloadLink({self.file_name!r})"


def link_of(job: Mapping[str, Any], *, base_url: str) -> DownloadLink:
    """The v3 link of a READY job. Raises Refused if the job shows none, or one that is not to be trusted."""
    delivery = job.get("delivery") or {}
    url, value = delivery.get("urlV2"), delivery.get("authValue")
    if not isinstance(url, str) or not isinstance(value, str):
        raise Refused(
            f"restore job {job.get('id')} shows no download link to this key",
            hint="use a key that may create restore jobs (an owner of the project)",
        )
    if base_url.startswith("https://") and not url.startswith("https://"):
        raise Refused(
            "the download link is not one of HTTPS, though this API is reached by it: its key will not be sent",
            hint="set `api.external_url` of the service to its https:// address",
        )
    name = url.rsplit("/", 1)[-1]
    # It becomes a path here: nothing but a plain file name will do.
    if not _FILE_NAME.fullmatch(name):
        raise Refused(f"the server's file name {name!r} is not that of an archive")
    header = str(delivery.get("authHeader") or "Authorization")
    bearer = str(delivery.get("authBearer") or "Bearer")
    return DownloadLink(url=url, headers={header: f"{bearer} {value}"}, file_name=name)


class Fetch:
    """One archive on its way into one sink, over as many connections as it takes."""

    def __init__(
        self,
        client: EbbtideClient,
        link: DownloadLink,
        sink: Sink,
        *,
        report: Callable[[str, int, int | None], None],
        sleep: Callable[[float], None],
    ) -> None:
        self._client = client
        self._link = link
        self._sink = sink
        self._report = report
        self._sleep = sleep
        self._etag = ""
        self._note: Callable[[str], None] = lambda _: None
        self._digest = hashlib.sha1(usedforsecurity=False)
        self._total: int | None = None

    @property
    def sha1(self) -> str:
        return self._digest.hexdigest()

    def adopt(self, etag: str, *, note: Callable[[str], None]) -> None:
        """Go on from what the sink has, which is of the archive with this ETag; tell `note` of another one."""
        self._etag, self._note = etag, note
        self._hash_what_is_here()

    def run(self) -> int:
        """Fetch all that is missing; the archive's length. Raises when ATTEMPTS_MAX attempts brought nothing."""
        attempts = 0
        while True:
            before = self._sink.position
            try:
                self._once()
            except (Unreachable, ApiRefusal) as error:
                # Too many transfers at once, a restart of the service: the next attempt may do.
                if not error.retryable:
                    raise
                attempts = 1 if self._sink.position > before else attempts + 1
                if attempts >= ATTEMPTS_MAX:
                    raise
                self._report("connection lost, trying again", self._sink.position, self._total)
                self._sleep(min(30.0, 2.0 ** (attempts - 1)))
                continue
            if self._total is not None and self._sink.position == self._total:
                return self._total
            # The server closed in order, but early: httpx notices that with a Content-Length, so this is rare.
            attempts = 1 if self._sink.position > before else attempts + 1
            if attempts >= ATTEMPTS_MAX:
                raise IntegrityError(
                    self._link.file_name,
                    f"{self._sink.position} of {self._total} bytes came",
                    hint="run the same command again: it goes on from here",
                )

    def _once(self) -> None:
        start = max(0, self._sink.position - OVERLAP_BYTES)
        headers = dict(self._link.headers)
        # Ask for the bytes as they are: an archive is compressed already, and lengths are of the stored bytes.
        headers["Accept-Encoding"] = "identity"
        if self._etag and self._sink.position:
            headers |= {"Range": f"bytes={start}-", "If-Range": self._etag}
        with self._client.open_download(self._link.url, headers) as response:
            if response.status_code == 416:
                # Less is there than is here: this is another archive.
                self._start_over()
                raise Unreachable("the server has less than was already downloaded; starting over")
            start = self._begin(response, start)
            self._take(response, start)

    def _begin(self, response: httpx.Response, asked: int) -> int:
        """Judge the head of the answer; where its bytes begin."""
        etag = response.headers.get("etag", "")
        if response.status_code == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if found is None or int(found[1]) != asked:
                raise IntegrityError(self._link.file_name, "the server sent another range than was asked for")
            start, total = asked, int(found[3])
        else:
            if self._sink.position:
                self._start_over()
            start, total = 0, _content_length(response)
            # A weak ETag, or none, cannot be resumed from (RFC 9110, 13.1.5).
            self._etag = etag if etag.startswith('"') else ""
            self._note(self._etag)
        if self._total is not None and self._total != total and self._sink.position:
            raise IntegrityError(
                self._link.file_name, f"its length changed from {self._total} to {total} bytes"
            )
        self._total = total
        return start

    def _take(self, response: httpx.Response, start: int) -> None:
        again = self._sink.tail(self._sink.position - start)
        with translated(self._client.base_url):
            for data in response.iter_raw(READ_BYTES):
                if again:
                    known, data = data[: len(again)], data[len(again) :]
                    if known != again[: len(known)]:
                        raise IntegrityError(
                            self._link.file_name,
                            "what was downloaded before is not what the server has",
                            hint="remove the .part file and download again",
                        )
                    again = again[len(known) :]
                if data:
                    self._sink.write(data)
                    self._digest.update(data)
                    self._report("downloading", self._sink.position, self._total)

    def _start_over(self) -> None:
        self._sink.restart()
        self._digest = hashlib.sha1(usedforsecurity=False)
        self._total = None
        self._etag = ""

    def _hash_what_is_here(self) -> None:
        if not isinstance(self._sink, FileSink):
            return
        self._sink.hash_into(
            self._digest.update, lambda done: self._report("reading what is already here", done, None)
        )


def _content_length(response: httpx.Response) -> int:
    try:
        return int(response.headers["content-length"])
    except (KeyError, ValueError) as error:
        raise Unreachable("the server did not say how long the archive is") from error
