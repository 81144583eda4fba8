"""First snapshot, second snapshot, memory and materialise: the repository over the files of a stopped head.

The files are read once before the first round, so all rounds find them in the page cache as far as it holds them:
the rows compare work, not disks. What Ebbtide writes it writes durably; the plain tools need not.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from bench.files import iter_snapshot_files
from bench.plain import seconds_to_compress, seconds_to_copy, seconds_to_read
from bench.rows import Row, faster, within

SECOND_SNAPSHOT_GRANTED_SECONDS = 2.0
MEMORY_FACTOR = 4

Result = TypeVar("Result")


def measure(files: Path, scratch: Path, *, rounds: int) -> list[Row]:
    """The rows of the repository. `files` must not change; `scratch` is emptied of what is made there."""
    paths = list(iter_snapshot_files(files))
    seconds_to_read(paths)
    copy_files(files, scratch / "files")
    try:
        return [
            *_snapshot_rows(files, paths, scratch, rounds=rounds),
            *_materialise_rows(scratch, rounds=rounds),
            _memory_row(files, scratch),
        ]
    finally:
        for name in ("files", "repository", "four-times", "four-repository", "laid", "copied"):
            shutil.rmtree(scratch / name, ignore_errors=True)


def run(*arguments: str | Path | int) -> dict[str, Any]:
    """One `bench.repository_run` in a process of its own; what it printed."""
    command = [sys.executable, "-m", "bench.repository_run", *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def copy_files(files: Path, target: Path) -> None:
    """Hard links to the files of a snapshot, in directories of their own."""
    for path in iter_snapshot_files(files):
        link = target / path.relative_to(files)
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, link)


def _snapshot_rows(files: Path, paths: list[Path], scratch: Path, *, rounds: int) -> Iterator[Row]:
    reading, compressing, first, second = [], [], [], []
    for _ in range(rounds):
        shutil.rmtree(scratch / "repository", ignore_errors=True)
        os.sync()
        reading.append(seconds_to_read(paths))
        compressing.append(seconds_to_compress(paths))
        first.append(run("snapshot", files, scratch / "repository", 1)["seconds"])
        second.append(run("snapshot", files, scratch / "repository", 2)["seconds"])
    slower = [max(pair) for pair in zip(reading, compressing, strict=True)]
    yield faster(
        "first snapshot",
        "speed, against the slower of reading the files and isal level 1 on all processors",
        ours=first,
        plain=slower,
        goal=0.7,
    )
    yield within(
        "second snapshot",
        "time with nothing changed, against the first snapshot (2 s are granted)",
        ours=second,
        base=first,
        goal=0.05,
        is_granted=max(second) <= SECOND_SNAPSHOT_GRANTED_SECONDS,
    )


def _materialise_rows(scratch: Path, *, rounds: int) -> Iterator[Row]:
    copied, copied_durably, laid, laid_durably = [], [], [], []
    for _ in range(rounds):
        plain, synced = _alone(scratch, "copied", lambda target: seconds_to_copy(scratch / "files", target))
        copied.append(plain)
        copied_durably.append(synced)
        laid.append(_alone(scratch, "laid", lambda target: _seconds_to_lay_down(scratch, target, "scratch")))
        laid_durably.append(
            _alone(scratch, "laid", lambda target: _seconds_to_lay_down(scratch, target, "durable"))
        )
    yield faster(
        "materialise",
        "speed into the scratch of a restore, every block checked, against `cp -r` of the same files",
        ours=laid,
        plain=copied,
        goal=0.7,
    )
    yield faster(
        "materialise, both durable",
        "speed, every block checked, against `cp -r` and `sync -f` of the same files",
        ours=laid_durably,
        plain=copied_durably,
        goal=None,
    )


def _alone(scratch: Path, name: str, work: Callable[[Path], Result]) -> Result:
    """What `work` found for a target of its own, which is removed; nobody's unwritten pages slow it down."""
    os.sync()
    try:
        return work(scratch / name)
    finally:
        shutil.rmtree(scratch / name)


def _seconds_to_lay_down(scratch: Path, target: Path, how: str) -> float:
    return float(run("materialise", scratch / "repository", 1, target, how)["seconds"])


def _memory_row(files: Path, scratch: Path) -> Row:
    """Both sides handle the same number of bytes, for a peak is the higher the longer one looks for it."""
    once = []
    for _ in range(MEMORY_FACTOR):
        shutil.rmtree(scratch / "repository", ignore_errors=True)
        once.append(run("snapshot", files, scratch / "repository", 1)["peak_rss_bytes"])
    shutil.rmtree(scratch / "repository")
    for number in range(MEMORY_FACTOR):
        copy_files(files, scratch / "four-times" / str(number))
    four = run("snapshot", scratch / "four-times", scratch / "four-repository", 1)["peak_rss_bytes"]
    return within(
        "memory of a snapshot",
        f"peak resident memory with {MEMORY_FACTOR} times the files, "
        f"against the peak of {MEMORY_FACTOR} runs with them once",
        ours=[four],
        base=[max(once)],
        goal=1.1,
    )
