"""A restore into a running replica set, against a loop of `insert_many`, and `mongorestore` where it is on the PATH.

All put the same collections of the same source into the same empty set of one member: documents, then indexes. The loop
is what one writes with PyMongo: a cursor, batches, some threads, `create_indexes` afterwards. It is given the number of
threads and the batch that are best on the largest ordinary collection. Left out is what a loop cannot do: time series,
capped collections in their order, views.
"""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collection import Collection

from bench.rows import Row, faster
from ebbtide.domain.automated_restore import RestoreScope
from ebbtide.restore.load.creation import create_collections
from ebbtide.restore.load.documents import load_documents
from ebbtide.restore.load.indexes import build_indexes, creatable
from ebbtide.restore.load.inventory import read_inventory
from ebbtide.restore.load.plan import LoadPlan, PlannedCollection, plan_load
from ebbtide.restore.load.reading import NaturalReader
from ebbtide.restore.load.removal import execute_removal
from ebbtide.testing.lab import ReplicaSetLab

Client = MongoClient[dict[str, Any]]

COLLECTIONS = (
    "shop.orders",
    "shop.customers",
    "shop.products",
    "shop.stock",
    "telemetry.ledger",
    "archive.large",
)
THREADS = (2, 4, 8)
BATCHES = (1_000, 5_000)
TARGET_CACHE_GB = 1.0


@dataclass(frozen=True)
class Loop:
    """How a loop of `insert_many` is run; `raw`: without decoding the documents."""

    threads: int
    batch: int
    raw: bool = False


class Silent:
    """Hears a load's reports and does nothing."""

    def loaded(self, namespace: str, *, documents: int, size_bytes: int) -> None:
        pass

    def begun_anew(self, namespace: str) -> None:
        pass

    def finished(self, namespace: str) -> None:
        pass


def measure(source_lab: ReplicaSetLab, binary: Path, root: Path, *, rounds: int) -> list[Row]:
    """The source is the lab's primary, with the workload in it; nobody writes to it meanwhile."""
    with (
        source_lab.client() as source,
        ReplicaSetLab(binary=binary, members=1, root=root / "target", cache_gb=TARGET_CACHE_GB) as target_lab,
        target_lab.client() as target,
    ):
        return [
            *_rows(source, target, rounds),
            *_mongorestore_rows(source_lab, target_lab, source, root, rounds),
        ]


def _rows(source: Client, target: Client, rounds: int) -> Iterator[Row]:
    decoding = _best_loop(source, target, raw=False)
    raw = _best_loop(source, target, raw=True)
    ours: list[float] = []
    by_decoding: list[float] = []
    by_raw: list[float] = []
    for _ in range(rounds):
        ours.append(_seconds(source, target, COLLECTIONS, _load))
        by_decoding.append(_seconds(source, target, COLLECTIONS, _looping(decoding)))
        by_raw.append(_seconds(source, target, COLLECTIONS, _looping(raw)))
    how = (
        "speed of loading documents and building indexes, against a loop of insert_many, then create_indexes"
    )
    yield faster(
        "automated restore",
        f"{how} ({decoding.threads} threads, batches of {decoding.batch}: its best)",
        ours=ours,
        plain=by_decoding,
        goal=1.2,
    )
    yield faster(
        "automated restore, against raw documents",
        f"{how} with RawBSONDocument ({raw.threads} threads, batches of {raw.batch}: its best)",
        ours=ours,
        plain=by_raw,
        goal=None,
    )


def _best_loop(source: Client, target: Client, *, raw: bool) -> Loop:
    loops = [Loop(threads, batch, raw) for threads in THREADS for batch in BATCHES]
    return min(loops, key=lambda loop: _seconds(source, target, COLLECTIONS[:1], _looping(loop)))


Work = Callable[[Client, Client, LoadPlan], None]


def _seconds(source: Client, target: Client, namespaces: tuple[str, ...], work: Work) -> float:
    """Of the work alone: the collections are there, and empty."""
    plan = plan_load(read_inventory(source), read_inventory(target), RestoreScope(namespaces=namespaces))
    execute_removal(target, plan, check=_no_check)
    create_collections(target, plan, finished=(), check=_no_check)
    # What earlier work left to be written is not to be paid for by this one.
    target.admin.command("fsync")
    started = time.perf_counter()
    work(source, target, plan)
    return time.perf_counter() - started


