"""`python -m bench`: build a replica set with at least 1 GB of documents, measure every row, print and write them.

    --scale S        times the data set of 1 GB (default 1; 0.02 is the least that says anything)
    --rounds N       rounds of each row (default 3)
    --scratch DIR    where data goes, about 12 GB at scale 1 (default: a temporary directory; removed at the end)
    --output FILE    default: bench.json

Exit code 0 whether or not goals are reached: the table says that. Nothing is left running.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random

from bench import (
    api_rows,
    automated_restore_rows,
    mongodump,
    oplog_rows,
    replay_rows,
    repository_rows,
    service_rows,
)
from bench.files import iter_snapshot_files
from bench.plain import processors
from bench.rows import Row, as_json, render_table
from ebbtide.mongod.binary import find_mongod, mongod_version
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.running_service import RunningService
from ebbtide.testing.service import Owner
from ebbtide.testing.workload import load

LOAD_SCALE = 40.0
"""The workload's scale that makes 1 GB of BSON."""

SMALL_PART = 100
"""The small set holds this part of the large one's documents."""

DOCUMENT_BYTES = 10_000


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    binary = find_mongod(os.environ.get("EBBTIDE_MONGOD"))
    root = Path(tempfile.mkdtemp(prefix="ebb-bench-", dir=options.scratch)).resolve()
    try:
        rows, data_bytes = _measure(binary, root, scale=options.scale, rounds=options.rounds)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    circumstances = {
        "scale": options.scale,
        "rounds": options.rounds,
        "data_file_bytes": data_bytes,
        "processors": processors(),
        "python": platform.python_version(),
        "mongod": mongod_version(binary),
    }
    sys.stdout.write(render_table(rows) + "\n")
    options.output.write_text(json.dumps(as_json(rows, circumstances), indent=2, ensure_ascii=False) + "\n")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ebbtide against plain tools.")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    options = parser.parse_args(arguments)
    if options.scale <= 0 or options.rounds < 1:
        parser.error("--scale and --rounds must be positive")
    return options


def _measure(binary: Path, root: Path, *, scale: float, rounds: int) -> tuple[list[Row], int]:
    with ExitStack() as stack:
        large_lab = stack.enter_context(ReplicaSetLab(binary=binary, members=1, root=root / "large"))
        small_lab = stack.enter_context(ReplicaSetLab(binary=binary, members=1, root=root / "small"))
        _say("loading documents")
        with large_lab.client() as client:
            load(client, scale=LOAD_SCALE * scale)
            loaded = sum(client[name].command("dbStats")["dataSize"] for name in client.list_database_names())
        _load_small(small_lab, int(loaded / SMALL_PART))
        service = stack.enter_context(RunningService(data=root / "data", binary=binary))
        large = stack.enter_context(closing(Owner(service, large_lab, name="large")))
        small = stack.enter_context(closing(Owner(service, small_lab, name="small")))
        _say("copying them to the heads")
        service_rows.register(large)
        service_rows.register(small)
        head = service_rows.head_files(large)
        _say("pauses, jobs and downloads")
        started = time.perf_counter()
        first = service_rows.take_snapshot(large)
        seconds_of_snapshot = time.perf_counter() - started
        service_rows.take_snapshot(small)
        rows = [
            *service_rows.measure_pauses(large, first, rounds=rounds),
            service_rows.measure_ready(large, small, rounds=rounds),
            service_rows.measure_download(large, root, rounds=rounds),
            *api_rows.measure(large, rounds=rounds),
        ]
        rows += mongodump.measure(large, root, seconds_of_snapshot=seconds_of_snapshot)
        service.terminate()
        _say("a restore into a running set")
        rows += automated_restore_rows.measure(large_lab, binary, root, rounds=rounds)
        large_lab.stop()
        small_lab.stop()
        _say("snapshots and materialisations of the head's files")
        _wait_until_aged(head)
        data_bytes = sum(path.stat().st_size for path in iter_snapshot_files(head))
        _say("native replay")
        rows += replay_rows.measure(binary, root, scale=scale, rounds=rounds)
        _say("an archive that catches up")
        rows += oplog_rows.measure(binary, root, rounds=rounds, scale=scale)
        return [*repository_rows.measure(head, root, rounds=rounds), *rows], data_bytes


def _load_small(lab: ReplicaSetLab, data_bytes: int) -> None:
    rng = Random(2)
    with lab.client() as client:
        for _ in range(max(1, data_bytes // DOCUMENT_BYTES)):
            client.shop.orders.insert_one({"data": rng.randbytes(DOCUMENT_BYTES)})


def _wait_until_aged(files: Path) -> None:
    """Until the files' times are old enough to be trusted by the second snapshot."""
    newest = max(path.stat().st_mtime for path in iter_snapshot_files(files))
    time.sleep(max(0.0, newest + 2.5 - time.time()))


def _say(what: str) -> None:
    sys.stderr.write(f"... {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
