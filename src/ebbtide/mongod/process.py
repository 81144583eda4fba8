"""A mongod of ours: start it, know it again, ask whether it lives, stop it.

A mongod may outlive the process that started it, so each has an identity file beside its data: JSON, 0600, with pid,
start time of that pid, boot id, binary and options. A pid alone proves nothing (pids are used again): before a pid
is signalled it is shown to be the very process of the identity file.

Invariants
  * the identity file is written without a pid before the process is made, and with it right after
  * nothing is signalled that was not proven to be ours a moment before, through a descriptor that cannot come to
    mean another process
  * every wait has a deadline
Crash: between the two writes of the identity file the process may exist; `find_running` then looks for the only
process that has this binary and this dbpath. An identity file whose process is gone is removed by `find_running`.

Threads: all methods may be called from any thread.
"""

import ctypes
import errno
import itertools
import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ebbtide.errors import InvalidInput, MongodError, MongodStartFailed
from ebbtide.mongod.binary import mongod_version
from ebbtide.mongod.options import (
    Listen,
    MongodOptions,
    Tcp,
    UnixSocket,
    connect_host,
    connection_uri,
    options_from_document,
    options_to_document,
    render_arguments,
)
from ebbtide.mongod.ports import is_bindable

Document = dict[str, Any]

IDENTITY_FORMAT = 1
STOP_SECONDS = 20.0
KILL_SECONDS = 10.0
"""How long the kernel may take to end a killed process (it may be deep in a disk write)."""

_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 64 * 1024
_LOG_LINE_LENGTH_MAX = 400
_PR_SET_PDEATHSIG = 1
# A mongod that cannot use a keyfile quotes its contents in its log (6.0.5); ours must not quote them on.
_KEYFILE_TEXT = re.compile(r"(in key file [^:]*: ).*")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_libc = ctypes.CDLL(None, use_errno=True)


class StopOutcome(StrEnum):
    """How a mongod ended."""

    NOT_RUNNING = "NOT_RUNNING"  # it was gone before it was asked
    STOPPED = "STOPPED"  # it shut down by itself, when asked
    KILLED = "KILLED"  # it did not end in time and was killed


@dataclass(frozen=True, kw_only=True)
class MongodIdentity:
    """What proves that a pid is a certain mongod. `start_ticks` are clock ticks from boot to the process's start."""

    pid: int
    start_ticks: int
    boot_id: str
    binary: Path
    version: str
    options: MongodOptions


