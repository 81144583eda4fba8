"""A sharded cluster with one of everything, copied to scratch mongods once: the source that no test changes."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from bson import MaxKey
from pymongo import MongoClient

from ebbtide.restore.scratch_mongod import ScratchFiles, running
from ebbtide.restore.sharded_load.source import ShardedSource
from ebbtide.testing.sharded_lab import CONFIG, MAJORITY, ShardedLab

Document = dict[str, Any]
Client = MongoClient[Document]

ORDERS, USERS, PAIRS, EVENTS = "shop.orders", "shop.users", "words.pairs", "shop.events"
SHARDED = (ORDERS, USERS, PAIRS, EVENTS)
DAY_SECONDS = 86_400
GERMAN = {"locale": "de"}

EXPECTED: dict[str, list[Document]] = {
    ORDERS: [{"_id": i, "text": f"order {i}", "n": i % 7} for i in range(400)],
    USERS: [{"_id": i, "user": f"u{i}"} for i in range(200)] + [{"_id": 500}, {"_id": 501, "user": None}],
    PAIRS: [
        {"_id": i, "name": name, "place": place}
        for i, (name, place) in enumerate(
            (name, place) for name in ("a", "É", "m", "z") for place in (1, 2.5, "x")
        )
    ]
    + [{"_id": 100, "name": "m"}, {"_id": 101, "place": 3}, {"_id": 102}],
    EVENTS: [{"_id": i, "at": i} for i in range(50)],
    "shop.settings": [{"_id": "currency", "value": "EUR"}],
    "other.notes": [{"_id": i} for i in range(20)],
    "admin.team": [{"_id": "a"}],
}
"""Every document that users have, by namespace."""


def no_check() -> None:
    """Nobody wants a test to stop."""


def fill(lab: ShardedLab) -> None:
    """EXPECTED. Each shard is given all documents of sharded collections, and so has what the other owns as well."""
    create(lab, ORDERS, {"_id": 1})
    lab.split(ORDERS, *({"_id": bound} for bound in (100, 200, 300)))
    lab.move_range(ORDERS, {"_id": 100}, {"_id": 200}, "shard1")
    lab.move_range(ORDERS, {"_id": 300}, {"_id": MaxKey()}, "shard1")
    lab.add_zone(ORDERS, "far", shard="shard1", low={"_id": 300}, high={"_id": MaxKey()})
    create(lab, USERS, {"user": "hashed"})
    create(
        lab,
        PAIRS,
        {"name": 1, "place": 1},
        options={"collation": GERMAN, "validator": {"_id": {"$exists": True}}},
        # More than the shard key, and of another direction.
        indexes=[
            {
                "key": {"name": 1, "place": 1, "_id": -1},
                "name": "wide",
                "collation": {"locale": "simple"},
                "unique": True,
            }
        ],
        primary="shard1",
    )
    lab.split(PAIRS, {"name": "m", "place": 2.5})
    lab.move_range(PAIRS, {"name": "m", "place": 2.5}, {"name": MaxKey(), "place": MaxKey()}, "shard0")
    # The index that the shard key needs is the one by which documents expire.
    ttl = {"key": {"at": 1}, "name": "by age", "expireAfterSeconds": 10 * 365 * DAY_SECONDS}
    create(lab, EVENTS, {"at": 1}, indexes=[ttl])
    lab.split(EVENTS, {"at": 25})
    lab.move_range(EVENTS, {"at": 25}, {"at": MaxKey()}, "shard1")
    for shard in lab.shards:
        client = lab.admin_client(shard)
        for namespace in SHARDED:
            database, _, name = namespace.partition(".")
            client[database][name].insert_many(EXPECTED[namespace])
        client.shop.orders.create_index({"n": 1, "_id": -1}, name="by n")
    fill_unsharded(lab)


def fill_unsharded(lab: ShardedLab) -> None:
    lab.create_database("other", primary="shard1")
    s0, s1 = lab.admin_client("shard0"), lab.admin_client("shard1")
    s0.shop.settings.insert_many(EXPECTED["shop.settings"])
    s0.shop.create_collection("cheap", viewOn="orders", pipeline=[{"$match": {"n": 0}}])
    s1.other.notes.insert_many(EXPECTED["other.notes"])
    s1.other.create_collection("weather", timeseries={"timeField": "t", "metaField": "m"})
    # What a move of the database left behind.
    s0.other.notes.insert_one({"_id": "left behind"})
    lab.admin_client(CONFIG).admin.team.insert_many(EXPECTED["admin.team"])


def create(
    lab: ShardedLab,
    namespace: str,
    key: Document,
    *,
    options: Document | None = None,
    indexes: list[Document] | None = None,
    primary: str = "shard0",
) -> None:
    """A sharded collection with options and indexes, in one range per shard at most."""
    database, _, name = namespace.partition(".")
    lab.create_database(database, primary=primary)
    shard = lab.admin_client(primary)[database]
    shard.create_collection(name, **(options or {}))
    if indexes:
        shard.command("createIndexes", name, indexes=indexes)
    version = lab.admin_client(CONFIG).config.databases.find_one({"_id": database})
    if version is None:
        raise AssertionError(f"no database {database}")
    shard.command(
        "_shardsvrCreateCollection",
        name,
        shardKey=key,
        collation={"locale": "simple"},
        databaseVersion=version["version"],
        writeConcern=MAJORITY,
    )


@pytest.fixture(scope="module")
def source(
    shared_sharded_lab: ShardedLab, mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ShardedSource]:
    """The parts of a sharded cluster with EXPECTED, each on a mongod of its own."""
    lab = shared_sharded_lab
    lab.reset()
    fill(lab)
    root = tmp_path_factory.mktemp("parts")
    with ExitStack() as stack:
        clients: dict[str, Client] = {}
        for name, part in lab.parts.items():
            files = ScratchFiles(directory=root / name, binary=mongod_binary, cache_gb=0.25)
            files.directory.mkdir(mode=0o700)
            copy_files(lab.admin_client(name), part.members[0].dbpath, files.dbpath)
            # Like a restored part: everything that its oplog has, and read-only.
            clients[name] = stack.enter_context(
                running(files, "source", check=no_check, parameters={"recoverFromOplogAsStandalone": True})
            )
        lab.admin_client(CONFIG).admin.drop_collection("team")
        lab.reset()
        yield ShardedSource.read(clients)


def copy_files(client: Client, dbpath: Path, target: Path) -> None:
    client.admin.command("fsync", lock=True)
    try:
        shutil.copytree(
            dbpath,
            target,
            ignore=shutil.ignore_patterns("mongod.lock", "diagnostic.data", "WiredTigerPreplog*"),
        )
    finally:
        client.admin.command("fsyncUnlock")
