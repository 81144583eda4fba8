"""Open work beside an archive: which of it was open where the archive begins, and which record to read on from. Pure.

A record says what was open on one part right after the entry at a moment. Every chain of an archive needs one at its
beginning; more of them, further on, spare whoever reads a late window the way from there.
"""

from collections.abc import Iterable

from ebbtide.domain.consistent_point import OpenWork, PartHistory
from ebbtide.domain.optime import OplogTimestamp


def opening_work(found: OpenWork, shown: PartHistory) -> OpenWork:
    """What was open at `shown.after`: of all that was `found` later, what the entries since do not show to have begun.

    `shown` was read with nothing open, and reaches at least to the moment at which `found` was read. What was open and
    is finished by then need not be found: the entries show its end.
    """
    prepared = {item.id for item in shown.transactions if item.prepared is not None}
    recorded = {item.id for item in shown.participants if item.recorded is not None}
    begun = {item.name for item in shown.operations if item.began is not None}
    return OpenWork(
        transactions=tuple(item for item in found.transactions if item.id not in prepared),
        participants=tuple(item for item in found.participants if item.id not in recorded),
        operations=tuple(item for item in found.operations if item.name not in begun),
    )


def newest_record(
    records: Iterable[OplogTimestamp], *, chain_starts_after: OplogTimestamp, at_most: OplogTimestamp
) -> OplogTimestamp | None:
    """Where to begin so that everything up to `at_most` is known; None where the chain has no record so early."""
    return max((at for at in records if chain_starts_after <= at <= at_most), default=None)
