"""What was open where an archive begins, and from which record to read on."""

import pytest

from ebbtide.domain.consistent_point import (
    ClusterOperation,
    OpenWork,
    PartHistory,
    Participants,
    PartTransaction,
    TransactionId,
)
from ebbtide.domain.open_work import newest_record, opening_work
from ebbtide.domain.optime import OplogTimestamp

A, B = TransactionId("a", 1), TransactionId("b", 1)
DROP, RENAME = "dropCollection of shop.orders", "renameCollection of shop.bills"


def ts(tick: int) -> OplogTimestamp:
    return OplogTimestamp(1, tick)


def found(
    *transactions: TransactionId, recorded: tuple[TransactionId, ...] = (), ddl: tuple[str, ...] = ()
) -> OpenWork:
    """What a part answers when it is asked: it does not tell since when."""
    return OpenWork(
        transactions=tuple(PartTransaction(id=id_, prepared=None) for id_ in transactions),
        participants=tuple(Participants(id=id_, shards=("shard0",), recorded=None) for id_ in recorded),
        operations=tuple(ClusterOperation(name=name, began=None) for name in ddl),
    )


def shown(
    transactions: tuple[PartTransaction, ...] = (),
    participants: tuple[Participants, ...] = (),
    operations: tuple[ClusterOperation, ...] = (),
) -> PartHistory:
    return PartHistory(
        part="shard0",
        after=ts(10),
        through=ts(20),
        transactions=transactions,
        participants=participants,
        operations=operations,
    )


@pytest.mark.parametrize(
    ("why", "found", "shown", "expected"),
    [
        ("nothing is found", found(), shown(), found()),
        ("what no entry shows was open before", found(A, recorded=(A,), ddl=(DROP,)), shown(), found(A, recorded=(A,), ddl=(DROP,))),
        (
            "what an entry shows to begin was not",
            found(A, B, recorded=(A, B), ddl=(DROP, RENAME)),
            shown(
                (PartTransaction(id=A, prepared=ts(12)),),
                (Participants(id=A, shards=("shard0",), recorded=ts(11)),),
                (ClusterOperation(name=DROP, began=ts(13)),),
            ),
            found(B, recorded=(B,), ddl=(RENAME,)),
        ),
        (
            "an end that was not yet seen when it was asked says nothing of the beginning",
            found(A, ddl=(DROP,)),
            shown(
                (PartTransaction(id=A, prepared=None, committed=ts(15)),),
                (),
                (ClusterOperation(name=DROP, began=None, ended=ts(15)),),
            ),
            found(A, ddl=(DROP,)),
        ),
        (
            "what began and ended meanwhile is not found",
            found(),
            shown((PartTransaction(id=A, prepared=ts(12), committed=ts(14)),)),
            found(),
        ),
        (
            "a second operation of one name, the first of which was open",
            found(ddl=(DROP,)),
            shown(
                (),
                (),
                (
                    ClusterOperation(name=DROP, began=None, ended=ts(12)),
                    ClusterOperation(name=DROP, began=ts(14)),
                ),
            ),
            found(),
        ),
    ],
)  # fmt: skip
def test_what_was_open_at_the_beginning(
    why: str, found: OpenWork, shown: PartHistory, expected: OpenWork
) -> None:
    assert expected == opening_work(found, shown), why


@pytest.mark.parametrize(
    ("records", "at_most", "expected"),
    [
        ([], 30, None),
        ([10], 30, 10),
        ([10, 20, 40], 30, 20),
        ([10, 20, 40], 20, 20),
        ([10, 20], 15, 10),
        ([5, 40], 30, None),
    ],
)
def test_the_newest_record_of_the_chain_up_to_a_moment(
    records: list[int], at_most: int, expected: int | None
) -> None:
    newest = newest_record(map(ts, records), chain_starts_after=ts(10), at_most=ts(at_most))
    assert (None if expected is None else ts(expected)) == newest
