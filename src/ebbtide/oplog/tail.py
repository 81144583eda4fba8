"""Following the oplog of one member: raw batches of majority-committed entries, from a known entry on.

A tail never guesses where it is. It begins *at* an entry, and that entry must come first, with the same timestamp and
the same term; else the member's oplog does not reach back so far, is not there yet, or tells another history.

Only entries that a majority of the set holds are returned, so none that is archived can be rolled back.
"""

from typing import cast

from pymongo import ASCENDING, DESCENDING, CursorType, MongoClient, ReadPreference
from pymongo.collection import Collection
from pymongo.cursor import RawBatchCursor
from pymongo.read_concern import ReadConcern

from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.errors import EbbtideError
from ebbtide.mongod.deployment import Document, translated_errors
from ebbtide.oplog.entries import entry_starts, optime_at

AWAIT_MILLIS = 400
"""How long the server waits for more entries: also how soon a tail hears that it shall stop."""

BATCH_ENTRIES_MAX = 20_000
"""The driver makes an object of each entry: 16 MB of the smallest ones at once would be too many."""


class SourceUnfit(EbbtideError):
    """This member's oplog cannot be followed from where the archive ends."""


class SourceBehind(SourceUnfit):
    """It does not have that entry yet."""


class SourceTooShort(SourceUnfit):
    """It does not have that entry any more, or never had it."""


class SourceDiverged(SourceUnfit):
    """It has another entry there."""


class OplogTail:
    """The entries of one member from `start` on. One thread uses it; `close` it.

    With `includes_start` the entry at `start` is returned too.
    """

    def __init__(self, client: MongoClient[Document], start: OpTime, *, includes_start: bool) -> None:
        """Raises SourceUnfit, Unreachable, DeploymentError."""
        self._start = start
        self._includes_start = includes_start
        self._cursor = _open(client, start.timestamp)
        self._first: bytes | None = None
        try:
            self._first = self._check_first()
        except BaseException:
            self.close()
            raise

    def next_batch(self) -> bytes:
        """More entries, whole documents end to end; empty where there are none yet. Waits a moment for them.

        Raises Unreachable, DeploymentError: the tail is dead then.
        """
        first, self._first = self._first, None
        if first:
            return first
        batch = self._next()
        if not batch and not self._cursor.alive:
            raise SourceBehind("the member ended the tail of its oplog")
        return batch

    def close(self) -> None:
        self._cursor.close()

    def _next(self) -> bytes:
        with translated_errors("reading the oplog"):
            try:
                return cast(bytes, next(self._cursor))
            except StopIteration:
                return b""

    def _check_first(self) -> bytes:
        batch = self._next()
        if not batch:
            raise SourceBehind(f"the member has no entry {self._start} yet")
        found = optime_at(batch, 0)
        if found.timestamp != self._start.timestamp:
            raise SourceTooShort(f"the member's oplog has no entry {self._start}: the next one is {found}")
        if found.term != self._start.term:
            raise SourceDiverged(f"the member has {found} where {self._start} was archived")
        if self._includes_start:
            return batch
        starts = entry_starts(batch)
        return batch[starts[1] :] if len(starts) > 1 else b""


def _open(client: MongoClient[Document], start: OplogTimestamp) -> "RawBatchCursor[Document]":
    with translated_errors("reading the oplog"):
        return (
            _oplog(client)
            .find_raw_batches(
                {"ts": {"$gte": start.to_bson()}},
                cursor_type=CursorType.TAILABLE_AWAIT,
                batch_size=BATCH_ENTRIES_MAX,
            )
            .max_await_time_ms(AWAIT_MILLIS)
        )


def _oplog(client: MongoClient[Document]) -> Collection[Document]:
    return client.local.get_collection(
        "oplog.rs", read_concern=ReadConcern("majority"), read_preference=ReadPreference.SECONDARY_PREFERRED
    )


def find_newest(client: MongoClient[Document]) -> OpTime | None:
    """The newest committed entry of a member."""
    return _find(client, {}, DESCENDING)


def find_oldest(client: MongoClient[Document], *, at_or_after: OplogTimestamp | None = None) -> OpTime | None:
    """The oldest entry of a member, or the oldest from a timestamp on."""
    query: Document = {} if at_or_after is None else {"ts": {"$gte": at_or_after.to_bson()}}
    return _find(client, query, ASCENDING)


def find_at(client: MongoClient[Document], timestamp: OplogTimestamp) -> OpTime | None:
    """The entry with exactly this timestamp."""
    found = find_oldest(client, at_or_after=timestamp)
    return found if found is not None and found.timestamp == timestamp else None


def _find(client: MongoClient[Document], query: Document, direction: int) -> OpTime | None:
    with translated_errors("reading the oplog"):
        entry = _oplog(client).find_one(query, {"_id": 0, "ts": 1, "t": 1}, sort=[("$natural", direction)])
    return None if entry is None else OpTime.from_entry(entry)
