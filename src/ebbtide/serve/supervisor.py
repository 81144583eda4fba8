"""The supervisor: one private catalog, one api process, one worker process, each restarted when it dies.

    serve ─┬─ mongod (catalog, Unix socket)      only where the catalog is embedded
           ├─ api                                 REST, downloads
           └─ worker ── mongod (a head) …         heads outlive a worker that is killed, and are adopted by the next

Stop order: api, worker (which unlocks and stops its heads), catalog: within `STOP_SECONDS`, and no process is left. A
worker that does not end in time is killed, and the supervisor stops its heads.
Kill -9 of the supervisor: the kernel tells its children (parent-death signal), which stop in order by themselves.
One supervisor a data directory, by a file lock that dies with the process.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx
import structlog

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.crash_points import is_armed
from ebbtide.data_directory import DataDirectory
from ebbtide.errors import MongodError, NotFound
from ebbtide.listen import external_url, resolve_listen
from ebbtide.mongod.log_rotation import rotate_log
from ebbtide.mongod.process import MongodProcess
from ebbtide.processes import dies_with_parent
from ebbtide.repository.repository import Repository
from ebbtide.sealing import ServiceKey
from ebbtide.serve.catalog_mongod import start_catalog
from ebbtide.serve.first_start import OwnerKey, ensure_owner
from ebbtide.serve.serve_lock import take_serve_lock
from ebbtide.settings import SETTINGS, Settings
from ebbtide.storage.directory import DirectoryStorage

LOOK_SECONDS = 0.2
STOP_SECONDS = 18.0
CATALOG_STOP_SECONDS = 4.0
HEAD_STOP_SECONDS = 4.0
RESTART_DELAY_MAX_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A child that ran this long was well: its next restart is at once."""

_log = structlog.get_logger()


@dataclass
class Child:
    """One child process and when it may be started again."""

    name: str
    arguments: list[str]
    process: "subprocess.Popen[bytes] | None" = None
    deaths: int = 0
    started_at: float = 0.0
    restart_at: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)


class Supervisor:
    """Runs everything of one data directory until `stop`."""

    def __init__(self, data_dir: Path, settings: Settings, *, config_file: Path | None) -> None:
        self.directory = DataDirectory.at(data_dir)
        self._settings = settings
        self._listen = resolve_listen(settings)
        self.base_url = external_url(settings, self._listen)
        self._stopping = threading.Event()
        self._lock: IO[str] | None = None
        self._catalog_process: MongodProcess | None = None
        environment = child_environment(os.environ, settings)
        common = ["--data", str(self.directory.root)]
        if config_file is not None:
            common += ["--config", str(config_file)]
        self._children = [
            Child(name=name, arguments=[name, *common], environment=environment) for name in ("api", "worker")
        ]

    @property
    def local_url(self) -> str:
        """Where this machine reaches the API."""
        return self._listen.url

    def stop(self) -> None:
        self._stopping.set()

    def reload(self) -> None:
        """Have the API read its certificate again. Safe in a signal handler."""
        for child in self._children:
            # Only it: to others that signal is the end.
            if child.name == "api" and child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGHUP)

    def prepare(self, *, on_terminal: bool) -> OwnerKey | None:
        """Everything that must be before the first child: directories, catalog, repository, owner. Repeatable.

        Raises Refused where another serve runs here, and whatever cannot be prepared.
        """
        self.directory.prepare()
        self._lock = take_serve_lock(self.directory)
        if self._settings.text("catalog.uri") is None:
            self._catalog_process = start_catalog(self.directory, self._settings)
        open_or_create_repository(self.directory, self._settings)
        service_key = ServiceKey.load_or_create(self.directory.service_key_file(self._settings))
        catalog = Catalog.connect(self.directory.catalog_uri(self._settings))
        try:
            catalog.prepare()
            return ensure_owner(
                catalog,
                directory=self.directory,
                service_key=service_key,
                clock=SystemClock(),
                base_url=self.base_url,
                allow=list(self._settings["api.allow"]),
                on_terminal=on_terminal,
            )
        finally:
            catalog.close()

    def run(self, on_ready: Callable[[], None]) -> None:
        """Keep the children running until `stop`; call `on_ready` once the API answers."""
        try:
            waiting = True
            while not self._stopping.is_set():
                self._keep_catalog()
                for child in self._children:
                    self._keep(child)
                if waiting and self._api_answers():
                    waiting = False
                    on_ready()
                self._stopping.wait(LOOK_SECONDS)
        finally:
            self.shut_down()

    def shut_down(self) -> None:
        """Stop everything, in order, within `STOP_SECONDS`."""
        deadline = time.monotonic() + STOP_SECONDS - CATALOG_STOP_SECONDS
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
        for child in self._children:
            if child.process is not None:
                _wait_or_kill(child.process, deadline)
        # The worker stops those that it keeps. It may have been killed, or just started, and keep none yet.
        stop_left_heads(self.directory)
        if self._catalog_process is not None:
            self._catalog_process.stop(timeout_seconds=CATALOG_STOP_SECONDS)
            self._catalog_process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # --- looking after --------------------------------------------------------------------------------------------

    def _keep_catalog(self) -> None:
        process = self._catalog_process
        if process is None:
            return
        if process.is_running():
            rotate_log(process)
            return
        _log.error("catalog.died", message="the catalog's mongod is gone; it is started again")
        try:
            self._catalog_process = start_catalog(self.directory, self._settings)
        except MongodError as error:
            _log.error("catalog.not_started", message=str(error))
            self._stopping.wait(2.0)

    def _keep(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is not None:
            if child.process.poll() is None:
                return
            lived = now - child.started_at
            child.deaths = 0 if lived > STEADY_SECONDS else child.deaths + 1
            # Whoever kills children on purpose is not a child that cannot live.
            child.restart_at = now + (0.0 if is_armed() else restart_delay_seconds(child.deaths))
            _log.error("child.died", child=child.name, exit_code=child.process.returncode)
            child.process = None
        if now >= child.restart_at:
            child.started_at = now
            child.process = self._spawn(child)

    def _spawn(self, child: Child) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "ebbtide", *child.arguments],
            stdin=subprocess.DEVNULL,
            env=child.environment,
            # Ctrl-C is for the supervisor, which stops its children in order.
            start_new_session=True,
            preexec_fn=dies_with_parent(os.getpid()),  # noqa: PLW1509 — it takes no lock
        )

    def _api_answers(self) -> bool:
        try:
            with httpx.Client(verify=False, timeout=1.0, trust_env=False) as client:
                client.get(f"{self._listen.url}/api/ebbtide/v1/status")
        except httpx.HTTPError:
            return False
        return True


