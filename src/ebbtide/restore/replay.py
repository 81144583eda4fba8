"""Bringing a snapshot's files to a later (or slightly earlier) moment: mongod itself replays the oplog.

    open      a plain start: the files are what the manifest says; the oplog is lengthened from the archive, or cut
    replay    `recoverFromOplogAsStandalone`: the server applies everything between T_s and the target, with its own
              parallel appliers, and comes up read-only; what it applied is counted and compared
    settle    a plain start: what would block somebody later goes (prepared transactions, unfinished indexes)

The procedure and its traps were found by running it (4.4 to 6.0): the oplog is never read forwards once entries were
inserted (such a read blocks for ever), and an oplog with a truncate point drops what is inserted, without a word.

Invariants
  * the files are at the target, by the server's own count and by the newest entry, or ReplayFailed is raised
  * a replayed dbpath has no timestamp to go on from: it is delivered, and never a base again
Crash, or a mongod that did not shut down by itself: the dbpath is worth nothing; begin again with new files.
"""

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from bson import CodecOptions, Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo import DESCENDING, MongoClient, WriteConcern

from ebbtide.crash_points import reach
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.progress import ProgressReporter
from ebbtide.domain.replay import (
    ReplayBase,
    ReplayFailed,
    ReplayPlan,
    check_base,
    check_replayed,
    check_truncate_point,
    plan_beyond,
    plan_within,
)
from ebbtide.mongod.deployment import translated_errors
from ebbtide.mongod.log_lines import find_applied_count, find_applying_count, find_recovery_timestamp
from ebbtide.mongod.options import ParameterValue
from ebbtide.restore.scratch_mongod import ScratchFiles, running
from ebbtide.restore.settle import Settled, settle

Document = dict[str, Any]
Client = MongoClient[Document]

INSERT_BYTES_MAX = 15 * 1000 * 1000
INSERT_DOCUMENTS_MAX = 100_000
"""Of one insert. The server takes 100,000 documents; a command is one document, of 16 MiB and its own few bytes."""

ENTRY_BYTES_MAX = 16 * 1024 * 1024
"""What a plain insert takes (6.0.5: "object to insert too large"); an entry may be some hundred bytes longer."""

REPLAY_PARAMETERS: dict[str, ParameterValue] = {
    "recoverFromOplogAsStandalone": True,
    "takeUnstableCheckpointOnShutdown": True,
    # One line per batch: how far the replay is.
    "logComponentVerbosity": {"storage": {"recovery": {"verbosity": 2}}},
}
LARGE_ENTRY_PARAMETERS: dict[str, ParameterValue] = {"enableTestCommands": True}
"""For `godinsert`, the one command that takes an entry of more than 16 MiB. Only on files that hold one."""

_LENGTH = struct.Struct("<i")
_ITEM_BYTES = 8
"""What a document in a list takes besides itself: a type, and its number as text."""


class Batch(Protocol):
    """Some oplog entries in a row: whole BSON documents end to end."""

    @property
    def raw(self) -> bytes: ...
    @property
    def count(self) -> int: ...
    @property
    def last(self) -> OpTime: ...


class EntrySource(Protocol):
    """Where the entries come from; `oplog.archive.OplogArchive` is one."""

    def find_optime(self, timestamp: OplogTimestamp) -> OpTime | None: ...
    def newest_at_or_before(self, timestamp: OplogTimestamp) -> OpTime | None: ...
    def iter_batches(self, *, after: OplogTimestamp, through: OplogTimestamp) -> Iterator[Batch]: ...


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """`restored` is the newest entry in the result; `entries_applied` lie between T_s and it."""

    restored: OpTime
    entries_applied: int
    entries_inserted: int
    seconds: float
    settled: Settled


def replay(
    files: ScratchFiles,
    *,
    base: ReplayBase,
    limit: OplogTimestamp,
    archive: EntrySource,
    progress: ProgressReporter,
    check: Callable[[], None],
    parameters: dict[str, ParameterValue] | None = None,
) -> Replayed:
    """Bring the files of a snapshot, as they were laid down, to the newest entry that is not beyond `limit`.

    `parameters` are added to the replaying mongod's. Raises ReplayFailed, HistoryDiverged, MongodError, the archive's
    errors, and what `check` raises. After any error the files are worth nothing.
    """
    return _Replay(files, base, limit, archive, progress, check).run(parameters or {})


