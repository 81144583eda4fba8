"""The latest cluster time at which a sharded cluster can be cut: no transaction and no operation is cut through. Pure.

Cutting at T keeps, of every part, the entries with ts ≤ T. What must not happen: a transaction over several shards whose
commit entry lies at or before T on one and beyond T, or nowhere, on another. Its commit entries differ from shard to
shard although it has one commit timestamp, so the entries are compared and not that. Prepared and undecided everywhere at
T is no harm: such a transaction is absent from every part. Nor may T lie inside a sharded DDL operation or a resharding.

Invariants
  * a history says all that happened with `after` < ts ≤ `through`, and what was open at `after`: who makes one answers
    for that. What ended at or before `after` is not in it, and is never needed at a T that all histories reach
  * what is not known counts against a moment: what is unfinished at the end of a history is open
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from bson import Timestamp

from ebbtide.domain.optime import OplogTimestamp

Document = dict[str, Any]

_BEGINNING = OplogTimestamp(0, 0)


@dataclass(frozen=True, order=True)
class TransactionId:
    """The whole session, as text, and the transaction's number in it: the same on every shard that takes part."""

    session: str
    number: int


@dataclass(frozen=True, kw_only=True)
class PartTransaction:
    """What one part says of a transaction that it prepared and did not abort.

    `prepared` is None where that was before anything known, `committed` where no commit is known.
    """

    id: TransactionId
    prepared: OplogTimestamp | None
    committed: OplogTimestamp | None = None


@dataclass(frozen=True, kw_only=True)
class Participants:
    """What a coordinator wrote down: which shards take part. `recorded` is None where that was before anything known.

    It is written before any of them prepares, and removed, at `removed`, when all of them know the decision.
    """

    id: TransactionId
    shards: tuple[str, ...]
    recorded: OplogTimestamp | None
    removed: OplogTimestamp | None = None


@dataclass(frozen=True, kw_only=True)
class ClusterOperation:
    """A sharded DDL operation or a resharding, from the document of its coordinator to that document's removal.

    `began` is None where that was before anything known, `ended` where no end is known.
    """

    name: str
    began: OplogTimestamp | None
    ended: OplogTimestamp | None = None