class MongodProcess:
    """One running (or ended) mongod.

    An object made by `start` or `spawn` is the parent of its process and reaps it when it looks at it; one made by
    `find_running` only watches. Keep the object as long as the process is to be looked after.
    """

    def __init__(
        self,
        identity: MongodIdentity,
        *,
        identity_path: Path,
        child: "subprocess.Popen[bytes] | None" = None,
        log_start_bytes: int = 0,
    ) -> None:
        self.identity = identity
        self.identity_path = identity_path
        self._child = child
        self._log_start_bytes = log_start_bytes

    @classmethod
    def start(
        cls,
        binary: Path,
        options: MongodOptions,
        *,
        identity_path: Path,
        ready_seconds: float = 30.0,
        nice: int = 0,
        die_with_parent: bool = False,
    ) -> "MongodProcess":
        """Start a mongod and wait until it answers; one that does not is killed and leaves no identity file.

        Parameters as for `spawn`; raises as `spawn` and `wait_until_ready` do.
        """
        process = cls.spawn(
            binary, options, identity_path=identity_path, nice=nice, die_with_parent=die_with_parent
        )
        try:
            process.wait_until_ready(ready_seconds=ready_seconds)
        except BaseException:
            process.kill()
            raise
        return process

    @classmethod
    def spawn(
        cls,
        binary: Path,
        options: MongodOptions,
        *,
        identity_path: Path,
        nice: int = 0,
        die_with_parent: bool = False,
    ) -> "MongodProcess":
        """Start a mongod without waiting for it; the directories it needs are made, 0700.

        It runs in a session of its own, so Ctrl-C in a terminal does not reach it. `nice` 0 … 19 is added to our
        own. With `die_with_parent` the kernel sends it SIGTERM when the *thread* that called this ends, however that
        happens: call it from a thread that lives as long as the mongod shall.

        Raises MongodStartFailed if the identity file's mongod still runs, or the TCP port is taken; InvalidInput if
        a Unix socket is to lie in a directory that others may enter; MongodBinaryMissing.
        """
        version = mongod_version(binary)
        if cls.find_running(identity_path) is not None:
            raise MongodStartFailed(
                f"the mongod of {identity_path} is already running", hint="adopt it, or stop it first"
            )
        _prepare_directories(options, identity_path)
        _check_listen(options.listen)
        nobody = MongodIdentity(
            pid=0, start_ticks=0, boot_id=_boot_id(), binary=binary, version=version, options=options
        )
        _save_identity(identity_path, nobody)
        log = os.open(options.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            log_start_bytes = os.fstat(log).st_size
            child = subprocess.Popen(
                [str(binary), *render_arguments(options)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=options.dbpath,
                env={k: v for k, v in os.environ.items() if not k.startswith("EBBTIDE_")},
                start_new_session=True,
                # It takes no lock and calls the kernel only, so other threads of ours cannot hang it.
                preexec_fn=dies_with_parent(os.getpid()) if die_with_parent else None,  # noqa: PLW1509
            )
        except OSError as error:
            identity_path.unlink(missing_ok=True)
            raise MongodStartFailed(f"{binary} cannot be started: {error}") from error
        finally:
            os.close(log)
        if nice:
            # It has one thread yet, and the threads to come inherit this. Fails harmlessly if it ended already.
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, child.pid, os.getpriority(os.PRIO_PROCESS, 0) + nice)
        # Our child cannot be reaped by anyone else, so its /proc entry is there even if it has ended.
        state = _read_stat(child.pid)
        identity = MongodIdentity(
            pid=child.pid,
            start_ticks=state.start_ticks if state else 0,
            boot_id=nobody.boot_id,
            binary=binary,
            version=version,
            options=options,
        )
        _save_identity(identity_path, identity)
        return cls(identity, identity_path=identity_path, child=child, log_start_bytes=log_start_bytes)

    @classmethod
    def find_running(cls, identity_path: Path) -> "MongodProcess | None":
        """The mongod of this identity file if it still runs, to be watched and stopped; else None.

        An identity file whose process is gone, or that cannot be read as one, is removed.
        """
        identity = _load_identity(identity_path)
        if identity is not None and identity.pid == 0:
            identity = _find_by_dbpath(identity)
            if identity is not None:
                _save_identity(identity_path, identity)
        if identity is None or not _is_alive(identity):
            identity_path.unlink(missing_ok=True)
            return None
        return cls(identity, identity_path=identity_path)

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def options(self) -> MongodOptions:
        return self.identity.options

    @property
    def version(self) -> str:
        return self.identity.version

    @property
    def dbpath(self) -> Path:
        return self.identity.options.dbpath

    @property
    def uri(self) -> str:
        """A connection string to exactly this mongod, without credentials."""
        return connection_uri(self.identity.options.listen)

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs, or if we are not its parent."""
        return self._child.poll() if self._child is not None else None

    def client(self, **client_options: Any) -> "MongoClient[Document]":
        """A new client to exactly this mongod; the caller closes it. Options are PyMongo's."""
        defaults: dict[str, Any] = {"directConnection": True, "serverSelectionTimeoutMS": 10_000}
        return MongoClient(self.uri, **(defaults | client_options))

    def is_running(self) -> bool:
        """Whether the process lives; a zombie does not."""
        if self._child is not None:
            return self._child.poll() is None
        return _is_alive(self.identity)

    def wait_until_ready(self, *, ready_seconds: float = 30.0) -> Document:
        """The answer to `hello`, as soon as there is one.

        Raises MongodStartFailed, with the last lines of its log, when the process ends or `ready_seconds` pass.
        """
        deadline = time.monotonic() + ready_seconds
        while time.monotonic() < deadline:
            if not self.is_running():
                code = self.exit_code
                raise self._start_failed(f"ended with exit code {code}" if code is not None else "ended")
            if _is_listening(self.options.listen):
                answer = self._hello(deadline - time.monotonic())
                if answer is not None:
                    return answer
            time.sleep(_POLL_SECONDS)
        raise self._start_failed(f"did not answer within {ready_seconds:g} s")

    def wait(self, *, timeout_seconds: float) -> bool:
        """Wait until the process has ended; whether it has."""
        with _proven_descriptor(self.identity) as descriptor:
            if descriptor is not None and not _has_ended(descriptor, timeout_seconds=timeout_seconds):
                return False
        if self._child is not None:
            # It is a zombie now: this returns at once.
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=KILL_SECONDS)
        return True

    def stop(self, *, timeout_seconds: float = STOP_SECONDS) -> StopOutcome:
        """Ask it to shut down, and kill it if it has not after `timeout_seconds`. Removes the identity file.

        Raises MongodError if it survives even that.
        """
        outcome = StopOutcome.NOT_RUNNING
        if self._signal(signal.SIGTERM):
            outcome = StopOutcome.STOPPED
            if not self.wait(timeout_seconds=timeout_seconds):
                outcome = StopOutcome.KILLED
        self.kill()
        return outcome

    def kill(self) -> None:
        """End it at once, as a power cut would. Removes the identity file.

        Raises MongodError if the kernel does not end it within 10 s; the identity file then stays.
        """
        self._signal(signal.SIGKILL)
        if not self.wait(timeout_seconds=KILL_SECONDS):
            raise MongodError(
                f"mongod {self.pid} was killed and has not ended", hint="its disk may be hanging: see dmesg"
            )
        self._remove_identity()

    def log_tail(self, lines: int = 20) -> list[str]:
        """The last lines that this mongod logged, oldest first, long ones cut."""
        return _read_log_tail(self.options.log_path, lines=lines, start_bytes=self._log_start_bytes)

    def _hello(self, timeout_seconds: float) -> Document | None:
        millis = max(100, int(timeout_seconds * 1000))
        try:
            with self.client(
                serverSelectionTimeoutMS=millis, connectTimeoutMS=millis, socketTimeoutMS=millis
            ) as client:
                return dict(client.admin.command("hello"))
        except PyMongoError:
            return None

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal; False if the process is gone."""
        with _proven_descriptor(self.identity) as descriptor:
            if descriptor is None or _has_ended(descriptor, timeout_seconds=0):
                return False
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return False
            return True

    def _remove_identity(self) -> None:
        """Remove the identity file, unless a later mongod has put its own there."""
        found = _load_identity(self.identity_path)
        if found is None or (found.pid, found.start_ticks) == (self.pid, self.identity.start_ticks):
            self.identity_path.unlink(missing_ok=True)

    def _start_failed(self, what: str) -> MongodStartFailed:
        tail = "\n".join(self.log_tail(10)) or "(empty)"
        return MongodStartFailed(
            f"mongod on {self.dbpath} {what}; the last lines of its log {self.options.log_path}:\n{tail}"
        )


# --- identity -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ProcessStat:
    """From /proc/PID/stat: the state letter, and when the process began in clock ticks since boot."""

    state: str
    start_ticks: int


def parse_stat(text: str) -> ProcessStat:
    """The fields of /proc/PID/stat that we use. Raises ValueError or IndexError for another shape."""
    # The second field is the command in parentheses, and may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return ProcessStat(state=fields[0], start_ticks=int(fields[19]))


def current_boot_id() -> str:
    """The kernel's name for the time since the machine started."""
    return _boot_id()