class _Replay:
    def __init__(
        self,
        files: ScratchFiles,
        base: ReplayBase,
        limit: OplogTimestamp,
        archive: EntrySource,
        progress: ProgressReporter,
        check: Callable[[], None],
    ) -> None:
        self._files = files
        self._base = base
        self._limit = limit
        self._archive = archive
        self._progress = progress
        self._check = check
        self._inserted = 0
        self._applying = 0

    def run(self, parameters: dict[str, ParameterValue]) -> Replayed:
        started = time.monotonic()
        with running(self._files, "open", check=self._check) as client, translated_errors("replaying"):
            plan = self._plan(client)
            within = _count_entries(client, after=self._base.stable, through=plan.target.timestamp)
            if plan.truncates:
                _cut_oplog(client, plan.target.timestamp)
            reached = self._begin_insert(client, plan)
        self._insert_rest(reached, plan)
        expected = within + self._inserted
        self._apply(plan, expected, parameters)
        reach("replay.applied")
        with running(self._files, "settle", check=self._check) as client, translated_errors("settling"):
            settled = settle(client)
        return Replayed(
            restored=plan.target,
            entries_applied=expected,
            entries_inserted=self._inserted,
            seconds=time.monotonic() - started,
            settled=settled,
        )

    def _plan(self, client: Client) -> ReplayPlan:
        newest = _newest_entry(client)
        opened_at = find_recovery_timestamp(self._files.log_lines("open"))
        check_base(self._base, opened_at=opened_at, newest=newest)
        if self._limit <= self._base.applied:
            newest_within = _newest_entry(client, through=self._limit)
            return plan_within(self._base, newest=newest, newest_within=newest_within)
        check_truncate_point(_truncate_point(client))
        return plan_beyond(
            self._base,
            newest=newest,
            archived=self._archive.find_optime(self._base.applied),
            newest_archived=self._archive.newest_at_or_before(self._limit),
        )

    # --- inserting --------------------------------------------------------------------------------------------------

    def _begin_insert(self, client: Client, plan: ReplayPlan) -> OplogTimestamp:
        """Put the archive's entries beyond T_a into the oplog of the files; how far that came."""
        if not plan.inserts:
            return plan.target.timestamp
        self._progress.phase("insert oplog", unit="entries")
        return self._insert_from(client, self._base.applied, plan.target.timestamp, takes_large=False)

    def _insert_rest(self, position: OplogTimestamp, plan: ReplayPlan) -> None:
        """Where an entry was too large: the rest, with a mongod that takes such ones."""
        if position == plan.target.timestamp:
            return
        with running(self._files, "insert", check=self._check, parameters=LARGE_ENTRY_PARAMETERS) as client:
            self._insert_from(client, position, plan.target.timestamp, takes_large=True)

    def _insert_from(
        self, client: Client, position: OplogTimestamp, through: OplogTimestamp, *, takes_large: bool
    ) -> OplogTimestamp:
        """Where it came to: `through`, or the entry before one that is too large for this mongod."""
        with translated_errors("inserting the oplog"):
            for batch in self._archive.iter_batches(after=position, through=through):
                for documents in _iter_inserts(batch.raw):
                    self._check()
                    if len(documents[0].raw) > ENTRY_BYTES_MAX and not takes_large:
                        return position
                    _insert(client, documents)
                    self._inserted += len(documents)
                    self._progress.advance(len(documents))
                    position = _timestamp_of(documents[-1])
        if position != through:
            raise ReplayFailed(f"the archive's entries end at {position}, before {through}")
        return position

    # --- applying ---------------------------------------------------------------------------------------------------

    def _apply(self, plan: ReplayPlan, expected: int, parameters: dict[str, ParameterValue]) -> None:
        self._progress.phase("replay", total=expected, unit="entries")
        with running(
            self._files,
            "replay",
            check=self._check,
            parameters={**REPLAY_PARAMETERS, **parameters},
            on_look=self._look,
        ) as client:
            with translated_errors("reading the replayed oplog"):
                newest = _newest_entry(client)
            applied = find_applied_count(self._files.log_lines("replay"))
            check_replayed(plan, expected=expected, applied=applied, newest=newest)
            self._progress.advance(expected - self._applying)

    def _look(self) -> None:
        applying = find_applying_count(self._files.log_tail("replay"))
        if applying > self._applying:
            self._progress.advance(applying - self._applying)
            self._applying = applying