@dataclass(frozen=True, kw_only=True)
class OpenWork:
    """What is unfinished on one part at some moment: small enough to be kept beside an archive that was trimmed there."""

    transactions: tuple[PartTransaction, ...] = ()
    participants: tuple[Participants, ...] = ()
    operations: tuple[ClusterOperation, ...] = ()

    def to_document(self) -> Document:
        """As BSON values; `from_document` reads it."""
        return {
            "transactions": [
                {**_id_document(found.id), "prepared": _to_bson(found.prepared)}
                for found in self.transactions
            ],
            "participants": [
                {
                    **_id_document(found.id),
                    "shards": list(found.shards),
                    "recorded": _to_bson(found.recorded),
                }
                for found in self.participants
            ],
            "operations": [{"name": found.name, "began": _to_bson(found.began)} for found in self.operations],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "OpenWork":
        """Raises ValueError for a document of another shape."""
        try:
            return cls(
                transactions=tuple(
                    PartTransaction(id=_id_from(found), prepared=_from_bson(found["prepared"]))
                    for found in document["transactions"]
                ),
                participants=tuple(
                    Participants(
                        id=_id_from(found),
                        shards=tuple(str(shard) for shard in found["shards"]),
                        recorded=_from_bson(found["recorded"]),
                    )
                    for found in document["participants"]
                ),
                operations=tuple(
                    ClusterOperation(name=str(found["name"]), began=_from_bson(found["began"]))
                    for found in document["operations"]
                ),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"is no record of open work: {error!r}") from None


@dataclass(frozen=True, kw_only=True)
class PartHistory:
    """What the archive of one part says, with `after` < ts ≤ `through`, and of what was open at `after`.

    `part` is the shard's id, as coordinators name it; the config server's name is of no matter.
    """

    part: str
    after: OplogTimestamp
    through: OplogTimestamp
    transactions: tuple[PartTransaction, ...] = ()
    participants: tuple[Participants, ...] = ()
    operations: tuple[ClusterOperation, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Straddle:
    """No moment T with `first` ≤ T < `ended` is a consistent point; without `ended` none from `first` on."""

    cause: str
    first: OplogTimestamp
    ended: OplogTimestamp | None

    def includes(self, timestamp: OplogTimestamp) -> bool:
        return self.first <= timestamp and (self.ended is None or timestamp < self.ended)


@dataclass(frozen=True, kw_only=True)
class ConsistentPoint:
    """Every part may be cut at `timestamp`; it need not be the timestamp of an entry of any of them."""

    timestamp: OplogTimestamp


@dataclass(frozen=True, kw_only=True)
class NoConsistentPoint:
    """There is none in the moments that all parts know of; `reason` is one clause for people."""

    reason: str


def latest_consistent_point(
    parts: Sequence[PartHistory], *, at_most: OplogTimestamp
) -> ConsistentPoint | NoConsistentPoint:
    """The latest moment up to `at_most` that all histories reach, and that nothing straddles.

    Raises ValueError without parts, or where two have the same name.
    """
    names = [part.part for part in parts]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"a consistent point needs parts, each with its own name, not {names}")
    earliest = max(part.after for part in parts)
    latest = min(at_most, *(part.through for part in parts))
    if latest < earliest:
        return NoConsistentPoint(
            reason=f"the archives of all parts begin at {earliest}, and cover up to {latest}"
        )
    return _latest_outside(find_straddles(parts), earliest=earliest, latest=latest)


def _latest_outside(
    straddles: Sequence[Straddle], *, earliest: OplogTimestamp, latest: OplogTimestamp
) -> ConsistentPoint | NoConsistentPoint:
    # Those that end last come first: whoever ended at or before the moment reached, so did all that follow.
    unended = [found for found in straddles if found.ended is None]
    ended = sorted(
        ((found.ended, found) for found in straddles if found.ended is not None),
        key=lambda pair: pair[0],
        reverse=True,
    )
    moment = latest
    for found in chain(unended, (found for _, found in ended)):
        if found.includes(moment):
            if found.first <= earliest:
                return NoConsistentPoint(
                    reason=f"{found.cause} is under way in all moments from {earliest} to {moment}"
                )
            moment = _just_before(found.first)
    return ConsistentPoint(timestamp=moment)


def _just_before(timestamp: OplogTimestamp) -> OplogTimestamp:
    return OplogTimestamp.from_packed(timestamp.packed - 1)


def find_straddles(parts: Sequence[PartHistory]) -> list[Straddle]:
    """Everything that makes moments inconsistent. At moments before the latest `after` of the parts it says nothing."""
    operations = [
        Straddle(cause=found.name, first=found.began or _BEGINNING, ended=found.ended)
        for part in parts
        for found in part.operations
    ]
    return operations + _transaction_straddles(parts)


def _transaction_straddles(parts: Sequence[PartHistory]) -> list[Straddle]:
    recorded = {found.id: found for part in parts for found in part.participants}
    shown: dict[TransactionId, dict[str, PartTransaction]] = {}
    for part in parts:
        for found in part.transactions:
            shown.setdefault(found.id, {})[part.part] = found
    begins = {part.part: part.after for part in parts}
    straddles = (_straddle(recorded.get(id_), by_part, begins) for id_, by_part in shown.items())
    return [found for found in straddles if found is not None]


def _straddle(
    recorded: Participants | None,
    shown: Mapping[str, PartTransaction],
    begins: Mapping[str, OplogTimestamp],
) -> Straddle | None:
    """Where one transaction, of which some parts show something, is committed on some shards and not on others."""
    commits = [found.committed for found in shown.values() if found.committed is not None]
    missing = len(commits) < len(shown)
    first = min(commits, default=None)
    if _may_have_committed_unseen(recorded, shown, begins):
        first = _BEGINNING
    if first is None:
        return None
    ended = None if missing else max(commits)
    if ended is not None and recorded is not None and _lacks(recorded, shown, begins):
        # Its removal says that every shard, of ours or not, had the decision by then.
        ended = recorded.removed
    if ended is not None and ended <= first:
        return None
    found = next(iter(shown.values())).id
    return Straddle(cause=f"transaction {found.number} of session {found.session}", first=first, ended=ended)


def _may_have_committed_unseen(
    recorded: Participants | None,
    shown: Mapping[str, PartTransaction],
    begins: Mapping[str, OplogTimestamp],
) -> bool:
    """Whether a part that shows nothing of it may have committed it before its history begins.

    A commit lies beyond every prepare. So it was seen if the history begins before any prepare that is known.
    """
    prepared = max((found.prepared or _BEGINNING for found in shown.values()), default=_BEGINNING)
    silent = begins.keys() - shown.keys()
    if recorded is not None:
        silent &= set(recorded.shards)
        prepared = max(prepared, recorded.recorded or _BEGINNING)
    return any(prepared < begins[name] for name in silent)


def _lacks(
    recorded: Participants, shown: Mapping[str, PartTransaction], begins: Mapping[str, OplogTimestamp]
) -> bool:
    """Whether a shard that takes part should show something, and does not; or is none of the parts at all.

    It prepared after the coordinator wrote its name down, so a history that begins before that must show it.
    """
    silent = set(recorded.shards) - shown.keys()
    return any(
        name not in begins or (recorded.recorded is not None and recorded.recorded >= begins[name])
        for name in silent
    )


def _id_document(found: TransactionId) -> Document:
    return {"session": found.session, "number": found.number}


def _id_from(document: Mapping[str, Any]) -> TransactionId:
    return TransactionId(str(document["session"]), int(document["number"]))


def _to_bson(value: OplogTimestamp | None) -> Timestamp | None:
    return None if value is None else value.to_bson()


def _from_bson(value: Timestamp | None) -> OplogTimestamp | None:
    if value is not None and not isinstance(value, Timestamp):
        raise ValueError(f"is no record of open work: {value!r} is no timestamp")
    return None if value is None else OplogTimestamp.from_bson(value)
