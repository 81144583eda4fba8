"""What one part's oplog says about transactions over several shards, sharded DDL operations and resharding.

Most entries are plain changes of documents. They are told by the absence of a few byte strings, searched in a whole batch
at once: only an entry that has one of them is decoded. A string may stand in a user's document too, so the decoded entry
decides. As written by 6.0.5:

    prepare          op c, o.applyOps, o.prepare: true, with lsid and txnNumber; a big one is the last of a chain
    commit, abort    op c, o.commitTransaction: 1 with commitTimestamp; o.abortTransaction: 1
    coordinator      op i, u, d in config.transaction_coordinators; its _id is {lsid, txnNumber}, `participants` shard ids
    DDL, resharding  op i and d in the collections of OPERATIONS, also inside the applyOps of a transaction

A transaction on one shard has neither prepare nor commit entry: it is one applyOps, or a chain of which the last counts.

Invariant: memory grows with what is open, and with what finished since the beginning or the last `forget_finished`.
One thread uses a reader. Crash: nothing is stored here; `open_work` is what to keep where entries are trimmed.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument

from ebbtide.domain.consistent_point import (
    ClusterOperation,
    OpenWork,
    PartHistory,
    Participants,
    PartTransaction,
    TransactionId,
)
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.oplog.archive import EntryBatch
from ebbtide.oplog.entries import entry_starts

COORDINATORS = "config.transaction_coordinators"
OPERATIONS = frozenset(
    {
        "config.system.sharding_ddl_coordinators",
        "config.reshardingOperations",
        "config.localReshardingOperations.donor",
        "config.localReshardingOperations.recipient",
    }
)
"""A document is there for as long as the operation is under way. Records of progress beside them are not counted."""

_BOOLEAN = b"\x08"
_MARKS = (
    _BOOLEAN + b"prepare\x00",
    b"commitTransaction\x00",
    b"abortTransaction\x00",
    b"config.transaction_coordinators\x00",
    b"config.system.sharding_ddl_coordinators\x00",
    b"config.reshardingOperations\x00",
    b"config.localReshardingOperations.",
)
_LAZY: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)

Operation = tuple[str, str, str]
"""Kind (i or d), collection, and the operation's name."""


class HistoryReader:
    """The history of one part, entry by entry, from `after` (not included) on; `opening` is what was open there."""

    def __init__(self, part: str, *, after: OplogTimestamp, opening: OpenWork) -> None:
        self.part = part
        self.after = after
        self._transactions = {found.id: found for found in opening.transactions}
        self._participants = {found.id: found for found in opening.participants}
        self._operations = {found.name: found for found in opening.operations}
        self._finished_transactions: list[PartTransaction] = []
        self._finished_participants: list[Participants] = []
        self._finished_operations: list[ClusterOperation] = []
        # What a transaction did to OPERATIONS, until its last entry says that it is done.
        self._held: dict[TransactionId, list[Operation]] = {}

    def read(self, raw: bytes) -> None:
        """The next entries, whole BSON documents end to end.

        Raises ValueError where they are not, or where an entry that matters is not of the shape told above.
        """
        for entry in self._marked_entries(raw):
            try:
                self._take(RawBSONDocument(entry, _LAZY))
            except (InvalidBSON, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"an entry of {self.part} cannot be understood: {error!r}") from error

    def open_work(self) -> OpenWork:
        """What is unfinished after the entries read: with it another reader can go on right there.

        A chain of a single transaction must not be cut: the operations that it began or ended would be missed.
        """
        return OpenWork(
            transactions=tuple(self._transactions.values()),
            participants=tuple(self._participants.values()),
            operations=tuple(self._operations.values()),
        )

    @property
    def can_be_cut(self) -> bool:
        """Whether `open_work` says all. It does not within a transaction that begins or ends an operation."""
        return not self._held

    def forget_finished(self, through: OplogTimestamp) -> None:
        """Let the history begin after `through`, up to which entries were read: what is finished is dropped."""
        self.after = through
        self._finished_transactions.clear()
        self._finished_participants.clear()
        self._finished_operations.clear()

    def history(self, through: OplogTimestamp) -> PartHistory:
        """All since the beginning; `through` is up to where entries were read."""
        return PartHistory(
            part=self.part,
            after=self.after,
            through=through,
            transactions=(*self._finished_transactions, *self._transactions.values()),
            participants=(*self._finished_participants, *self._participants.values()),
            operations=(*self._finished_operations, *self._operations.values()),
        )

    # --- entries --------------------------------------------------------------------------------------------------

    def _marked_entries(self, raw: bytes) -> Iterator[bytes]:
        if not self._held and not any(mark in raw for mark in _MARKS):
            return
        starts = entry_starts(raw)
        ends = [*starts[1:], len(raw)]
        marked = _marked_indexes(raw, starts)
        for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
            # The last entry of a chain may have no mark itself.
            if index in marked or self._held:
                yield raw[start:end]

    def _take(self, entry: RawBSONDocument) -> None:
        kind, namespace = entry["op"], entry["ns"]
        timestamp = OplogTimestamp.from_bson(entry["ts"])
        if kind == "c":
            self._take_command(entry, entry["o"], timestamp)
        elif kind in ("i", "d") and namespace == COORDINATORS:
            self._take_coordinator(kind, entry["o"], timestamp)
        elif kind in ("i", "d") and namespace in OPERATIONS:
            self._apply((kind, namespace, operation_name(namespace, entry["o"])), timestamp)

    def _take_command(
        self, entry: Mapping[str, Any], command: Mapping[str, Any], timestamp: OplogTimestamp
    ) -> None:
        # The command's name is its first field: a user's document may have these names further inside.
        name = next(iter(command), "")
        if name == "applyOps":
            self._take_apply_ops(entry, command, timestamp)
        elif name == "commitTransaction":
            id_ = transaction_id(entry)
            began = self._transactions.pop(id_, None)
            self._finished_transactions.append(
                PartTransaction(id=id_, prepared=began.prepared if began else None, committed=timestamp)
            )
            self._release(id_, timestamp)
        elif name == "abortTransaction":
            id_ = transaction_id(entry)
            self._transactions.pop(id_, None)
            self._held.pop(id_, None)

    def _take_apply_ops(
        self, entry: Mapping[str, Any], command: Mapping[str, Any], timestamp: OplogTimestamp
    ) -> None:
        operations = list(_operations_in(command["applyOps"]))
        if "lsid" not in entry:
            for operation in operations:
                self._apply(operation, timestamp)
            return
        id_ = transaction_id(entry)
        if operations:
            self._held.setdefault(id_, []).extend(operations)
        if command.get("prepare"):
            self._transactions[id_] = PartTransaction(id=id_, prepared=timestamp)
        elif not command.get("partialTxn"):
            self._release(id_, timestamp)

    def _release(self, id_: TransactionId, timestamp: OplogTimestamp) -> None:
        for operation in self._held.pop(id_, []):
            self._apply(operation, timestamp)

    def _take_coordinator(self, kind: str, document: Mapping[str, Any], timestamp: OplogTimestamp) -> None:
        id_ = transaction_id(document["_id"])
        if kind == "i":
            shards = tuple(str(shard) for shard in document["participants"])
            self._participants[id_] = Participants(id=id_, shards=shards, recorded=timestamp)
        elif (known := self._participants.pop(id_, None)) is not None:
            self._finished_participants.append(
                Participants(id=id_, shards=known.shards, recorded=known.recorded, removed=timestamp)
            )

    def _apply(self, operation: Operation, timestamp: OplogTimestamp) -> None:
        kind, _, name = operation
        if kind == "i":
            self._operations.setdefault(name, ClusterOperation(name=name, began=timestamp))
        else:
            known = self._operations.pop(name, None)
            began = None if known is None else known.began
            self._finished_operations.append(ClusterOperation(name=name, began=began, ended=timestamp))


