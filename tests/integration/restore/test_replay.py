"""Any moment of a random history, replayed by mongod on a copy of a member's files, is what that member held then.

The history is made of everything the workload knows, from a seed that a failure shows. The member that is compared
with applied exactly that prefix when its contents were noted. It is like a head: hidden, without a vote, and copied
under the lock.
"""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from ebbtide.domain.capture import BACKUP_METADATA, is_left_out, parse_stable_timestamp
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.progress import NoProgress
from ebbtide.domain.replay import HistoryDiverged, ReplayBase, ReplayFailed
from ebbtide.mongod.options import MongodOptions, Tcp
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.process import MongodProcess
from ebbtide.oplog.archive import EntryBatch
from ebbtide.repository.repository import never_cancelled
from ebbtide.restore.new_set import new_configuration
from ebbtide.restore.replay import Replayed, replay
from ebbtide.restore.scratch_mongod import ScratchFiles, running
from ebbtide.testing import workload
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab

Document = dict[str, Any]
Client = MongoClient[Document]

SEED = int(os.environ.get("EBBTIDE_TEST_SEED") or random.SystemRandom().randrange(10**6))
CHUNKS, CHUNK_OPERATIONS = 4, 40
PRIMARY, VOTER, HEAD = range(3)
"""Of the set's members: the primary; the voter without which nothing is majority committed; the one like a head."""

BATCH_ENTRIES = 700
WAIT_SECONDS = 60.0


# --- what is compared -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """What the head-like member held when `at` was the newest entry in its oplog."""

    at: OplogTimestamp
    seen: Document


def see(client: Client) -> Document:
    """Everything that two members hold alike: documents by hash, collections with their options, indexes."""
    hashes = database_hashes(client)
    # A replayed result has none, on purpose.
    hashes.get("config", {}).pop("transactions", None)
    names = [name for name in client.list_database_names() if name not in ("local", "config")]
    return {"hashes": hashes, "collections": {name: _collections(client, name) for name in names}}


def _collections(client: Client, database: str) -> Document:
    found: Document = {}
    for collection in client[database].list_collections():
        indexes: list[Document] = []
        if collection["type"] == "collection":
            indexes = [dict(index) for index in client[database][collection["name"]].list_indexes()]
        by_name = sorted(indexes, key=lambda index: str(index["name"]))
        found[collection["name"]] = (collection["options"], collection["info"].get("uuid"), by_name)
    return found


def newest(client: Client) -> OplogTimestamp:
    entry = client.local["oplog.rs"].find_one(sort=[("$natural", -1)])
    assert entry is not None
    return OplogTimestamp.from_bson(entry["ts"])


# --- the set, and its history ---------------------------------------------------------------------------------------