def process_start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None if there is none, or it is a zombie."""
    found = _read_stat(pid)
    return None if found is None or found.state in "ZX" else found.start_ticks


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _read_stat(pid: int) -> ProcessStat | None:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (OSError, ValueError, IndexError):
        return None


def _is_alive(identity: MongodIdentity) -> bool:
    """Whether the pid is that very process, and it has not ended; one that only waits to be reaped has."""
    with _proven_descriptor(identity) as descriptor:
        return descriptor is not None and not _has_ended(descriptor, timeout_seconds=0)


def _has_ended(descriptor: int, *, timeout_seconds: float) -> bool:
    """Whether all threads of a process have ended within the time.

    /proc does not tell: it calls a process a zombie as soon as its first thread has ended, while others may still
    be writing and holding the lock of the data directory.
    """
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout_seconds) * 1000))


def _is_same_process(identity: MongodIdentity) -> bool:
    found = _read_stat(identity.pid)
    if found is None or identity.boot_id != _boot_id() or found.start_ticks != identity.start_ticks:
        return False
    # A process that is ending has no command line any more.
    return found.state in "ZX" or _has_dbpath(identity.pid, identity.options.dbpath)


def _has_dbpath(pid: int, dbpath: Path) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    wanted = os.fsencode(dbpath)
    return any(a == b"--dbpath" and b == wanted for a, b in itertools.pairwise(arguments))


def _find_by_dbpath(identity: MongodIdentity) -> MongodIdentity | None:
    """The identity completed with the process that has its binary and its dbpath, if there is one of ours."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            is_ours = entry.stat().st_uid == os.getuid() and (entry / "exe").samefile(identity.binary)
        except OSError:
            continue
        ticks = process_start_ticks(pid)
        if is_ours and ticks is not None and _has_dbpath(pid, identity.options.dbpath):
            return MongodIdentity(
                pid=pid,
                start_ticks=ticks,
                boot_id=_boot_id(),
                binary=identity.binary,
                version=identity.version,
                options=identity.options,
            )
    return None


