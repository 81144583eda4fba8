"""Native replay: a history of 1 KB documents, replayed by mongod on a copy of a member's files, against slower ways.

Ours is all that `restore.replay` does: inserting the entries into the oplog, and every start and stop of a mongod. The
plain way is what anybody can write: one `applyOps` command for each entry, on the same files; it is so much slower that
only the first entries are applied, and its rate is compared. `mongorestore --oplogReplay` is measured where it is on the
PATH.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import bson
from bson import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteOne, InsertOne, MongoClient, UpdateOne
from pymongo.collection import Collection

from bench.rows import Row, faster
from ebbtide.domain.capture import BACKUP_METADATA, is_left_out, parse_stable_timestamp
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.progress import NoProgress
from ebbtide.domain.replay import ReplayBase
from ebbtide.mongod.options import ParameterValue
from ebbtide.oplog.archive import EntryBatch
from ebbtide.repository.repository import never_cancelled
from ebbtide.restore.replay import replay
from ebbtide.restore.scratch_mongod import ScratchFiles, running
from ebbtide.testing.lab import ReplicaSetLab

Document = dict[str, Any]
Client = MongoClient[Document]

DOCUMENTS = 100_000
OPERATIONS = 260_000
"""At scale 1; fewer entries come of them: some find nothing to change, and a transaction is one."""

DOCUMENT_BYTES = 1_000
TRANSACTION_OPERATIONS = 5
SERIAL_ENTRIES = 10_000
BATCH_ENTRIES = 10_000
CACHE_GB = 1.0
SECONDARY = 1

NAME = "native replay"


@dataclass(frozen=True)
class History:
    """A copy of a secondary's files, and every entry that came after it."""

    files: Path
    base: ReplayBase
    entries: list[tuple[OpTime, bytes]]
    counts: dict[str, int]

    def find_optime(self, timestamp: OplogTimestamp) -> OpTime | None:
        return next((optime for optime, _ in self.entries if optime.timestamp == timestamp), None)

    def newest_at_or_before(self, timestamp: OplogTimestamp) -> OpTime | None:
        return max((optime for optime, _ in self.entries if optime.timestamp <= timestamp), default=None)

    def iter_batches(self, *, after: OplogTimestamp, through: OplogTimestamp) -> Iterator[EntryBatch]:
        wanted = [found for found in self.entries if after < found[0].timestamp <= through]
        for start in range(0, len(wanted), BATCH_ENTRIES):
            batch = wanted[start : start + BATCH_ENTRIES]
            raw = b"".join(entry for _, entry in batch)
            yield EntryBatch(raw=raw, count=len(batch), first=batch[0][0], last=batch[-1][0])

    @property
    def to_replay(self) -> list[tuple[OpTime, bytes]]:
        return [found for found in self.entries if found[0].timestamp > self.base.applied]


def measure(binary: Path, scratch: Path, *, scale: float, rounds: int) -> Iterator[Row]:
    """Rows of the history that this makes; `scratch` is used for three copies of 200 MB at scale 1."""
    history = make_history(binary, scratch / "history", scale=scale)
    ours, plain, tool = [], [], []
    restores = shutil.which("mongorestore")
    try:
        for _ in range(rounds):
            plain.append(_on_copy(history, binary, scratch, seconds_of_serial))
            ours.append(_on_copy(history, binary, scratch, seconds_of_ours))
            if restores is not None:
                tool.append(_on_copy(history, binary, scratch, seconds_of_mongorestore))
    finally:
        shutil.rmtree(history.files.parent)
    entries = len(history.to_replay)
    how = f"entries per second of {entries} entries of 1 KB documents, insertion and all starts included, against "
    yield faster(NAME, f"{how}one applyOps for each entry", ours=ours, plain=plain, goal=10.0)
    if tool:
        yield faster(
            f"{NAME}, mongorestore", f"{how}mongorestore --oplogReplay", ours=ours, plain=tool, goal=20.0
        )


# --- the history ----------------------------------------------------------------------------------------------------


