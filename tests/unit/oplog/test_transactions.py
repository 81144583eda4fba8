"""Reading transactions and cluster operations of an oplog; entries have the shape that 6.0.5 gives them."""

from collections.abc import Iterable
from typing import Any

import bson
import pytest
from bson import Binary, Int64, Timestamp

from ebbtide.domain.consistent_point import OpenWork, PartHistory, TransactionId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.oplog import transactions
from ebbtide.oplog.archive import EntryBatch
from ebbtide.oplog.entries import entry_starts, optime_at
from ebbtide.oplog.transactions import HistoryReader, read_history, read_open_work

Document = dict[str, Any]

LSID = {"id": Binary(bytes(range(16)), 4), "uid": bytes(32)}
SESSION = {"lsid": LSID, "txnNumber": Int64(7)}
ID = TransactionId(f"id={bytes(range(16)).hex()}.uid={bytes(32).hex()}", 7)
DDL = "config.system.sharding_ddl_coordinators"
DROP = {"namespace": "shop.orders", "operationType": "dropCollection"}
START = OplogTimestamp(0, 0)


def ts(tick: int) -> OplogTimestamp:
    return OplogTimestamp(1, tick)


def raw_entries(*entries: Document) -> bytes:
    """The entries at (1, 1), (1, 2) …"""
    return b"".join(
        bson.encode({**entry, "ts": Timestamp(1, tick), "t": Int64(1), "v": Int64(2)})
        for tick, entry in enumerate(entries, start=1)
    )


def document_entry(kind: str, namespace: str, document: Document) -> Document:
    return {"op": kind, "ns": namespace, "o": document}


def command_entry(**command: Any) -> Document:
    return {**SESSION, "op": "c", "ns": "admin.$cmd", "o": command}


PLAIN = document_entry("i", "shop.orders", {"_id": 1})
PREPARE = command_entry(applyOps=[PLAIN], prepare=True)
COMMIT = command_entry(commitTransaction=1, commitTimestamp=Timestamp(1, 1))
ABORT = command_entry(abortTransaction=1)
RECORD = document_entry(
    "i", transactions.COORDINATORS, {"_id": dict(SESSION), "participants": ["shard0", "shard1"]}
)
DECIDE = document_entry(
    "u", transactions.COORDINATORS, {"_id": dict(SESSION), "decision": {"decision": "commit"}}
)
REMOVE = document_entry("d", transactions.COORDINATORS, {"_id": dict(SESSION)})


def read(*entries: Document) -> PartHistory:
    reader = HistoryReader("shard0", after=START, opening=OpenWork())
    reader.read(raw_entries(*entries))
    return reader.history(ts(len(entries)))


def batches_of(raw: bytes) -> Iterable[EntryBatch]:
    """Each entry as a batch."""
    starts = entry_starts(raw)
    for start, end in zip(starts, [*starts[1:], len(raw)], strict=True):
        optime = optime_at(raw, start)
        yield EntryBatch(raw=raw[start:end], count=1, first=optime, last=optime)


def test_a_transaction_of_several_shards_from_its_record_to_its_removal() -> None:
    found = read(PLAIN, RECORD, PREPARE, DECIDE, PLAIN, COMMIT, REMOVE)
    (transaction,) = found.transactions
    assert (ID, ts(3), ts(6)) == (transaction.id, transaction.prepared, transaction.committed)
    (record,) = found.participants
    assert (record.id, record.shards) == (ID, ("shard0", "shard1"))
    assert (ts(2), ts(7)) == (record.recorded, record.removed)


def test_an_aborted_transaction_leaves_nothing() -> None:
    assert read(PREPARE, ABORT).transactions == ()


def test_a_commit_without_a_prepare_was_prepared_before() -> None:
    (found,) = read(PLAIN, COMMIT).transactions
    assert (None, ts(2)) == (found.prepared, found.committed)


def test_a_transaction_of_one_shard_is_not_in_the_history() -> None:
    assert read(command_entry(applyOps=[PLAIN]), PLAIN).transactions == ()


def test_a_big_transaction_is_prepared_by_the_last_entry_of_its_chain() -> None:
    chain = [command_entry(applyOps=[PLAIN], partialTxn=True)] * 2
    (found,) = read(*chain, command_entry(applyOps=[PLAIN], prepare=True, count=3)).transactions
    assert ts(3) == found.prepared


