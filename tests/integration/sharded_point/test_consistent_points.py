"""Consistent points of a real sharded cluster: transfers of the bank, stopped half way too, and sharded DDL.

What the chosen moments cut is judged from the decoded oplogs, not by what chose them.
"""

from collections import defaultdict
from typing import Any, cast

import bson
import pytest
from bson import Timestamp

from ebbtide.domain.consistent_point import (
    ConsistentPoint,
    OpenWork,
    PartHistory,
    latest_consistent_point,
)
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.oplog.transactions import HistoryReader
from ebbtide.testing.bank import DATABASE, BackgroundBank, Bank, StopAfter
from ebbtide.testing.sharded_lab import ShardedLab

Document = dict[str, Any]

TRANSFERS = 20
DROPPED = f"{DATABASE}.dropped"


class Oplogs:
    """The parts' oplogs since this was made; nothing was open then."""

    def __init__(self, lab: ShardedLab) -> None:
        self.lab = lab
        self.after = lab.gossip_note()
        self.raw: dict[str, bytes] = {}

    def read(self) -> list[PartHistory]:
        """What all parts say up to a cluster time that all have passed."""
        through = OplogTimestamp.from_bson(self.lab.gossip_note())
        return [self._read_part(name, through) for name in self.lab.parts]

    def entries(self, part: str) -> list[Document]:
        return bson.decode_all(self.raw[part])

    def commits(self) -> dict[bytes, dict[str, Timestamp]]:
        """By session, when each shard committed its transaction."""
        found: dict[bytes, dict[str, Timestamp]] = defaultdict(dict)
        for part in self.raw:
            for entry in self.entries(part):
                if "commitTransaction" in entry["o"]:
                    found[bytes(entry["lsid"]["id"])][part] = entry["ts"]
        return found

    def _read_part(self, name: str, through: OplogTimestamp) -> PartHistory:
        oplog = self.lab.admin_client(name).local["oplog.rs"]
        bounds = {"$gt": self.after, "$lte": through.to_bson()}
        reader = HistoryReader(name, after=OplogTimestamp.from_bson(self.after), opening=OpenWork())
        self.raw[name] = b"".join(cast(list[bytes], list(oplog.find_raw_batches({"ts": bounds}))))
        reader.read(self.raw[name])
        return reader.history(through)


def chosen(parts: list[PartHistory], at_most: Timestamp | None = None) -> Timestamp:
    limit = parts[0].through if at_most is None else OplogTimestamp.from_bson(at_most)
    found = latest_consistent_point(parts, at_most=limit)
    assert isinstance(found, ConsistentPoint), found
    return found.timestamp.to_bson()


def split_at(oplogs: Oplogs, moment: Timestamp) -> list[bytes]:
    """Transactions of two shards of which only one has committed at a moment."""
    return [
        session
        for session, by_shard in oplogs.commits().items()
        if sum(committed <= moment for committed in by_shard.values()) == 1
    ]


@pytest.fixture
def bank(sharded_lab: ShardedLab) -> Any:
    with Bank(sharded_lab) as bank:
        yield bank


def test_a_transfer_that_is_committed_on_one_shard_only_is_never_split(bank: Bank) -> None:
    oplogs = Oplogs(bank.lab)
    bank.transfer()
    stopped = bank.transfer(stop_after=StopAfter.FIRST_COMMIT)
    assert stopped is not None
    try:
        parts = oplogs.read()
        (half,) = [by_shard for by_shard in oplogs.commits().values() if len(by_shard) == 1]
        (committed,) = half.values()
        moment = chosen(parts)
        assert oplogs.after < moment < committed
    finally:
        stopped.finish()

    parts = oplogs.read()
    assert parts[0].through.to_bson() == chosen(parts)
    last_commit = max(max(by_shard.values()) for by_shard in oplogs.commits().values())
    assert last_commit == chosen(parts, last_commit)
    assert committed > chosen(parts, committed)


def test_a_transfer_that_is_prepared_and_undecided_is_in_nobodys_way(bank: Bank) -> None:
    oplogs = Oplogs(bank.lab)
    stopped = bank.transfer(stop_after=StopAfter.PREPARE)
    assert stopped is not None
    try:
        parts = oplogs.read()
        assert sum(len(part.transactions) for part in parts) == 2
        assert parts[0].through.to_bson() == chosen(parts)
    finally:
        stopped.abort()
    assert sum(len(part.transactions) for part in oplogs.read()) == 0


def test_no_moment_of_a_busy_bank_is_chosen_that_splits_a_transfer(bank: Bank) -> None:
    oplogs = Oplogs(bank.lab)
    with BackgroundBank(bank) as background:
        background.wait_for(transfers=TRANSFERS, moves=1)
    parts = oplogs.read()
    commits = oplogs.commits()
    assert len(commits) >= TRANSFERS
    moments = [moment for by_shard in commits.values() for moment in by_shard.values()]
    assert any(split_at(oplogs, moment) for moment in moments), "two shards never commit with one entry"
    for moment in moments:
        point = chosen(parts, moment)
        assert split_at(oplogs, point) == []
        if not split_at(oplogs, moment) and not any(part.operations for part in parts):
            assert moment == point


def test_a_moment_inside_a_sharded_drop_is_not_chosen(sharded_lab: ShardedLab) -> None:
    sharded_lab.create_sharded(DROPPED, {"_id": 1}, "shard0")
    oplogs = Oplogs(sharded_lab)
    sharded_lab.drop_database(DATABASE)
    parts = oplogs.read()

    coordinators = [
        entry
        for entry in oplogs.entries("shard0")
        if entry["ns"] == "config.system.sharding_ddl_coordinators"
    ]
    began = min(entry["ts"] for entry in coordinators if entry["op"] == "i")
    ended = max(entry["ts"] for entry in coordinators if entry["op"] == "d")
    inside = [
        entry["ts"] for part in oplogs.raw for entry in oplogs.entries(part) if began <= entry["ts"] < ended
    ]
    assert len(inside) > 2
    assert all(chosen(parts, moment) < began for moment in inside)
    assert ended == chosen(parts, ended)
