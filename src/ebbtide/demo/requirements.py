"""What the demo needs of the machine, checked before anything is started."""

import shutil
from pathlib import Path

from ebbtide.errors import Refused

DISK_BYTES = 3 * 1024**3
MEMORY_BYTES = 2 * 1024**3


def available_memory_bytes(meminfo: str) -> int:
    """`MemAvailable` of /proc/meminfo, 0 where it is not there."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def check_machine(place: Path) -> None:
    """Raise Refused where disk or memory are too little for three members, a head and two restored copies."""
    problems = []
    free = shutil.disk_usage(place).free
    if free < DISK_BYTES:
        problems.append(f"3 GB of free disk in {place}, and {free / 1024**3:.1f} are free")
    memory = available_memory_bytes(Path("/proc/meminfo").read_text())
    if memory < MEMORY_BYTES:
        problems.append(f"2 GB of free memory, and {memory / 1024**3:.1f} are free")
    if problems:
        raise Refused(
            "the demo needs " + "; and ".join(problems), hint="set TMPDIR to a place on a larger disk"
        )
