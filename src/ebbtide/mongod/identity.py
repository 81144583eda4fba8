"""What proves that a process is a certain mongod of ours: its identity file, and the proof.

The file is JSON, 0600, beside the mongod's data: pid, start time of that pid, boot id, binary and options.

Invariants
  * it is written without a pid before the process is made, and with it right after
  * nothing is signalled but through a descriptor that was proven, after it was opened, to be of that process
Crash: between the two writes the process may exist; `find_by_dbpath` then looks for the only process that has this
binary and this dbpath.
"""

import errno
import itertools
import json
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ebbtide.errors import InvalidInput
from ebbtide.mongod.options import MongodOptions, options_from_document, options_to_document
from ebbtide.processes import current_boot_id, process_start_ticks, read_stat

IDENTITY_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class MongodIdentity:
    """What proves that a pid is a certain mongod. `start_ticks` are clock ticks from boot to the process's start."""

    pid: int
    start_ticks: int
    boot_id: str
    binary: Path
    version: str
    options: MongodOptions


def is_alive(identity: MongodIdentity) -> bool:
    """Whether the pid is that very process, and it has not ended; one that only waits to be reaped has."""
    with proven_descriptor(identity) as descriptor:
        return descriptor is not None and not has_ended(descriptor, timeout_seconds=0)


def has_ended(descriptor: int, *, timeout_seconds: float) -> bool:
    """Whether all threads of a process have ended within the time.

    /proc does not tell: it calls a process a zombie as soon as its first thread has ended, while others may still
    be writing and holding the lock of the data directory.
    """
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout_seconds) * 1000))


def _is_same_process(identity: MongodIdentity) -> bool:
    found = read_stat(identity.pid)
    if found is None or identity.boot_id != current_boot_id() or found.start_ticks != identity.start_ticks:
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


def find_by_dbpath(identity: MongodIdentity) -> MongodIdentity | None:
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
                boot_id=current_boot_id(),
                binary=identity.binary,
                version=identity.version,
                options=identity.options,
            )
    return None


@contextmanager
def proven_descriptor(identity: MongodIdentity) -> Iterator[int | None]:
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


def save_identity(path: Path, identity: MongodIdentity) -> None:
    """Write the file, whole or not at all."""
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


def load_identity(path: Path) -> MongodIdentity | None:
    """The file's identity; None where there is none, or one that cannot be read."""
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