@contextmanager
def _proven_descriptor(identity: MongodIdentity) -> Iterator[int | None]:
    """A pidfd of the process, which may have ended, or None if it is gone. Proven after opening, so it cannot mean another process."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError as error:
        # EINVAL is for a pid that no process can have.
        if error.errno not in (errno.ESRCH, errno.EINVAL):
            raise
        yield None
        return
    try:
        yield descriptor if _is_same_process(identity) else None
    finally:
        os.close(descriptor)


def _save_identity(path: Path, identity: MongodIdentity) -> None:
    document = {
        "format": IDENTITY_FORMAT,
        "pid": identity.pid,
        "start_ticks": identity.start_ticks,
        "boot_id": identity.boot_id,
        "binary": str(identity.binary),
        "version": identity.version,
        "options": options_to_document(identity.options),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file, indent=1)
    # No fsync: after a power cut no process is left that the file could describe.
    temporary.replace(path)


def _load_identity(path: Path) -> MongodIdentity | None:
    try:
        document = json.loads(path.read_text())
        if document["format"] != IDENTITY_FORMAT:
            return None
        return MongodIdentity(
            pid=int(document["pid"]),
            start_ticks=int(document["start_ticks"]),
            boot_id=str(document["boot_id"]),
            binary=Path(document["binary"]),
            version=str(document["version"]),
            options=options_from_document(document["options"]),
        )
    except (OSError, ValueError, KeyError, TypeError, InvalidInput):
        return None


# --- starting -----------------------------------------------------------------------------------------------------


def _prepare_directories(options: MongodOptions, identity_path: Path) -> None:
    directories = [options.dbpath, options.log_path.parent, identity_path.parent]
    if isinstance(options.listen, UnixSocket):
        directories.append(options.listen.path.parent)
    for directory in directories:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _check_listen(listen: Listen) -> None:
    match listen:
        case UnixSocket(path=path):
            mode = stat.S_IMODE(path.parent.stat().st_mode)
            if mode & 0o077:
                raise InvalidInput(
                    "socket directory",
                    expected="a directory that only its owner may enter (mode 0700)",
                    got=f"{path.parent} with mode {mode:04o}",
                    hint=f"chmod 700 {path.parent}",
                )
        case Tcp(host=host, port=port):
            # Else the other server would answer our hello, and we would take it for our own.
            if not is_bindable(host, port):
                raise MongodStartFailed(
                    f"mongod cannot listen on {host}:{port}",
                    hint="the port is taken, or the host is not this machine",
                )


def dies_with_parent(parent_pid: int) -> Callable[[], None]:
    """What the child does before it becomes mongod. Nothing in it may take a lock: other threads are gone."""

    def ask_kernel() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent_pid:
            os._exit(1)

    return ask_kernel


def _is_listening(listen: Listen) -> bool:
    try:
        match listen:
            case UnixSocket(path=path):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.settimeout(1.0)
                    probe.connect(str(path))
            case Tcp(port=port):
                with socket.create_connection((connect_host(listen), port), timeout=1.0):
                    pass
    except OSError:
        return False
    return True


def _read_log_tail(path: Path, *, lines: int, start_bytes: int) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # A log that was rotated away is shorter than where we began.
            begin = start_bytes if start_bytes <= size else 0
            file.seek(max(begin, size - _LOG_TAIL_BYTES))
            text = file.read(_LOG_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    tail = [line for line in text.splitlines() if line.strip()][-lines:] if lines > 0 else []
    tail = [_KEYFILE_TEXT.sub(r"\1(hidden)", line) for line in tail]
    return [line if len(line) <= _LOG_LINE_LENGTH_MAX else f"{line[:_LOG_LINE_LENGTH_MAX]}…" for line in tail]
