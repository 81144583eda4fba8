"""Pause, job → READY and download: a real service with a real head, asked through its API."""

import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from bench.files import iter_snapshot_files
from bench.plain import file_server, seconds_to_fetch, seconds_to_read
from bench.rows import Row, faster, within
from ebbtide.domain.capture import is_always_read
from ebbtide.testing.service import Owner
from ebbtide.testing.workload import churn

CHURN_OPERATIONS = 3_000
READY_ROUNDS_MIN = 5
HEAD_SECONDS_MAX = 1800.0
_POLL_SECONDS = 0.01

Document = dict[str, Any]


def register(owner: Owner) -> None:
    """Register the owner's replica set and wait until its head follows, as long as that takes."""
    owner.client.add_cluster(owner.group_id, owner.registration())

    def is_following() -> bool:
        return (owner.cluster().get("head") or {}).get("state") == "FOLLOWING"

    owner.service.wait_until(is_following, f"the head of {owner.name} to follow", seconds=HEAD_SECONDS_MAX)


def head_files(owner: Owner) -> Path:
    """The head's dbpath."""
    return owner.service.data / "heads" / str(owner.cluster()["id"]) / "db"


def take_snapshot(owner: Owner) -> Document:
    return owner.wait_for_snapshot(owner.start_snapshot(), seconds=HEAD_SECONDS_MAX)


def measure_pauses(owner: Owner, first: Document, *, rounds: int) -> Iterator[Row]:
    """The head's pause in the first snapshot, and in later ones after some churn."""
    dbpath = head_files(owner)
    read = seconds_to_read(list(iter_snapshot_files(dbpath)))
    yield within(
        "pause, first snapshot",
        "time that the head is locked, against reading all files on all processors",
        ours=[first["lockSeconds"]],
        base=[read],
        goal=None,
    )
    pauses, reads = [], []
    for number in range(rounds):
        before = _stats(dbpath)
        with owner.lab.client(w="majority") as client:
            churn(client, rng=Random(number), operations=CHURN_OPERATIONS)
        pauses.append(float(take_snapshot(owner)["lockSeconds"]))
        reads.append(seconds_to_read(_changed_files(dbpath, before)))
    yield within(
        "pause, after churn",
        "time that the head is locked, against reading the files that changed on all processors",
        ours=pauses,
        base=reads,
        goal=1.0,
    )


def measure_ready(large: Owner, small: Owner, *, rounds: int) -> Row:
    """From the request for a restore job to its READY, on the large set and on the small one, by turns."""
    snapshots = {owner.name: _newest_snapshot(owner) for owner in (large, small)}
    seconds: dict[str, list[float]] = {large.name: [], small.name: []}
    for _ in range(max(rounds, READY_ROUNDS_MIN)):
        for owner in (small, large):
            seconds[owner.name].append(_seconds_to_ready(owner, snapshots[owner.name]["id"]))
    return within(
        "job → READY",
        "time at about 100 times the documents, against the time of the small set",
        ours=[statistics.median(seconds[large.name])],
        base=[statistics.median(seconds[small.name])],
        goal=2.0,
    )


def measure_download(owner: Owner, scratch: Path, *, rounds: int) -> Row:
    """One archive over loopback, from Ebbtide and as a ready file, by turns."""
    job = owner.wait_until_ready(owner.start_restore(_newest_snapshot(owner)["id"], max_downloads=rounds + 2))
    owner.wait_until_hashed(job["id"])
    delivery = job["delivery"]
    headers = {delivery["authHeader"]: f"{delivery['authBearer']} {delivery['authValue']}"}
    ready = scratch / "ready" / "archive.tar.gz"
    ready.parent.mkdir()
    try:
        seconds_to_fetch(delivery["urlV2"], headers, into=ready)
        plain, ours = [], []
        with file_server(ready) as (url, server):
            for _ in range(rounds):
                plain.append(seconds_to_fetch(url, {}))
                ours.append(seconds_to_fetch(delivery["urlV2"], headers))
    finally:
        shutil.rmtree(ready.parent)
    how = f"speed on loopback, checked on the way, against {server} that sends a ready file of the same bytes"
    return faster("download", how, ours=ours, plain=plain, goal=0.7)


def _newest_snapshot(owner: Owner) -> Document:
    complete = [
        s for s in owner.client.list_snapshots(owner.group_id, owner.name) if s["state"] == "COMPLETE"
    ]
    return max(complete, key=lambda snapshot: str(snapshot["id"]))


def _seconds_to_ready(owner: Owner, snapshot_id: str) -> float:
    started = time.perf_counter()
    job_id = owner.start_restore(snapshot_id)
    while owner.restore_job(job_id)["delivery"]["statusName"] != "READY":
        time.sleep(_POLL_SECONDS)
    seconds = time.perf_counter() - started
    # The next round must not wait behind this one's hash.
    owner.wait_until_hashed(job_id)
    return seconds


def _stats(dbpath: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in iter_snapshot_files(dbpath):
        stat = path.stat()
        found[path.relative_to(dbpath).as_posix()] = (stat.st_size, stat.st_mtime_ns)
    return found


def _changed_files(dbpath: Path, before: dict[str, tuple[int, int]]) -> list[Path]:
    """What a snapshot reads: changed files, and those whose times are not trusted."""
    return [
        dbpath / path
        for path, stat in _stats(dbpath).items()
        if before.get(path) != stat or is_always_read(path, oplog_file="")
    ]