class HeadLab:
    """Two voters and a hidden member without a vote, with copies of the latter's files."""

    def __init__(self, lab: ReplicaSetLab) -> None:
        self.lab = lab
        self.client: Client = lab.client(w=1)
        self.head: Client = lab.member_client(HEAD)

    def close(self) -> None:
        self.client.close()
        self.head.close()

    def wait_for_head(self) -> OplogTimestamp:
        """Wait until the member like a head has what the primary has."""
        with self.lab.member_client(PRIMARY) as primary:
            wanted = newest(primary)
        deadline = time.monotonic() + WAIT_SECONDS
        while newest(self.head) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return wanted

    def moment(self) -> Moment:
        """What is there now, and the newest entry that can be in it; a no-op that comes meanwhile changes nothing."""
        self.wait_for_head()
        seen = see(self.head)
        return Moment(newest(self.head), seen)

    @contextmanager
    def without_majority(self) -> Iterator[None]:
        """The voter stands still, so whatever is written is not majority committed."""
        with self.lab.member_client(VOTER) as voter:
            voter.admin.command("fsync", 1, lock=True)
            try:
                yield
            finally:
                voter.admin.command("fsyncUnlock")

    def copy_files(self, target: Path) -> ReplayBase:
        """A copy of the member's files, as a snapshot takes them."""
        source = self.lab.members[HEAD].dbpath
        self.head.admin.command("fsync", 1, lock=True)
        try:
            stable = parse_stable_timestamp((source / BACKUP_METADATA).read_text(errors="replace"))
            applied = newest(self.head)
            for path in source.rglob("*"):
                name = path.relative_to(source).as_posix()
                if path.is_file() and not is_left_out(name):
                    (target / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    shutil.copyfile(path, target / name)
        finally:
            self.head.admin.command("fsyncUnlock")
        return ReplayBase(stable=stable, applied=applied)

    def entries(self) -> "Entries":
        options: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
        with self.lab.member_client(PRIMARY) as primary:
            # The very first entry of a set has no term.
            found = primary.local.get_collection("oplog.rs", options).find({"t": {"$gte": 1}})
            return Entries([(OpTime.from_entry(entry), entry.raw) for entry in found])


@dataclass
class Entries:
    """A set's oplog as the archive would give it."""

    entries: list[tuple[OpTime, bytes]]

    def find_optime(self, timestamp: OplogTimestamp) -> OpTime | None:
        return next((optime for optime, _ in self.entries if optime.timestamp == timestamp), None)

    def newest_at_or_before(self, timestamp: OplogTimestamp) -> OpTime | None:
        return max((optime for optime, _ in self.entries if optime.timestamp <= timestamp), default=None)

    def iter_batches(self, *, after: OplogTimestamp, through: OplogTimestamp) -> Iterator[EntryBatch]:
        wanted = [found for found in self.entries if after < found[0].timestamp <= through]
        for start in range(0, len(wanted), BATCH_ENTRIES):
            batch = wanted[start : start + BATCH_ENTRIES]
            yield EntryBatch(
                raw=b"".join(raw for _, raw in batch),
                count=len(batch),
                first=batch[0][0],
                last=batch[-1][0],
            )

    def find(self, is_wanted: Callable[[Document], bool]) -> OplogTimestamp:
        """The first entry of that kind."""
        return next(o.timestamp for o, raw in self.entries if is_wanted(bson.decode(raw)))


class ShortEntries(Entries):
    """An archive whose last entries are in its index alone."""

    def iter_batches(self, *, after: OplogTimestamp, through: OplogTimestamp) -> Iterator[EntryBatch]:
        yield from Entries(self.entries[:-5]).iter_batches(after=after, through=through)


@dataclass
class History:
    """A copy of the files, and every moment that was noted; `named` ones are special."""

    files: Path
    base: ReplayBase
    entries: Entries
    moments: list[Moment] = field(default_factory=list)
    named: dict[str, Moment] = field(default_factory=dict)


@pytest.fixture(scope="module")
def head_lab(mongod_binary: Path) -> Iterator[HeadLab]:
    settings = {HEAD: {"hidden": True, "priority": 0, "votes": 0}, VOTER: {"priority": 0}}
    # Test commands, because without a sharded cluster only they prepare a transaction.
    with ReplicaSetLab(
        binary=mongod_binary,
        member_settings=settings,
        replica_set_name="replayed",
        set_parameters={"enableTestCommands": True},
    ) as lab:
        made = HeadLab(lab)
        yield made
        made.close()


@pytest.fixture(scope="module")
def history(head_lab: HeadLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """Load, lose the majority, copy the files then, and go on changing everything."""
    rng = random.Random(SEED)
    # Its name shows the seed in every failure.
    files = tmp_path_factory.mktemp(f"seed-{SEED}-")
    workload.load(head_lab.client, seed=SEED, scale=0.02)
    head_lab.lab.wait_until_replicated()
    within: list[Moment] = [head_lab.moment()]
    with head_lab.without_majority():
        within += [_write_without_majority(head_lab, rng) for _ in range(3)]
        base = head_lab.copy_files(files)
    head_lab.lab.wait_until_replicated()
    made = History(files=files, base=base, entries=Entries([]), moments=within)
    for _ in range(CHUNKS):
        workload.churn(head_lab.client, rng=rng, operations=CHUNK_OPERATIONS)
        made.moments.append(head_lab.moment())
    _do_special_things(head_lab, made)
    made.moments.append(head_lab.moment())
    made.entries = head_lab.entries()
    yield made
    shutil.rmtree(files)


def _write_without_majority(head_lab: HeadLab, rng: random.Random) -> Moment:
    client = head_lab.client
    client.shop.orders.insert_many([{"_id": f"{rng.getrandbits(64):x}", "n": n} for n in range(20)])
    client.shop.customers.update_many({}, {"$inc": {"visits": 1}})
    client.lagging.create_collection(f"made_{rng.getrandbits(32)}")
    with client.start_session() as session, session.start_transaction():
        client.shop.stock.update_one({"_id": 1}, {"$inc": {"count": 1}}, session=session)
        client.shop.orders.insert_one({"_id": f"t{rng.getrandbits(64):x}"}, session=session)
    return head_lab.moment()


def _do_special_things(head_lab: HeadLab, made: History) -> None:
    """A drop, an entry beyond 16 MiB, a transaction in several entries, an index build, a prepared transaction."""
    client = head_lab.client
    client.special.kept.insert_many([{"_id": n, "text": "x" * 100} for n in range(500)])
    made.named["before the drop"] = head_lab.moment()
    client.special.drop_collection("kept")

    empty = len(bson.encode({"_id": 1, "body": b""}))
    client.special.large.insert_one({"_id": 1, "body": bytes(16 * 1024 * 1024 - empty)})

    made.named["before the transaction"] = head_lab.moment()
    with client.start_session() as session, session.start_transaction():
        for number in range(3):
            document = {"_id": f"part {number}", "body": os.urandom(6_000_000)}
            client.special.large.insert_one(document, session=session)

    client.special.indexed.insert_many([{"_id": n, "key": n} for n in range(1000)])
    made.named["before the index"] = head_lab.moment()
    client.special.indexed.create_index("key", name="by key")

    client.special.accounts.insert_one({"_id": 1, "balance": 10})
    made.named["before the prepare"] = head_lab.moment()
    with client.start_session() as session:
        session.start_transaction()
        client.special.accounts.update_one({"_id": 1}, {"$inc": {"balance": -1}}, session=session)
        prepared = client.admin.command("prepareTransaction", 1, session=session)["prepareTimestamp"]
        client.special.accounts.insert_one({"_id": "meanwhile"})
        client.admin.command("commitTransaction", 1, commitTimestamp=prepared, session=session)
        made.named["prepared"] = Moment(OplogTimestamp.from_bson(prepared), {})


# --- replaying ------------------------------------------------------------------------------------------------------


@pytest.fixture
def scratch(history: History, mongod_binary: Path, socket_directory: Path) -> Iterator[ScratchFiles]:
    """The copy of the files, laid down anew."""
    files = ScratchFiles(directory=socket_directory, binary=mongod_binary, cache_gb=0.25)
    shutil.copytree(history.files, files.dbpath)
    yield files
    shutil.rmtree(socket_directory)


def replay_to(files: ScratchFiles, history: History, limit: OplogTimestamp, **changes: Any) -> Replayed:
    values = {"base": history.base, "archive": history.entries, **changes}
    return replay(files, limit=limit, progress=NoProgress(), check=never_cancelled, **values)


def contents(files: ScratchFiles) -> Document:
    with running(files, "serve", check=never_cancelled) as client:
        return see(client)


def require_equal(expected: Moment, files: ScratchFiles, history: History, limit: OplogTimestamp) -> Replayed:
    replayed = replay_to(files, history, limit)
    assert expected.seen == contents(files), f"EBBTIDE_TEST_SEED={SEED}, to {limit}"
    return replayed


def test_the_files_open_before_the_end_of_their_oplog(history: History) -> None:
    assert history.base.stable < history.base.applied
    within = [m.at for m in history.moments if history.base.stable < m.at < history.base.applied]
    assert len(within) >= 2


def test_a_moment_between_where_the_files_open_and_their_newest_entry(
    history: History, scratch: ScratchFiles
) -> None:
    moment = next(m for m in history.moments if history.base.stable < m.at < history.base.applied)
    replayed = require_equal(moment, scratch, history, moment.at)
    assert replayed.entries_inserted == 0
    assert moment.at == replayed.restored.timestamp


def test_exactly_where_the_files_open(history: History, scratch: ScratchFiles) -> None:
    replayed = replay_to(scratch, history, history.base.stable)
    assert replayed.entries_applied == 0
    assert history.base.stable == replayed.restored.timestamp
    moment = next(m for m in reversed(history.moments) if m.at <= history.base.stable)
    assert moment.seen == contents(scratch)


def test_a_random_moment_and_its_replay_again(history: History, scratch: ScratchFiles) -> None:
    later = [m for m in history.moments if m.at > history.base.applied]
    moment = random.Random(SEED).choice(later)
    replayed = require_equal(moment, scratch, history, moment.at)
    assert replayed.entries_inserted > 0
    with pytest.raises(ReplayFailed, match="open at None"):
        replay_to(scratch, history, later[-1].at)


def test_one_increment_before_a_collection_is_dropped(history: History, scratch: ScratchFiles) -> None:
    dropped = history.entries.find(lambda e: e["ns"] == "special.$cmd" and e["o"].get("drop") == "kept")
    limit = OplogTimestamp(dropped.seconds, dropped.increment - 1)
    require_equal(history.named["before the drop"], scratch, history, limit)


def test_in_the_middle_of_a_transaction_of_several_entries(history: History, scratch: ScratchFiles) -> None:
    """Invisible until its last entry; and on the way there is an entry that no plain insert takes."""
    middle = history.entries.find(lambda e: bool(e["o"].get("partialTxn")))
    require_equal(history.named["before the transaction"], scratch, history, middle)


def test_an_index_that_is_still_being_built_is_not_there_yet(history: History, scratch: ScratchFiles) -> None:
    begun = history.entries.find(
        lambda e: "startIndexBuild" in e["o"] and e["o"]["indexes"][0]["name"] == "by key"
    )
    replayed = replay_to(scratch, history, begun)
    assert [index.namespace for index in replayed.settled.unfinished_indexes] == ["special.indexed"]
    with running(scratch, "serve", check=never_cancelled) as client:
        assert history.named["before the index"].seen == see(client)
        client.special.indexed.create_index("key", name="by key")
    require_usable_as_set(scratch, "indexed", starts=1)


def test_a_prepared_transaction_blocks_nobody_later(history: History, scratch: ScratchFiles) -> None:
    replayed = replay_to(scratch, history, history.named["prepared"].at)
    assert replayed.settled.prepared_transactions == 1
    assert history.named["before the prepare"].seen == contents(scratch)
    require_usable_as_set(scratch, "accounts")


def require_usable_as_set(files: ScratchFiles, collection: str, *, starts: int = 2) -> None:
    """A new set of the files takes writes to its documents, after a restart too; and the collection can be dropped."""
    listen = Tcp(host="127.0.0.1", port=free_port("127.0.0.1"))
    with running(files, "serve", check=never_cancelled) as client:
        entry = client.local["oplog.rs"].find_one(sort=[("$natural", -1)])
        assert entry is not None
        client.config.transactions.delete_many({})
        client.local["system.replset"].delete_many({})
        configuration = new_configuration(
            replica_set_name="new", host=f"{listen.host}:{listen.port}", term=int(entry["t"])
        )
        # Nobody else can vote, so nobody need be waited for.
        configuration["settings"]["electionTimeoutMillis"] = 500
        client.local["system.replset"].insert_one(configuration)
    options = MongodOptions(
        dbpath=files.dbpath,
        log_path=files.log_path("set"),
        listen=listen,
        cache_gb=0.25,
        replica_set_name="new",
        set_parameters={"ttlMonitorEnabled": False},
    )
    for number in range(starts):
        process = MongodProcess.start(files.binary, options, identity_path=files.identity_path)
        try:
            with process.client(timeoutMS=int(WAIT_SECONDS * 1000)) as client:
                _wait_until_writable(client)
                client.special[collection].update_one({"_id": 1}, {"$set": {"start": number}})
                if number == starts - 1:
                    client.special.drop_collection(collection)
        finally:
            process.stop()


def _wait_until_writable(client: Client) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not client.admin.command("hello")["isWritablePrimary"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.long
def test_every_moment_of_the_history(
    history: History, mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for number, moment in enumerate(m for m in history.moments if m.at >= history.base.stable):
        directory = tmp_path_factory.mktemp(f"s{number}")
        files = ScratchFiles(directory=directory, binary=mongod_binary, cache_gb=0.25)
        shutil.copytree(history.files, files.dbpath)
        require_equal(moment, files, history, moment.at)
        shutil.rmtree(directory)


# --- what must not be replayed --------------------------------------------------------------------------------------


def test_another_history_at_the_newest_entry_is_refused(history: History, scratch: ScratchFiles) -> None:
    other = Entries([(replace(optime, term=optime.term + 1), raw) for optime, raw in history.entries.entries])
    with pytest.raises(HistoryDiverged):
        replay_to(scratch, history, history.moments[-1].at, archive=other)


def test_an_archive_that_lacks_an_entry_is_noticed(history: History, scratch: ScratchFiles) -> None:
    """It ends too early: the newest entry is told by its index, and never comes."""
    short = ShortEntries(history.entries.entries)
    with pytest.raises(ReplayFailed, match="before"):
        replay_to(scratch, history, history.moments[-1].at, archive=short)
    assert MongodProcess.find_running(scratch.identity_path) is None


def test_files_with_a_truncate_point_are_refused(history: History, scratch: ScratchFiles) -> None:
    with running(scratch, "mark", check=never_cancelled) as client:
        client.local["replset.oplogTruncateAfterPoint"].replace_one(
            {"_id": "oplogTruncateAfterPoint"},
            {"oplogTruncateAfterPoint": history.base.applied.to_bson()},
            upsert=True,
        )
    with pytest.raises(ReplayFailed, match="marked to be cut"):
        replay_to(scratch, history, history.moments[-1].at)