def read_history(
    batches: Iterable[EntryBatch],
    *,
    part: str,
    after: OplogTimestamp,
    through: OplogTimestamp,
    opening: OpenWork,
) -> PartHistory:
    """What `batches`, all entries with `after` < ts ≤ `through`, say. Raises as HistoryReader.read and the batches do."""
    reader = HistoryReader(part, after=after, opening=opening)
    for batch in batches:
        reader.read(batch.raw)
    return reader.history(through)


def read_open_work(
    batches: Iterable[EntryBatch], *, part: str, after: OplogTimestamp, opening: OpenWork
) -> OpenWork:
    """What is open after `batches`, of which nothing else is kept: to trim there, or to read a late window."""
    reader = HistoryReader(part, after=after, opening=opening)
    for batch in batches:
        reader.read(batch.raw)
        reader.forget_finished(batch.last.timestamp)
    return reader.open_work()


def _marked_indexes(raw: bytes, starts: list[int]) -> set[int]:
    """Which entries have a mark somewhere."""
    marked: set[int] = set()
    for mark in _MARKS:
        offset = raw.find(mark)
        while offset >= 0:
            index = bisect_right(starts, offset) - 1
            marked.add(index)
            # One mark in an entry is enough: go on with the next entry.
            offset = raw.find(mark, starts[index + 1]) if index + 1 < len(starts) else -1
    return marked


def _operations_in(entries: Iterable[Mapping[str, Any]]) -> Iterator[Operation]:
    for entry in entries:
        kind, namespace = entry["op"], entry["ns"]
        if kind in ("i", "d") and namespace in OPERATIONS:
            yield kind, namespace, operation_name(namespace, entry["o"])


def operation_name(namespace: str, document: Mapping[str, Any]) -> str:
    """The same for the document's insertion and removal, and for no other document of this part."""
    id_ = document["_id"]
    if isinstance(id_, Mapping) and {"operationType", "namespace"} <= id_.keys():
        return f"{id_['operationType']} of {id_['namespace']}"
    return f"an operation in {namespace} with _id {bson.encode({'': id_}).hex()}"


def transaction_id(document: Mapping[str, Any]) -> TransactionId:
    """Of an entry or of a coordinator's `_id`: both have `lsid` and `txnNumber`, the session with all its fields."""
    session = ".".join(f"{name}={_text(value)}" for name, value in sorted(document["lsid"].items()))
    return TransactionId(session, int(document["txnNumber"]))


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
