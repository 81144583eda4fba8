"""How much memory this process has used at most."""

from pathlib import Path


def peak_bytes() -> int:
    """Resident memory of this process at its peak, since its program began.

    Not `ru_maxrss`: that begins with the size of whoever started the process, and a whole bench is larger than the runs
    that it measures.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not tell a process's peak of memory")
