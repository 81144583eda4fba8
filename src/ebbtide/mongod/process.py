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

import os
import re
import signal
import socket
import stat
import subprocess
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ebbtide.errors import InvalidInput, MongodError, MongodStartFailed
from ebbtide.mongod.binary import mongod_version, without_unknown_parameters
from ebbtide.mongod.client import PromptClient
from ebbtide.mongod.identity import (
    MongodIdentity,
    find_by_dbpath,
    has_ended,
    is_alive,
    load_identity,
    proven_descriptor,
    save_identity,
)
from ebbtide.mongod.options import (
    Listen,
    MongodOptions,
    Tcp,
    UnixSocket,
    connect_host,
    connection_uri,
    render_arguments,
)
from ebbtide.mongod.ports import is_bindable
from ebbtide.processes import current_boot_id, dies_with_parent, read_stat

Document = dict[str, Any]

STOP_SECONDS = 20.0
KILL_SECONDS = 10.0
"""How long the kernel may take to end a killed process (it may be deep in a disk write)."""

_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 64 * 1024
_LOG_LINE_LENGTH_MAX = 400
# A mongod that cannot use a keyfile quotes its contents in its log (6.0.5); ours must not quote them on.
_KEYFILE_TEXT = re.compile(r"(in key file [^:]*: ).*")


class StopOutcome(StrEnum):
    """How a mongod ended."""

    NOT_RUNNING = "NOT_RUNNING"  # it was gone before it was asked
    STOPPED = "STOPPED"  # it shut down by itself, when asked
    KILLED = "KILLED"  # it did not end in time and was killed


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
            pid=0, start_ticks=0, boot_id=current_boot_id(), binary=binary, version=version, options=options
        )
        save_identity(identity_path, nobody)
        log = os.open(options.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            log_start_bytes = os.fstat(log).st_size
            child = subprocess.Popen(
                [str(binary), *without_unknown_parameters(render_arguments(options), version=version)],
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
        state = read_stat(child.pid)
        identity = MongodIdentity(
            pid=child.pid,
            start_ticks=state.start_ticks if state else 0,
            boot_id=nobody.boot_id,
            binary=binary,
            version=version,
            options=options,
        )
        save_identity(identity_path, identity)
        return cls(identity, identity_path=identity_path, child=child, log_start_bytes=log_start_bytes)

    @classmethod
    def find_running(cls, identity_path: Path) -> "MongodProcess | None":
        """The mongod of this identity file if it still runs, to be watched and stopped; else None.

        An identity file whose process is gone, or that cannot be read as one, is removed.
        """
        identity = load_identity(identity_path)
        if identity is not None and identity.pid == 0:
            identity = find_by_dbpath(identity)
            if identity is not None:
                save_identity(identity_path, identity)
        if identity is None or not is_alive(identity):
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
        tls = self.options.tls
        if tls is not None:
            # Its own certificate is good for either side, as every member's is.
            defaults |= {"tls": True, "tlsCAFile": str(tls.ca_file)}
            defaults["tlsCertificateKeyFile"] = str(tls.certificate_file)
        return PromptClient(self.uri, **(defaults | client_options))

    def is_running(self) -> bool:
        """Whether the process lives; a zombie does not."""
        if self._child is not None:
            return self._child.poll() is None
        return is_alive(self.identity)

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
        with proven_descriptor(self.identity) as descriptor:
            if descriptor is not None and not has_ended(descriptor, timeout_seconds=timeout_seconds):
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

    def rotate_log(self) -> bool:
        """Ask it to move its log aside and to begin another; False if it is gone."""
        return self._signal(signal.SIGUSR1)

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
        with proven_descriptor(self.identity) as descriptor:
            if descriptor is None or has_ended(descriptor, timeout_seconds=0):
                return False
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return False
            return True

    def _remove_identity(self) -> None:
        """Remove the identity file, unless a later mongod has put its own there."""
        found = load_identity(self.identity_path)
        if found is None or (found.pid, found.start_ticks) == (self.pid, self.identity.start_ticks):
            self.identity_path.unlink(missing_ok=True)

    def _start_failed(self, what: str) -> MongodStartFailed:
        tail = "\n".join(self.log_tail(10)) or "(empty)"
        return MongodStartFailed(
            f"mongod on {self.dbpath} {what}; the last lines of its log {self.options.log_path}:\n{tail}"
        )


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
