"""A mongod of a restore, on files in a scratch directory: started, looked after, stopped cleanly or killed.

    <directory>/db            the files
    <directory>/<phase>.log   what the mongod of each phase logged
    <directory>/mongod.json   who it is, so that whoever comes next finds one that was left behind

It serves a full copy of production without asking for a password, so it listens on a Unix socket in a directory of its
owner alone, and on nothing else. Every start has TTL deletion and the refresh of logical sessions off: else it would
delete what has expired since.

Invariants
  * leaving `running` without an error means that it shut down cleanly; with one, that it was killed
  * `check` is called twice a second at least while one waits, so that a worker that stops stops it too
Crash: it ends with the thread that started it, however that ends; `kill_leftover` ends one that did not. Its files are
then good for nothing (SERVER-87919): whoever comes next begins with new ones.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ebbtide.errors import MongodDied, MongodStartFailed
from ebbtide.mongod.options import (
    CACHE_GB_MIN,
    SOCKET_PATH_BYTES_MAX,
    MongodOptions,
    ParameterValue,
    UnixSocket,
)
from ebbtide.mongod.process import MongodProcess
from ebbtide.settings import Settings

Document = dict[str, Any]

SAFE_PARAMETERS: Mapping[str, ParameterValue] = {
    "ttlMonitorEnabled": False,
    "disableLogicalSessionCacheRefresh": True,
}
CACHE_GB_MAX = 8.0
CACHE_SHARE = 0.25
_LOOK_SECONDS = 0.5
_TAIL_BYTES = 64 * 1024
_IDENTITY = "mongod.json"
_SOCKET = "m.sock"


@dataclass(frozen=True, kw_only=True)
class ScratchFiles:
    """A dbpath in a scratch directory, and how a mongod is run on it. `storage` is the manifest's layout."""

    directory: Path
    binary: Path
    cache_gb: float
    storage: Mapping[str, str | int | bool | None] = field(default_factory=dict)

    @property
    def dbpath(self) -> Path:
        return self.directory / "db"

    @property
    def identity_path(self) -> Path:
        return self.directory / _IDENTITY

    def log_path(self, phase: str) -> Path:
        return self.directory / f"{phase}.log"

    def log_lines(self, phase: str) -> list[str]:
        """What the mongod of that phase has logged so far."""
        with suppress(FileNotFoundError):
            return self.log_path(phase).read_text(errors="replace").splitlines()
        return []

    def log_tail(self, phase: str) -> list[str]:
        """Its last lines; the first of them may be cut."""
        with suppress(FileNotFoundError), self.log_path(phase).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return log.read(_TAIL_BYTES).decode(errors="replace").splitlines()
        return []


def cache_gb(settings: Settings) -> float:
    """The cache of each mongod of a restore: as set, else a quarter of the memory that is free now, at most 8 GB."""
    asked = settings.number("restore.cache_gb")
    return asked or min(CACHE_GB_MAX, max(CACHE_GB_MIN, round(CACHE_SHARE * _free_memory_gb(), 2)))


def _free_memory_gb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024 / 1024
    return CACHE_GB_MIN / CACHE_SHARE


@contextmanager
def running(
    files: ScratchFiles,
    phase: str,
    *,
    check: Callable[[], None],
    parameters: Mapping[str, ParameterValue] | None = None,
    on_look: Callable[[], None] = lambda: None,
) -> Iterator["MongoClient[Document]"]:
    """A mongod on the files, and a client of it; `parameters` are added to the safe ones.

    `on_look` is called now and then while it starts. Raises MongodStartFailed, MongodDied where it did not end as it
    should, and what `check` and `on_look` raise. Only for a thread that lives as long as the mongod shall.
    """
    with _socket_path(files.directory) as socket:
        process = MongodProcess.spawn(
            files.binary,
            _options(files, phase, socket, parameters or {}),
            identity_path=files.identity_path,
            die_with_parent=True,
        )
        try:
            _wait_until_ready(process, check, on_look)
            with process.client() as client:
                yield client
                _shut_down(process, client, check)
        finally:
            process.kill()


def kill_leftover(directory: Path) -> None:
    """End every mongod that still runs on files in this scratch directory, or in one directly below it."""
    for identity in (directory / _IDENTITY, *directory.glob(f"*/{_IDENTITY}")):
        process = MongodProcess.find_running(identity)
        if process is not None:
            process.kill()


def _options(
    files: ScratchFiles, phase: str, socket: Path, parameters: Mapping[str, ParameterValue]
) -> MongodOptions:
    return MongodOptions(
        dbpath=files.dbpath,
        log_path=files.log_path(phase),
        listen=UnixSocket(path=socket),
        cache_gb=files.cache_gb,
        set_parameters={**SAFE_PARAMETERS, **parameters},
        extra_flags=("--directoryperdb",) if files.storage.get("directoryPerDB") else (),
    )


@contextmanager
def _socket_path(directory: Path) -> Iterator[Path]:
    """Where the socket is: in the scratch directory, or where that path is too long, in a private one for a while."""
    path = directory / _SOCKET
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ebbtide-restore-") as name:
        yield Path(name) / _SOCKET


def _wait_until_ready(process: MongodProcess, check: Callable[[], None], on_look: Callable[[], None]) -> None:
    """However long it takes: a replay may run for hours before the mongod listens."""
    while True:
        check()
        on_look()
        try:
            process.wait_until_ready(ready_seconds=_LOOK_SECONDS)
            return
        except MongodStartFailed:
            if not process.is_running():
                raise


def _shut_down(process: MongodProcess, client: "MongoClient[Document]", check: Callable[[], None]) -> None:
    """Until it has ended by itself: only then everything is on the disk."""
    with suppress(PyMongoError):
        client.admin.command("shutdown", 1, force=True)
    while not process.wait(timeout_seconds=_LOOK_SECONDS):
        check()
    if process.exit_code != 0:
        raise MongodDied(
            f"a mongod of a restore ended with {process.exit_code} instead of shutting down",
            hint="the restore begins again with new files",
        )
