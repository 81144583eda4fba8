"""`python -m bench.block_size`: what a second snapshot stores at each block size, after real churn.

A replica set of one member with plain documents of about 1 KB, snapshots of its files under a lock before and after
each kind of churn. For each size the blocks of a file that its earlier copy does not hold are counted, compressed as
they would be stored, with the 23 bytes that a recipe spends on every block of the file. Times are those of one thread
over all blocks: what smaller blocks cost a first snapshot.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from blake3 import blake3
from pymongo import MongoClient, UpdateOne

from bench.files import iter_snapshot_files
from ebbtide.mongod.binary import find_mongod
from ebbtide.repository.gzip_member import compress_member
from ebbtide.testing.lab import ReplicaSetLab

KIB = 1024
SIZES_KIB = (16, 32, 64, 128, 256)
RECIPE_BYTES_PER_BLOCK = 23
DOCUMENTS = 400_000
BATCH = 5_000

Client = MongoClient[dict[str, Any]]


def main() -> int:
    binary = find_mongod(os.environ.get("EBBTIDE_MONGOD"))
    root = Path(tempfile.mkdtemp(prefix="ebb-blocks-")).resolve()
    try:
        with ReplicaSetLab(binary=binary, members=1, root=root / "lab") as lab, lab.client() as client:
            insert(client, range(DOCUMENTS))
            before = _copy_locked(client, lab.members[0].dbpath, root / "0")
            sys.stdout.write(render("first snapshot", None, before))
            for number, (name, change) in enumerate(CHURNS.items(), 1):
                change(client)
                after = _copy_locked(client, lab.members[0].dbpath, root / str(number))
                sys.stdout.write(render(name, before, after))
                sys.stdout.flush()
                shutil.rmtree(before)
                before = after
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0


def insert(client: Client, numbers: range) -> None:
    rng = Random(numbers.start)
    for start in range(numbers.start, numbers.stop, BATCH):
        client.shop.orders.insert_many(
            [_document(n, rng) for n in range(start, min(start + BATCH, numbers.stop))]
        )


def update(client: Client, numbers: list[int]) -> None:
    rng = Random(len(numbers))
    for start in range(0, len(numbers), BATCH):
        client.shop.orders.bulk_write(
            [
                UpdateOne({"_id": n}, {"$set": {"note": rng.randbytes(60).hex()}})
                for n in numbers[start : start + BATCH]
            ]
        )


def _scattered(client: Client) -> None:
    update(client, Random(1).sample(range(DOCUMENTS), DOCUMENTS // 100))


def _local(client: Client) -> None:
    update(client, list(range(DOCUMENTS // 2, DOCUMENTS // 2 + DOCUMENTS // 100)))
    insert(client, range(DOCUMENTS, DOCUMENTS + DOCUMENTS // 50))


CHURNS: dict[str, Callable[[Client], None]] = {
    "1 % updated at random places": _scattered,
    "1 % updated in one range, 2 % appended": _local,
}


def _document(number: int, rng: Random) -> dict[str, Any]:
    words = " ".join(rng.choices(("amber", "basin", "cargo", "delta", "ferry", "harbor", "lagoon"), k=60))
    return {"_id": number, "note": rng.randbytes(60).hex(), "text": words, "data": rng.randbytes(250)}


def _copy_locked(client: Client, dbpath: Path, target: Path) -> Path:
    client.admin.command({"fsync": 1, "lock": True})
    try:
        for path in iter_snapshot_files(dbpath):
            copy = target / path.relative_to(dbpath)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    finally:
        client.admin.command("fsyncUnlock")
    return target


def render(name: str, before: Path | None, after: Path) -> str:
    """One line for each block size: what is stored, in MB and against 64 KiB, and the time of one thread."""
    found = {size: stored(before, after, block_bytes=size * KIB) for size in SIZES_KIB}
    base_bytes, base_seconds = found[64]
    lines = [f"{name}\n"]
    for size, (count, seconds) in found.items():
        lines.append(
            f"  {size:4} KiB  {count / 1e6:8.1f} MB  {count / base_bytes:5.2f} ×"
            f"   time {seconds / base_seconds:5.2f} ×\n"
        )
    return "".join(lines)


def stored(before: Path | None, after: Path, *, block_bytes: int) -> tuple[int, float]:
    """Bytes that a snapshot of `after` adds to one of `before`, recipes included, and the seconds it took."""
    total = 0
    started = time.perf_counter()
    for path in iter_snapshot_files(after):
        old = before / path.relative_to(after) if before is not None else None
        known = {_id(block) for block in _blocks(old, block_bytes)} if old and old.exists() else set()
        for block in _blocks(path, block_bytes):
            identity = _id(block)
            total += RECIPE_BYTES_PER_BLOCK
            if identity not in known:
                known.add(identity)
                total += len(compress_member(block))
    return total, time.perf_counter() - started


def _id(block: bytes) -> bytes:
    return blake3(block).digest(16)


def _blocks(path: Path, block_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(block_bytes):
            yield block


if __name__ == "__main__":
    sys.exit(main())
