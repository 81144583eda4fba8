"""Fetch the archive of a restore job, and prove that it is what the server has.

    NAME.tar.gz.part        what has come so far
    NAME.tar.gz.part.etag   the ETag of the archive that it is a part of, written first
    NAME.tar.gz             the whole, verified; put in place last, by rename

Invariants: the final name never holds bytes whose length and SHA-1 were not compared with the server's; two downloads
never write one `.part`. How bytes come is `download_fetch`, where they go `download_sinks`.

Crash: the `.part` stays and the next run goes on from it; its tail is compared, the whole is hashed.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ebbtide.cli.client import Document, EbbtideClient
from ebbtide.cli.download_fetch import DownloadLink, Fetch
from ebbtide.cli.download_sinks import (
    FileSink,
    StreamSink,
    lock,
    put_in_place,
    read_note,
    storage_error,
    sync,
    write_note,
)
from ebbtide.cli.render.documents import archive_sha1
from ebbtide.errors import IntegrityError, InvalidInput, Refused, Unreachable

HASH_SECONDS_MIN = 60.0
HASH_BYTES_PER_SECOND = 50_000_000
"""The worker reads the whole archive to hash it: slower than this, and something is wrong."""


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A finished download. `resumed_at` is how much was here before; `path` is None for standard output."""

    path: Path | None
    size_bytes: int
    sha1: str
    resumed_at: int
    seconds: float


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
        lock(file, part)
        etag = read_note(note)
        sink = FileSink(file, part)
        if not etag:
            sink.restart()
        resumed_at = sink.position
        fetch = Fetch(client, link, sink, report=report, sleep=sleep)
        fetch.adopt(etag, note=lambda value: write_note(note, value))
        if sink.position == expected_bytes and (not may_fetch or archive_sha1(fetch_job()) is not None):
            total = sink.position
        else:
            total = fetch.run()
        sync(file, part)
        verify(fetch.sha1, total, fetch_job=fetch_job, name=str(part), report=report, sleep=sleep)
        put_in_place(part, path)
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
