"""The bank on real shards: money moves by cross-shard transactions, and its total never changes."""

from collections.abc import Iterator
from typing import Any

import pytest
from bson import Binary
from pymongo.errors import OperationFailure

from ebbtide.testing.bank import COLLECTION, DATABASE, BackgroundBank, Bank, StopAfter, StoppedTransfer
from ebbtide.testing.sharded_lab import ShardedLab


@pytest.fixture
def bank(sharded_lab: ShardedLab) -> Iterator[Bank]:
    with Bank(sharded_lab) as bank:
        yield bank


def entries_of(lab: ShardedLab, shard: str, lsid: Any) -> list[dict[str, Any]]:
    oplog = lab.admin_client(shard).local["oplog.rs"]
    return list(oplog.find({"lsid.id": Binary.from_uuid(lsid)}).sort("$natural"))


def commits_of(lab: ShardedLab, lsid: Any) -> list[dict[str, Any]]:
    entries = [entry for shard in lab.shards for entry in entries_of(lab, shard, lsid)]
    return [entry for entry in entries if "commitTransaction" in entry["o"]]


def stopped_transfer(bank: Bank, where: StopAfter) -> StoppedTransfer:
    stopped = bank.transfer(stop_after=where)
    assert stopped is not None
    return stopped


def balances(bank: Bank, accounts: tuple[int, int]) -> list[int]:
    found = []
    for account in accounts:
        (shard,) = [shard for shard, owned in bank.owned_accounts().items() if account in owned]
        document = bank.lab.admin_client(shard)[DATABASE][COLLECTION].find_one({"_id": account})
        assert document is not None
        found.append(document["balance"])
    return found


def test_the_total_is_conserved_while_chunks_move(bank: Bank) -> None:
    times = []
    with BackgroundBank(bank) as background:
        for count in (1, 2, 3):
            background.wait_for(transfers=10 * count, moves=count)
            times.append(bank.lab.gossip_note())
            assert bank.expected_total == bank.total()
    assert bank.expected_total == bank.total()
    # The same moments again: history is read at a time, not as it is now.
    assert [bank.expected_total] * 3 == [bank.total(at=time) for time in times]


def test_a_coordinated_commit_has_one_timestamp_and_its_own_entry_on_each_shard(bank: Bank) -> None:
    bank.transfer()
    coordinators = []
    commits = []
    for shard in bank.lab.shards:
        oplog = bank.lab.admin_client(shard).local["oplog.rs"]
        (commit,) = oplog.find({"o.commitTransaction": 1}).sort("$natural", -1).limit(1)
        commits.append(commit)
        coordinators += list(
            oplog.find({"ns": "config.transaction_coordinators", "o._id.lsid.id": commit["lsid"]["id"]})
        )
    assert commits[0]["lsid"] == commits[1]["lsid"]
    assert commits[0]["o"]["commitTimestamp"] == commits[1]["o"]["commitTimestamp"]
    assert all(commit["ts"] > commit["o"]["commitTimestamp"] for commit in commits)
    assert [{"shard0", "shard1"}] == [set(c["o"]["participants"]) for c in coordinators if c["op"] == "i"]


@pytest.mark.parametrize("is_committed", [True, False])
def test_an_undecided_transfer_is_prepared_on_both_shards_and_decided_later(
    bank: Bank, is_committed: bool
) -> None:
    stopped = stopped_transfer(bank, StopAfter.PREPARE)
    for shard in bank.lab.shards:
        (entry,) = entries_of(bank.lab, shard, stopped.transaction.lsid)
        assert entry["o"]["prepare"]
    before = balances(bank, stopped.accounts)
    bank.transfer()
    if is_committed:
        stopped.finish()
        giver, taker = balances(bank, stopped.accounts)
        assert (giver < before[0], taker > before[1]) == (True, True)
    else:
        stopped.abort()
        assert before == balances(bank, stopped.accounts)
    assert bank.expected_total == bank.total()


def test_a_transfer_between_its_two_commits_can_only_be_finished(bank: Bank) -> None:
    stopped = stopped_transfer(bank, StopAfter.FIRST_COMMIT)
    lsid = stopped.transaction.lsid
    assert [stopped.transaction.commit_timestamp] == [
        commit["o"]["commitTimestamp"] for commit in commits_of(bank.lab, lsid)
    ]
    straddled = bank.lab.gossip_note()
    with pytest.raises(OperationFailure):
        stopped.abort()
    stopped.finish()
    first, last = sorted(commits_of(bank.lab, lsid), key=lambda commit: commit["ts"])
    assert first["ts"] <= straddled < last["ts"]
    assert first["o"]["commitTimestamp"] == last["o"]["commitTimestamp"]
    assert bank.expected_total == bank.total()
