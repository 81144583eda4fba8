"""Keeping a mongod's log from growing without end: one that has become large is begun anew, and the oldest go.

mongod itself moves its log aside when it gets SIGUSR1, which asks for no login: `mongod.log` becomes
`mongod.log.<moment>`, and a new `mongod.log` begins. Names of moments sort by age.

Crash: at worst one file more than KEPT, until the next rotation.
"""

from pathlib import Path

from ebbtide.mongod.process import MongodProcess

LOG_BYTES_MAX = 64 * 1024**2
"""Some months of an ordinary head; at most a few hours of one in trouble."""

KEPT = 3
"""Logs that were moved aside; with the current one at most 256 MiB."""


def rotate_log(process: MongodProcess, *, bytes_max: int = LOG_BYTES_MAX) -> bool:
    """Have the mongod begin its log anew where that is larger than `bytes_max`; whether it was asked to."""
    path = process.options.log_path
    try:
        if path.stat().st_size <= bytes_max:
            return False
    except FileNotFoundError:
        return False
    for old in moved_aside(path)[: -(KEPT - 1)]:
        old.unlink(missing_ok=True)
    return process.rotate_log()


def moved_aside(path: Path) -> list[Path]:
    """The logs that were moved aside, oldest first."""
    return sorted(path.parent.glob(f"{path.name}.2*"))