def restart_delay_seconds(deaths: int) -> float:
    """How long to wait before a child is started again: at once after a first death, then 1, 2, 4 … 30 s."""
    return 0.0 if deaths <= 1 else min(RESTART_DELAY_MAX_SECONDS, 2.0 ** (deaths - 2))


def child_environment(environment: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """What the children read their settings from: our environment, with our flags in it."""
    merged = dict(environment)
    for setting in SETTINGS:
        if settings.origins[setting.name] == "flag":
            value = settings[setting.name]
            merged[setting.environment_name] = ",".join(value) if isinstance(value, list) else str(value)
    return merged


def open_or_create_repository(directory: DataDirectory, settings: Settings) -> Repository:
    """The repository at the place that the settings name; a new one where that place is empty."""
    storage = DirectoryStorage(directory.repository(settings))
    storage.sweep_temporary()
    try:
        return Repository.open(storage)
    except NotFound:
        return Repository.create(storage, now=SystemClock().now())


def stop_left_heads(directory: DataDirectory) -> None:
    """Stop the heads that the worker did not stop: they outlive it."""
    for identity in directory.heads.glob("*/mongod.json"):
        head = MongodProcess.find_running(identity)
        if head is not None:
            _log.warning("head.left_by_worker", pid=head.pid)
            head.stop(timeout_seconds=HEAD_STOP_SECONDS)


def _wait_or_kill(process: "subprocess.Popen[bytes]", deadline: float) -> None:
    """Wait until it ends by itself; after the deadline end it."""
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _log.warning("child.killed", pid=process.pid)
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)


def memory_bytes(settings: Settings, *, clusters: int) -> int:
    """What the installation takes at most, roughly: caches, and what each process needs besides."""
    mongod_besides = 250 * 1024**2
    caches = settings.number("catalog.cache_gb") + clusters * settings.number("head.cache_gb")
    return int(caches * 1024**3) + (clusters + 1) * mongod_besides + 3 * 150 * 1024**2


def warn_of_memory(settings: Settings, *, clusters: int) -> str | None:
    """A sentence where more than half of the machine's memory would be used."""
    needed = memory_bytes(settings, clusters=clusters)
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed <= have / 2:
        return None
    return (
        f"Ebbtide may take {needed / 1024**3:.1f} GiB, more than half of this machine's {have / 1024**3:.1f} GiB: "
        "lower head.cache_gb, or give it a machine of its own"
    )


def stop_on_signals(supervisor: Supervisor) -> None:
    """SIGTERM and SIGINT end everything in order; SIGHUP has the certificate read again, where there is no terminal.

    On a terminal it says that the terminal was closed, and ends the supervisor as it ends everything there.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    if sys.stdin is None or not sys.stdin.isatty():
        signal.signal(signal.SIGHUP, lambda *_: supervisor.reload())
