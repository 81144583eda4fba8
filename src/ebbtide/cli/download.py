"""Fetch the archive of a restore job, and prove that it is what the server has.

    NAME.tar.gz.part        what has come so far
    NAME.tar.gz.part.etag   the ETag of the archive that it is a part of, written first
    NAME.tar.gz             the whole, verified; put in place last, by rename

Invariants: the final name never holds bytes whose length and SHA-1 were not compared with the server's; two downloads
never write one `.part` (flock). A broken connection is resumed by Range with If-Range.

A resumed request begins OVERLAP_BYTES before the end of what is here. The server cannot know what of its last bytes
arrived, so it counts up to 1 MiB of a broken transfer as not sent; asking for them again makes the download complete in
its books too, and without that it never tells the SHA-1. What comes again is compared with what is here.

Crash: the `.part` stays and the next run goes on from it; its tail is compared, the whole is hashed.
"""

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import httpx

from ebbtide.cli.api_errors import ApiRefusal, translated
from ebbtide.cli.client import Document, EbbtideClient
from ebbtide.cli.render.documents import archive_sha1
from ebbtide.errors import IntegrityError, InvalidInput, Refused, StorageError, StorageFull, Unreachable

OVERLAP_BYTES = 1024 * 1024
READ_BYTES = 1024 * 1024
ATTEMPTS_MAX = 6
"""Attempts in a row that bring nothing new."""

HASH_SECONDS_MIN = 60.0
HASH_BYTES_PER_SECOND = 50_000_000
"""The worker reads the whole archive to hash it: slower than this, and something is wrong."""

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


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A finished download. `resumed_at` is how much was here before; `path` is None for standard output."""

    path: Path | None
    size_bytes: int
    sha1: str
    resumed_at: int
    seconds: float


class Sink(Protocol):
    """Where the bytes go, in order. `position` is how many there are."""

    position: int

    def write(self, data: bytes) -> None:
        """Append. Raises StorageError."""

    def tail(self, length: int) -> bytes:
        """The last `length` bytes, fewer if fewer are kept."""

    def restart(self) -> None:
        """Forget everything. Raises Refused where that cannot be done."""


class FileSink:
    """Bytes in a `.part` file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self.position = file.seek(0, os.SEEK_END)

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise storage_error(error, self._path) from error
        self.position += len(data)

    def tail(self, length: int) -> bytes:
        start = max(0, self.position - length)
        self._file.seek(start)
        found = self._file.read(self.position - start)
        self._file.seek(self.position)
        return found

    def hash_into(self, update: Callable[[bytes], None], report: Callable[[int], None]) -> None:
        """Feed all that is here to `update`, in order."""
        self._file.seek(0)
        done = 0
        while data := self._file.read(READ_BYTES):
            update(data)
            done += len(data)
            report(done)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.position = 0