def _no_check() -> None:
    pass


def _load(source: Client, target: Client, plan: LoadPlan) -> None:
    load_documents(NaturalReader(source), target, plan, finished=(), reporter=Silent(), check=_no_check)
    build_indexes(target, plan, check=_no_check)


# --- the loop ---------------------------------------------------------------------------------------------------------


def _looping(loop: Loop) -> Work:
    def work(source: Client, target: Client, plan: LoadPlan) -> None:
        with ThreadPoolExecutor(loop.threads) as threads:
            for planned in plan.collections:
                _insert_all(source, target, planned, loop, threads)
        for planned in plan.collections:
            _create_indexes(target, planned)

    return work


def _insert_all(
    source: Client, target: Client, planned: PlannedCollection, loop: Loop, threads: ThreadPoolExecutor
) -> None:
    held = planned.held
    options: Any = CodecOptions(document_class=RawBSONDocument) if loop.raw else None
    documents: Collection[Any] = source[held.database].get_collection(held.name, codec_options=options)
    into: Collection[Any] = target[held.database].get_collection(held.name, codec_options=options)
    slots = threading.Semaphore(loop.threads * 2)

    def insert(batch: list[Any]) -> None:
        try:
            into.insert_many(batch, ordered=False, bypass_document_validation=True)
        finally:
            slots.release()

    writes = []
    for batch in _iter_batches(documents, loop.batch):
        slots.acquire()
        writes.append(threads.submit(insert, batch))
    for write in writes:
        write.result()


def _iter_batches(collection: Collection[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    with collection.find(batch_size=size) as documents:
        for document in documents:
            batch.append(document)
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


def _create_indexes(target: Client, planned: PlannedCollection) -> None:
    is_collated = "collation" in planned.held.options
    indexes = [creatable(index.specification, is_collated=is_collated) for index in planned.plain_indexes]
    if indexes:
        target[planned.target[0]].command("createIndexes", planned.target[1], indexes=indexes)


# --- the server's own tool --------------------------------------------------------------------------------------------


def _mongorestore_rows(
    source_lab: ReplicaSetLab, target_lab: ReplicaSetLab, source: Client, root: Path, rounds: int
) -> Iterator[Row]:
    """No row where mongodump or mongorestore is not there."""
    tool = shutil.which("mongorestore")
    if tool is None or shutil.which("mongodump") is None:
        return
    with target_lab.client() as target, _dump(source_lab, root / "dump") as dump:
        workers = {f"{n} workers": _mongorestore(tool, target_lab, dump, n) for n in (1, 4, 8)}
        best = min(workers, key=lambda name: _seconds(source, target, COLLECTIONS, workers[name]))
        ours, plain = [], []
        for _ in range(rounds):
            ours.append(_seconds(source, target, COLLECTIONS, _load))
            plain.append(_seconds(source, target, COLLECTIONS, workers[best]))
    yield faster(
        "automated restore, against mongorestore",
        f"speed of loading documents and building indexes, against mongorestore of a dump ({best}: its best)",
        ours=ours,
        plain=plain,
        goal=1.3,
    )


@contextmanager
def _dump(lab: ReplicaSetLab, directory: Path) -> Iterator[Path]:
    command = ["mongodump", f"--uri={lab.uri}", f"--out={directory}", "--quiet"]
    subprocess.run(command, check=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _mongorestore(tool: str, lab: ReplicaSetLab, dump: Path, workers: int) -> Work:
    def work(_source: Client, _target: Client, _plan: LoadPlan) -> None:
        includes = [f"--nsInclude={namespace}" for namespace in COLLECTIONS]
        command = [
            tool,
            f"--uri={lab.uri}",
            f"--dir={dump}",
            "--drop",
            "--preserveUUID",
            "--quiet",
            *includes,
        ]
        subprocess.run([*command, f"--numInsertionWorkersPerCollection={workers}"], check=True)

    return work