def make_history(binary: Path, directory: Path, *, scale: float = 1.0) -> History:
    """Documents, a copy of a secondary's files, and updates, inserts, deletes and transactions after it."""
    rng = Random(4)
    with ReplicaSetLab(binary=binary, members=2) as lab, lab.client(w=1) as client:
        count = max(100, int(DOCUMENTS * scale))
        bodies = [rng.randbytes(DOCUMENT_BYTES // 2).hex() for _ in range(200)]
        for first in range(0, count, 10_000):
            documents = [
                {"_id": n, "n": 0, "body": rng.choice(bodies)}
                for n in range(first, min(count, first + 10_000))
            ]
            client.bench.items.insert_many(documents, ordered=False)
        lab.wait_until_replicated()
        base = _copy_files(lab, directory / "files")
        counts = _change(client, rng, bodies, documents=count, operations=int(OPERATIONS * scale))
        lab.wait_until_replicated()
        options: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
        with lab.member_client(SECONDARY) as member:
            oplog: Collection[Any] = member.local.get_collection("oplog.rs", codec_options=options)
            found = oplog.find({"ts": {"$gte": base.applied.to_bson()}})
            entries = [(OpTime.from_entry(entry), entry.raw) for entry in found]
    return History(directory / "files", base, entries, counts)


def _change(
    client: Client, rng: Random, bodies: list[str], *, documents: int, operations: int
) -> dict[str, int]:
    """62 % updates, 25 % inserts, 10 % deletes; after 3 % of them what was just gathered becomes a transaction."""
    kinds = rng.choices(("update", "insert", "delete", "transaction"), (62, 25, 10, 3), k=operations)
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    writes: list[UpdateOne | InsertOne[Document] | DeleteOne] = []
    for number, kind in enumerate(kinds):
        key = rng.randrange(documents)
        if kind == "insert":
            writes.append(InsertOne({"_id": documents + number, "n": 0, "body": rng.choice(bodies)}))
        elif kind == "delete":
            writes.append(DeleteOne({"_id": key}))
        else:
            writes.append(UpdateOne({"_id": key}, {"$set": {"n": number, "body": rng.choice(bodies)}}))
        if kind == "transaction" and len(writes) >= TRANSACTION_OPERATIONS:
            last, writes = writes[-TRANSACTION_OPERATIONS:], writes[:-TRANSACTION_OPERATIONS]
            with client.start_session() as session, session.start_transaction():
                client.bench.items.bulk_write(last, session=session)
        if len(writes) >= 1_000:
            client.bench.items.bulk_write(writes, ordered=False)
            writes = []
    if writes:
        client.bench.items.bulk_write(writes, ordered=False)
    return counts


def _copy_files(lab: ReplicaSetLab, target: Path) -> ReplayBase:
    source = lab.members[SECONDARY].dbpath
    with lab.member_client(SECONDARY) as member:
        member.admin.command("fsync", 1, lock=True)
        try:
            stable = parse_stable_timestamp((source / BACKUP_METADATA).read_text(errors="replace"))
            entry = member.local["oplog.rs"].find_one(sort=[("$natural", -1)]) or {}
            for path in source.rglob("*"):
                name = path.relative_to(source).as_posix()
                if path.is_file() and not is_left_out(name):
                    (target / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    shutil.copyfile(path, target / name)
        finally:
            member.admin.command("fsyncUnlock")
    return ReplayBase(stable=stable, applied=OpTime.from_entry(entry).timestamp)


# --- ways to apply it; each gives seconds per entry -----------------------------------------------------------------


@contextmanager
def laid_down(
    history: History, binary: Path, scratch: Path, *, cache_gb: float = CACHE_GB
) -> Iterator[ScratchFiles]:
    """A fresh copy of the files."""
    files = ScratchFiles(directory=scratch / "r", binary=binary, cache_gb=cache_gb)
    files.directory.mkdir(mode=0o700)
    try:
        shutil.copytree(history.files, files.dbpath)
        yield files
    finally:
        shutil.rmtree(files.directory)


def _on_copy(
    history: History, binary: Path, scratch: Path, way: Callable[[History, ScratchFiles], float]
) -> float:
    with laid_down(history, binary, scratch) as files:
        return way(history, files)


def seconds_of_ours(
    history: History, files: ScratchFiles, parameters: dict[str, ParameterValue] | None = None
) -> float:
    started = time.perf_counter()
    replayed = replay(
        files,
        base=history.base,
        limit=history.entries[-1][0].timestamp,
        archive=history,
        progress=NoProgress(),
        check=never_cancelled,
        parameters=parameters,
    )
    return (time.perf_counter() - started) / replayed.entries_applied


def seconds_of_serial(history: History, files: ScratchFiles) -> float:
    entries = [bson.decode(raw) for _, raw in history.to_replay[:SERIAL_ENTRIES]]
    with running(files, "serial", check=never_cancelled) as client:
        started = time.perf_counter()
        for entry in entries:
            operation = {name: entry[name] for name in ("op", "ns", "ui", "o", "o2") if name in entry}
            if operation["op"] != "n":
                client.admin.command("applyOps", [operation])
        return (time.perf_counter() - started) / len(entries)


def seconds_of_mongorestore(history: History, files: ScratchFiles) -> float:
    dump = files.directory / "dump"
    dump.mkdir()
    (dump / "oplog.bson").write_bytes(b"".join(raw for _, raw in history.to_replay))
    with running(files, "tool", check=never_cancelled) as client:
        (address,) = client.nodes
        uri = f"mongodb://{str(address[0]).replace('/', '%2F')}"
        started = time.perf_counter()
        subprocess.run(["mongorestore", "--quiet", "--uri", uri, "--oplogReplay", str(dump)], check=True)
        return (time.perf_counter() - started) / len(history.to_replay)