@pytest.mark.parametrize("namespace", sorted(transactions.OPERATIONS))
def test_an_operation_is_open_while_its_document_is_there(namespace: str) -> None:
    document = {"_id": Binary(bytes(16), 4), "phase": "clone"}
    entries = [document_entry(kind, namespace, document) for kind in "iud"]
    (found,) = read(PLAIN, *entries).operations
    assert (ts(2), ts(4)) == (found.began, found.ended)


def test_operations_are_told_by_what_they_do_to_whom() -> None:
    create = {**DROP, "operationType": "createCollection_V2"}
    began = [document_entry("i", DDL, {"_id": id_}) for id_ in (DROP, create)]
    found = read(*began, document_entry("d", DDL, {"_id": DROP})).operations
    assert {"dropCollection of shop.orders": ts(3), "createCollection_V2 of shop.orders": None} == {
        operation.name: operation.ended for operation in found
    }


def test_what_a_transaction_does_to_an_operation_counts_at_its_last_entry() -> None:
    """The config server writes the documents of a resharding inside transactions."""
    began = document_entry("i", "config.reshardingOperations", {"_id": 1})
    ended = document_entry("d", "config.reshardingOperations", {"_id": 1})
    found = read(
        command_entry(applyOps=[began]),
        command_entry(applyOps=[ended], partialTxn=True),
        PLAIN,
        command_entry(applyOps=[PLAIN], count=2),
    )
    (operation,) = found.operations
    assert (ts(1), ts(4)) == (operation.began, operation.ended)


def test_documents_of_users_that_look_like_such_entries_are_none() -> None:
    marks = {"prepare": True, "commitTransaction": 1, "abortTransaction": 1}
    names = {str(i): name for i, name in enumerate([transactions.COORDINATORS, *transactions.OPERATIONS])}
    found = read(
        document_entry("i", "shop.orders", {"_id": 1, **marks, **names}),
        document_entry("i", "shop.transactions", {**marks, "o": marks}),
        {"op": "c", "ns": "shop.$cmd", "o": {"create": "orders", "validator": marks}},
    )
    assert (found.transactions, found.participants, found.operations) == ((), (), ())


def test_only_entries_with_a_mark_are_decoded() -> None:
    decoded: list[bytes] = []

    class Watched(HistoryReader):
        def _take(self, entry: Any) -> None:
            decoded.append(bytes(entry.raw))
            super()._take(entry)

    Watched("a", after=START, opening=OpenWork()).read(raw_entries(PLAIN, PREPARE, PLAIN, COMMIT, PLAIN))
    assert len(decoded) == 2


HISTORY = (PLAIN, RECORD, PREPARE, document_entry("i", DDL, {"_id": DROP}), COMMIT,
           document_entry("d", DDL, {"_id": DROP}), REMOVE, PREPARE)  # fmt: skip


@pytest.mark.parametrize("cut", range(len(HISTORY) + 1))
def test_what_is_open_is_carried_over_a_cut(cut: int) -> None:
    """Reading on from what was kept at a cut tells of everything that the whole history has beyond it."""
    raw = list(batches_of(raw_entries(*HISTORY)))
    kept = read_open_work(raw[:cut], part="a", after=START, opening=OpenWork())
    kept = OpenWork.from_document(bson.decode(bson.encode(kept.to_document())))
    through = ts(len(HISTORY))
    whole = read_history(raw, part="a", after=START, through=through, opening=OpenWork())
    rest = read_history(raw[cut:], part="a", after=ts(cut), through=through, opening=kept)

    later = ts(cut)
    assert [t for t in whole.transactions if t.committed is None or t.committed > later] == list(
        rest.transactions
    )
    assert [p for p in whole.participants if p.removed is None or p.removed > later] == list(
        rest.participants
    )
    assert [o for o in whole.operations if o.ended is None or o.ended > later] == list(rest.operations)


def test_an_entry_that_cannot_be_understood_is_no_silence() -> None:
    with pytest.raises(ValueError, match="an entry of a cannot be understood"):
        HistoryReader("a", after=START, opening=OpenWork()).read(
            raw_entries({"op": "c", "ns": "admin.$cmd", "o": {"commitTransaction": 1}})
        )
