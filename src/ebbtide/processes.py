"""Processes as the operating system tells of them: when one began, and how a child ends with its parent.

A pid alone proves nothing, for pids are used again; pid, start time and boot id together name one process.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_libc = ctypes.CDLL(None, use_errno=True)


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
    return _BOOT_ID.read_text().strip()


def process_start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None if there is none, or it is a zombie."""
    found = read_stat(pid)
    return None if found is None or found.state in "ZX" else found.start_ticks


def read_stat(pid: int) -> ProcessStat | None:
    """What /proc says of a process, an ending one included; None if there is none."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (OSError, ValueError, IndexError):
        return None


def dies_with_parent(parent_pid: int) -> Callable[[], None]:
    """What a child does before it becomes another program: SIGTERM when the *thread* that started it ends. Nothing in it may take a lock: other threads are gone."""

    def ask_kernel() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent_pid:
            os._exit(1)

    return ask_kernel


def keep_freed_memory(size_bytes: int) -> None:
    """Let each of this process's heaps keep so much of what was freed, for whatever is allocated next there.

    By default a freed buffer of a MiB goes back to the kernel, and clearing its pages for the next one takes longer than
    to read a disk's cache into it. Where the C library is not glibc nothing happens.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, size_bytes)
        mallopt(_M_TRIM_THRESHOLD, size_bytes)
