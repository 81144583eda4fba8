"""A real `ebbtide serve` in processes of its own, to be used, killed and looked into by tests.

    <data>/            the data directory, 0700, made by the service itself
    <log>              everything that serve, api and worker printed, of all starts one after another
    <crash file>       names a crash point while one is armed

Processes are found by their command lines, so those that a killed supervisor left are found as well. Nothing is
signalled that was not proven to belong to this data directory a moment before. Crash of the test's own process: the
kernel tells the supervisor, which stops everything in order.
"""

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ebbtide.catalog.catalog import Catalog
from ebbtide.cli.client import EbbtideClient
from ebbtide.cli.profile import Connection
from ebbtide.crash_points import CRASH_POINTS, FREEZE
from ebbtide.data_directory import DataDirectory
from ebbtide.errors import EbbtideError
from ebbtide.mongod.ports import free_port
from ebbtide.processes import dies_with_parent, process_start_ticks
from ebbtide.settings import resolve_settings

Document = dict[str, Any]
T = TypeVar("T")

WAIT_SECONDS = 120.0
"""How long anything is waited for. Far more than it takes: a test fails by what it finds, not by a busy machine."""

STOP_SECONDS = 60.0
"""Far more than `ebbtide serve` allows itself, so that a test sees a slow stop instead of making it a kill."""

ROLES = ("serve", "api", "worker", "catalog", "head")
_POLL_SECONDS = 0.05
_LOOK_SECONDS = 0.15
"""Between two looks through the API: each is a line in the service's log."""


class ServiceNotReady(EbbtideError):
    """The service did not come up, or did not come to what was waited for; the message ends with its log."""