# --- the oplog in the files -----------------------------------------------------------------------------------------


def _iter_newest_first(client: Client) -> Iterator[OpTime]:
    """The entries of the oplog, backwards: the only direction in which it may ever be read."""
    found = client.local["oplog.rs"].find({}, {"_id": 0, "ts": 1, "t": 1}, sort=[("$natural", DESCENDING)])
    with found:
        for entry in found:
            yield OpTime.from_entry(entry)


def _newest_entry(client: Client, *, through: OplogTimestamp | None = None) -> OpTime:
    """The newest entry that is not beyond `through`. Raises ReplayFailed where there is none."""
    for optime in _iter_newest_first(client):
        if through is None or optime.timestamp <= through:
            return optime
    raise ReplayFailed("the oplog in the snapshot's files has no entry that old")


def _count_entries(client: Client, *, after: OplogTimestamp, through: OplogTimestamp) -> int:
    """How many entries lie beyond `after`, up to `through`."""
    count = 0
    for optime in _iter_newest_first(client):
        if optime.timestamp <= after:
            break
        count += optime.timestamp <= through
    return count


_TRUNCATE_POINT = "oplogTruncateAfterPoint"


def _truncate_point(client: Client) -> OplogTimestamp | None:
    found = client.local[f"replset.{_TRUNCATE_POINT}"].find_one({"_id": _TRUNCATE_POINT})
    point = None if found is None else found.get(_TRUNCATE_POINT)
    return OplogTimestamp.from_bson(point) if isinstance(point, Timestamp) else None


def _cut_oplog(client: Client, last_inclusive: OplogTimestamp) -> None:
    """Have the server cut its oplog at its next start. The entry named stays: naming the next one keeps one too many."""
    collection = client.local.get_collection(
        f"replset.{_TRUNCATE_POINT}", write_concern=WriteConcern(w=1, j=True)
    )
    collection.replace_one(
        {"_id": _TRUNCATE_POINT},
        {"_id": _TRUNCATE_POINT, _TRUNCATE_POINT: last_inclusive.to_bson()},
        upsert=True,
    )


# --- raw entries ----------------------------------------------------------------------------------------------------

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


def _iter_inserts(raw: bytes) -> Iterator[list[RawBSONDocument]]:
    """The documents of a batch, in lists that one insert takes; one that is too large for that is alone."""
    documents: list[RawBSONDocument] = []
    size = offset = 0
    while offset < len(raw):
        (length,) = _LENGTH.unpack_from(raw, offset)
        is_large = length > ENTRY_BYTES_MAX
        if documents and (
            is_large or size + length > INSERT_BYTES_MAX or len(documents) == INSERT_DOCUMENTS_MAX
        ):
            yield documents
            documents, size = [], 0
        documents.append(RawBSONDocument(raw[offset : offset + length], _RAW))
        size += length + _ITEM_BYTES
        offset += length
        if is_large:
            yield documents
            documents, size = [], 0
    if documents:
        yield documents


def _insert(client: Client, documents: list[RawBSONDocument]) -> None:
    """Raises ReplayFailed where the server takes one of them not."""
    if len(documents[0].raw) > ENTRY_BYTES_MAX:
        client.local.command({"godinsert": "oplog.rs", "obj": documents[0]})
        return
    answer = client.local.command({"insert": "oplog.rs", "documents": documents, "ordered": True})
    refused = answer.get("writeErrors")
    if refused or answer.get("n") != len(documents):
        why = refused[0].get("errmsg", "") if refused else f"{answer.get('n')} of {len(documents)} were taken"
        raise ReplayFailed(f"the oplog in the files does not take the archive's entries: {why}")


def _timestamp_of(entry: RawBSONDocument) -> OplogTimestamp:
    return OplogTimestamp.from_bson(entry["ts"])