class StreamSink:
    """Bytes to a pipe: what was written is gone, but for the last OVERLAP_BYTES kept to compare."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._tail = b""
        self.position = 0

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self._tail = (self._tail + data)[-OVERLAP_BYTES:]
        self.position += len(data)

    def tail(self, length: int) -> bytes:
        return self._tail[-length:] if length else b""

    def restart(self) -> None:
        if self.position:
            raise Refused(
                "the archive on the server is another one now, and what was written cannot be taken back",
                hint="download to a file: that can start over",
            )


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


def target_path(to: str | None, file_name: str) -> Path:
    """Where the archive goes: `to` as a file, `to`/NAME if it is a directory, NAME here without it.

    Raises InvalidInput if its directory does not exist, Refused if the file does.
    """
    path = Path(to) if to else Path(file_name)
    if path.is_dir() or (to is not None and to.endswith("/")):
        path = path / file_name
    if not path.parent.is_dir():
        raise InvalidInput("--to", expected="a file in a directory that exists", got=str(to))
    if path.exists():
        raise Refused(f"{path} is already there", hint="give another name with --to, or move that one away")
    return path


def part_is_complete(path: Path, expected_bytes: int | None) -> bool:
    """Whether all bytes of `path` came before, and only its verification is missing."""
    try:
        return Path(f"{path}.part").stat().st_size == expected_bytes
    except OSError:
        return False


def part_has_begun(path: Path) -> bool:
    """Whether some bytes of `path` came before."""
    try:
        return Path(f"{path}.part").stat().st_size > 0
    except OSError:
        return False


def download_to_file(
    client: EbbtideClient,
    link: DownloadLink,
    path: Path,
    *,
    fetch_job: Callable[[], Document],
    report: Callable[[str, int, int | None], None],
    expected_bytes: int | None = None,
    may_fetch: bool = True,
    sleep: Callable[[float], None] = time.sleep,
) -> Downloaded:
    """Download to `path` by way of `path`.part, going on from what is there.

    `report(phase, done, total)` is called often. With all `expected_bytes` here, nothing is fetched if the job tells its
    SHA-1 already, or if the link is dead (`may_fetch` false): they are only verified. Raises IntegrityError (another length or SHA-1; the `.part` stays and
    `path` does not come into being), StorageError, Unreachable, and ApiRefusal for a link that is not valid any more.
    """
    part, note = Path(f"{path}.part"), Path(f"{path}.part.etag")
    started = time.monotonic()
    try:
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(error, part) from error
    with os.fdopen(handle, "r+b") as file:
        _lock(file, part)
        etag = _read_note(note)
        sink = FileSink(file, part)
        if not etag:
            sink.restart()
        resumed_at = sink.position
        fetch = Fetch(client, link, sink, report=report, sleep=sleep)
        fetch.adopt(etag, note=lambda value: _write_note(note, value))
        if sink.position == expected_bytes and (not may_fetch or archive_sha1(fetch_job()) is not None):
            total = sink.position
        else:
            total = fetch.run()
        _sync(file, part)
        verify(fetch.sha1, total, fetch_job=fetch_job, name=str(part), report=report, sleep=sleep)
        _put_in_place(part, path)
        note.unlink(missing_ok=True)
    return Downloaded(
        path=path,
        size_bytes=total,
        sha1=fetch.sha1,
        resumed_at=resumed_at,
        seconds=time.monotonic() - started,
    )


def download_to_stream(
    client: EbbtideClient,
    link: DownloadLink,
    stream: BinaryIO,
    *,
    fetch_job: Callable[[], Document],
    report: Callable[[str, int, int | None], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Downloaded:
    """The same into a pipe. The reader has all bytes before their SHA-1 is compared: it must look at the exit code."""
    started = time.monotonic()
    fetch = Fetch(client, link, StreamSink(stream), report=report, sleep=sleep)
    total = fetch.run()
    stream.flush()
    verify(fetch.sha1, total, fetch_job=fetch_job, name=link.file_name, report=report, sleep=sleep)
    return Downloaded(
        path=None, size_bytes=total, sha1=fetch.sha1, resumed_at=0, seconds=time.monotonic() - started
    )


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


def verify(
    sha1: str,
    size_bytes: int,
    *,
    fetch_job: Callable[[], Document],
    name: str,
    report: Callable[[str, int, int | None], None],
    sleep: Callable[[float], None],
) -> None:
    """Compare with the SHA-1 that the job tells, which comes a while after the first complete download.

    Raises IntegrityError if it is another; Unreachable if none came in time: unverified is not verified.
    """
    patience = HASH_SECONDS_MIN + size_bytes / HASH_BYTES_PER_SECOND
    waited = 0.0
    while True:
        told = archive_sha1(fetch_job())
        if told is not None:
            break
        if waited >= patience:
            raise Unreachable(
                f"all {size_bytes} bytes came, but the server did not tell their SHA-1 in {patience:.0f} s; {name} is "
                "not verified",
                hint="run the same command again later: it does not download everything again",
            )
        report("waiting for the server's SHA-1", size_bytes, size_bytes)
        pause = min(2.0, 0.25 + waited / 10)
        sleep(pause)
        waited += pause
    if told != sha1:
        raise IntegrityError(
            name, f"its SHA-1 is {sha1}, the server's is {told}", hint="remove it and download again"
        )


def storage_error(error: OSError, path: Path) -> StorageError:
    """`error` as ours, by its number."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull("write", str(path))
    return StorageError("write", str(path), error.strerror or str(error))


def _lock(file: BinaryIO, part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Refused(f"{part} is being written by another download") from error


def _read_note(note: Path) -> str:
    try:
        return note.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _write_note(note: Path, etag: str) -> None:
    try:
        if etag and etag.isascii():
            note.write_text(etag, encoding="ascii")
        else:
            note.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, note) from error


def _sync(file: BinaryIO, part: Path) -> None:
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(error, part) from error


def _put_in_place(part: Path, path: Path) -> None:
    try:
        # link and unlink, not rename: a file that came to be there meanwhile is not overwritten.
        try:
            os.link(part, path)
        except FileExistsError:
            raise Refused(f"{path} is already there now; the download is complete in {part}") from None
        except OSError:
            # A file system without hard links.
            os.rename(part, path)
        else:
            part.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise storage_error(error, path) from error


def _content_length(response: httpx.Response) -> int:
    try:
        return int(response.headers["content-length"])
    except (KeyError, ValueError) as error:
        raise Unreachable("the server did not say how long the archive is") from error