class RunningService:
    """One service on one data directory. `start` and `terminate` may alternate; leaving a `with` ends all of it."""

    def __init__(
        self,
        *,
        data: Path,
        binary: Path,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        listen: str | None = None,
    ) -> None:
        self.data = data
        self.listen = listen or f"127.0.0.1:{free_port()}"
        self.log_path = data.with_name(f"{data.name}.log")
        self.crash_path = data.with_name(f"{data.name}.crash")
        self.command = [
            *[sys.executable, "-m", "ebbtide", "serve", "--data", str(data), "--listen", self.listen],
            *["--mongod", str(binary), "--log-format", "json", *flags],
        ]
        ours = {name: value for name, value in os.environ.items() if not name.startswith("EBBTIDE_")}
        self.environment = {**ours, "EBBTIDE_CRASH_FILE": str(self.crash_path), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> Self:
        """Start `ebbtide serve`, and wait until its API answers unless told not to. Raises ServiceNotReady."""
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
                preexec_fn=dies_with_parent(os.getpid()),  # noqa: PLW1509 — it takes no lock
            )
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        """Return once this start said that the API answers. Raises ServiceNotReady."""
        deadline = time.monotonic() + WAIT_SECONDS
        while "Ebbtide is at" not in self.log_text(this_start=True):
            if not self.is_running() or time.monotonic() > deadline:
                raise ServiceNotReady(f"ebbtide serve did not come up:\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def is_running(self) -> bool:
        """Whether the supervisor lives."""
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        """Ask for an orderly end, and wait for it. Raises ServiceNotReady after `STOP_SECONDS`."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                raise ServiceNotReady(f"ebbtide serve did not stop:\n{self.log_tail()}") from None

    def stop(self) -> None:
        """End every process of this data directory, orderly if possible. Never raises for a service that hangs."""
        try:
            self.terminate()
        except ServiceNotReady:
            pass
        deadline = time.monotonic() + STOP_SECONDS
        # Supervisors first: others would be started again.
        for role in ROLES:
            while (pids := self.process_ids()[role]) and time.monotonic() < deadline:
                for pid in pids:
                    self._kill(pid, role)
        if self._process is not None:
            self._process.wait(STOP_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- using it -------------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        return f"http://{self.listen}"

    @property
    def connection(self) -> Connection:
        """The owner's, from `owner-key.json`."""
        found = json.loads((self.data / "owner-key.json").read_text())
        return Connection(**(found | {"base_url": self.base_url}), origin="owner-key.json")

    @property
    def group_id(self) -> str:
        return str(json.loads((self.data / "owner-key.json").read_text())["group_id"])

    def client(self, connection: Connection | None = None) -> EbbtideClient:
        """A new client, as the owner unless told otherwise; the caller closes it."""
        return EbbtideClient(connection or self.connection)

    @contextmanager
    def catalog(self) -> Iterator[Catalog]:
        """The private catalog, past the API."""
        settings = resolve_settings(flags={}, environment={}, file=None)
        catalog = Catalog.connect(DataDirectory.at(self.data).catalog_uri(settings))
        try:
            yield catalog
        finally:
            catalog.close()

    def wait_until(self, look: Callable[[], T | None], what: str, *, seconds: float = WAIT_SECONDS) -> T:
        """The first answer of `look` that is true; an API that does not answer yet counts as no answer.

        Raises ServiceNotReady, with the log's end.
        """
        deadline = time.monotonic() + seconds
        trouble = ""
        while time.monotonic() < deadline:
            try:
                found = look()
            except EbbtideError as error:
                found, trouble = None, f" (last trouble: {error})"
            if found:
                return found
            time.sleep(_LOOK_SECONDS)
        raise ServiceNotReady(f"waited {seconds:.0f} s for {what} in vain{trouble}:\n{self.log_tail()}")

    # --- trouble on purpose ---------------------------------------------------------------------------------------

    def arm_crash(self, *names: str) -> None:
        """Whichever process reaches the first crash point kills itself there, then at the second. Raises KeyError."""
        self._arm([name for name in names if CRASH_POINTS[name]])

    def arm_freeze(self, name: str) -> None:
        """Whichever process reaches the crash point `name` next stops there, until SIGCONT. Raises KeyError."""
        self._arm([f"{FREEZE}{name}" for name in (name,) if CRASH_POINTS[name]])

    def _arm(self, lines: Sequence[str]) -> None:
        temporary = self.crash_path.with_suffix(".new")
        temporary.write_text("\n".join(lines))
        temporary.replace(self.crash_path)

    def has_crashed(self) -> bool:
        """Whether every armed point was reached: their file is gone."""
        return not self.crash_path.exists()

    def process_ids(self) -> dict[str, list[int]]:
        """The pids that live now, by role: every role of ROLES is there, with none, one or more."""
        found: dict[str, list[int]] = {role: [] for role in ROLES}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                role = self._role_of(int(entry.name))
                if role is not None:
                    found[role].append(int(entry.name))
        return found

    def kill(self, role: str) -> int:
        """SIGKILL the one process of a role, and wait until it has ended; its pid. Raises LookupError."""
        pid = self.process_id(role)
        if not self._kill(pid, role):
            raise LookupError(f"the process of role {role} has ended by itself")
        return pid

    def send(self, role: str, *numbers: signal.Signals) -> int:
        """Send signals, in order, to the one process of a role; its pid. Raises LookupError."""
        pid = self.process_id(role)
        with self._proven(pid, role) as descriptor:
            if descriptor is None:
                raise LookupError(f"the process of role {role} has ended by itself")
            for number in numbers:
                signal.pidfd_send_signal(descriptor, number)
        return pid

    def process_id(self, role: str) -> int:
        """The pid of the one process of a role. Raises LookupError where there is none, or more."""
        pids = self.process_ids()[role]
        if len(pids) != 1:
            raise LookupError(f"there are {len(pids)} processes of role {role}")
        return pids[0]

    def _kill(self, pid: int, role: str) -> bool:
        with self._proven(pid, role) as descriptor:
            if descriptor is None:
                return False
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except ProcessLookupError:
                return False
            if self._process is not None and self._process.pid == pid:
                self._process.wait(STOP_SECONDS)
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            return bool(poller.poll(STOP_SECONDS * 1000))

    @contextmanager
    def _proven(self, pid: int, role: str) -> Iterator[int | None]:
        """A pidfd of a process of ours, or None. Proven after opening: it cannot come to mean another process."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield descriptor if self._role_of(pid) == role else None
        finally:
            os.close(descriptor)

    def _role_of(self, pid: int) -> str | None:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return None
        role = role_of([os.fsdecode(argument) for argument in arguments], self.data)
        return role if role is not None and process_start_ticks(pid) is not None else None

    # --- what it says ---------------------------------------------------------------------------------------------

    def log_text(self, *, this_start: bool = False) -> str:
        """Everything that was printed, of all starts or of the last one."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start if this_start else 0)
            return log.read().decode(errors="replace")

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])


def role_of(arguments: Sequence[str], data: Path) -> str | None:
    """Which role the process with this command line plays for the data directory; None for a stranger."""
    values = dict(itertools.pairwise(arguments))
    if values.get("--data") == str(data):
        role = values.get("ebbtide", "")
        return role if role in ("serve", "api", "worker") else None
    dbpath = Path(values.get("--dbpath", "/"))
    if dbpath == data / "catalog" / "db":
        return "catalog"
    return "head" if dbpath.is_relative_to(data / "heads") else None
