"""A dump with the server's own tool, where it is on the PATH: what people have in cron today."""

import shutil
import subprocess
import time
from pathlib import Path

from bench.rows import Row, faster
from ebbtide.testing.service import Owner


def measure(owner: Owner, scratch: Path, *, seconds_of_snapshot: float) -> list[Row]:
    """First snapshot against `mongodump --gzip` of the same set; no row where there is no mongodump."""
    tool = shutil.which("mongodump")
    if tool is None:
        return []
    archive = scratch / "dump.gz"
    started = time.perf_counter()
    command = [tool, f"--uri={owner.lab.uri}", "--gzip", f"--archive={archive}", "--oplog", "--quiet"]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - started
    archive.unlink()
    return [
        faster(
            "first snapshot, against mongodump",
            "speed of the first snapshot, against `mongodump --gzip --oplog` of the same set",
            ours=[seconds_of_snapshot],
            plain=[seconds],
            goal=None,
        )
    ]
