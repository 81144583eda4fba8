"""An archive that catches up on many small entries, against a bare raw-batch read of the same ones."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.rows import Row, faster, within
from ebbtide.testing.lab import ReplicaSetLab

ENTRIES = 1_000_000
RSS_GROWTH_BYTES_MAX = 200 * 1024 * 1024
_INSERT_BATCH = 10_000


def measure(binary: Path, scratch: Path, *, rounds: int, scale: float = 1.0) -> list[Row]:
    """The rows of the oplog archive, on an oplog of `scale` times a million entries of its own."""
    with ReplicaSetLab(binary=binary, members=1, root=scratch / "oplog-lab") as lab:
        entries = max(_INSERT_BATCH, int(ENTRIES * scale))
        _write(lab, entries)
        address = lab.members[0].address
        reading, archiving, growth = [], [], []
        for _ in range(rounds):
            reading.append(float(_run("read", address)["seconds"]))
            shutil.rmtree(scratch / "oplog-repository", ignore_errors=True)
            found = _run("archive", address, str(scratch / "oplog-repository"))
            archiving.append(float(found["seconds"]))
            growth.append(float(found["rss_growth_bytes"]))
        shutil.rmtree(scratch / "oplog-repository", ignore_errors=True)
    return [
        faster(
            "archive catching up",
            f"speed on {entries} small entries, all durable, against a bare raw-batch read of them",
            ours=archiving,
            plain=reading,
            goal=0.5,
        ),
        within(
            "memory of catching up",
            "growth of resident memory meanwhile, in units of 200 MiB",
            ours=growth,
            base=[RSS_GROWTH_BYTES_MAX] * rounds,
            goal=1.0,
        ),
    ]


def _write(lab: ReplicaSetLab, entries: int) -> None:
    """One entry of the oplog for each small document."""
    with lab.client(w=1) as client:
        for start in range(0, entries, _INSERT_BATCH):
            batch = [{"_id": n, "text": f"document {n}"} for n in range(start, start + _INSERT_BATCH)]
            client.bench.small.insert_many(batch, ordered=False)
    lab.wait_until_replicated()


def _run(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.oplog_run", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output)
    return found
