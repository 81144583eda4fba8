"""Accounting of a download link: what counts as a download, and who may begin one.

A download is counted over bytes, not requests: the number of completed downloads is the least number of times
that any byte of the archive was sent. So a resumed transfer, or one in parallel ranges, counts once, and asking
for the headers alone never counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ebbtide.domain.ids import RestoreJobId
from ebbtide.domain.restore_job import MAX_DOWNLOADS_UNLIMITED, DeliveryStatus

TRANSFER_STALE_AFTER = timedelta(seconds=30)
"""A transfer that has not told its progress for so long has died with its api process."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One GET of a download link: bytes `first` … `end`−1 were asked for, `sent_bytes` of them were sent."""

    id: str
    job_id: RestoreJobId
    first: int
    end: int
    sent_bytes: int
    started: datetime
    updated: datetime
    ended: datetime | None = None
    address: str = ""

    @property
    def is_complete(self) -> bool:
        return self.sent_bytes >= self.end - self.first


def is_active(transfer: Transfer, *, now: datetime) -> bool:
    """Whether the transfer is still being sent."""
    return transfer.ended is None and now - transfer.updated < TRANSFER_STALE_AFTER


def completed_downloads(length_bytes: int, sent: Iterable[tuple[int, int]]) -> int:
    """The least number of times any byte of 0 … `length_bytes`−1 lies in one of the half-open intervals `sent`."""
    changes: dict[int, int] = {}
    for first, end in sent:
        first, end = max(0, first), min(length_bytes, end)
        if first < end:
            changes[first] = changes.get(first, 0) + 1
            changes[end] = changes.get(end, 0) - 1
    if length_bytes <= 0 or 0 not in changes:
        return 0
    depth, least = 0, None
    for place in sorted(changes):
        if place >= length_bytes:
            break
        depth += changes[place]
        least = depth if least is None else min(least, depth)
    return least or 0


IN_FLIGHT_BYTES = 1024 * 1024
"""Of a broken transfer so much counts as not sent: it may have died in buffers, and the downloader gets the doubt."""


def sent_intervals(transfers: Iterable[Transfer]) -> list[tuple[int, int]]:
    """The half-open intervals that `transfers` have sent.

    Where a later one goes on within what was in flight when an earlier one broke off, its client has what is before:
    whoever resumes at the very byte leaves no gap.
    """
    transfers = tuple(transfers)
    found = []
    for t in transfers:
        end = t.first + t.sent_bytes
        if t.ended is not None and not t.is_complete:
            resumed = _first_resumption(t, transfers)
            end = resumed if resumed is not None and resumed - end <= IN_FLIGHT_BYTES else end
        if end > t.first:
            found.append((t.first, end))
    return found


def sent_of_lost(lost: Transfer, transfers: Iterable[Transfer]) -> int:
    """How much a transfer sent whose api process died: what it last told, or up to where its client went on."""
    resumed = _first_resumption(lost, transfers)
    return lost.sent_bytes if resumed is None else resumed - lost.first


def _first_resumption(broken: Transfer, transfers: Iterable[Transfer]) -> int | None:
    """The lowest byte within the unsent rest of a broken transfer at which a later one began."""
    sent_to = broken.first + broken.sent_bytes
    begun = [t.first for t in transfers if t.started > broken.started and sent_to < t.first < broken.end]
    return min(begun, default=None)


@dataclass(frozen=True)
class Allowed:
    """The transfer may begin."""


@dataclass(frozen=True)
class Gone:
    """The link is dead: 410, with the reason as a sentence."""

    reason: str


@dataclass(frozen=True)
class TooMany:
    """Too many transfers at once: 429."""

    transfers_max: int


def decide_transfer(
    *,
    delivery_status: DeliveryStatus,
    expires: datetime,
    max_downloads: int,
    completed: int,
    transfers: Iterable[Transfer],
    now: datetime,
    is_resumption: bool,
    transfers_max: int,
    resume_for: timedelta,
) -> Allowed | Gone | TooMany:
    """Whether a GET may begin.

    `is_resumption`: the request asks for a range that does not begin at byte 0. After `expires` only such a request
    may begin, within `resume_for`, and only where a transfer begun before `expires` has broken off.
    """
    if delivery_status not in (DeliveryStatus.READY, DeliveryStatus.EXPIRED):
        return Gone(_GONE.get(delivery_status, "This download link is not usable."))
    if max_downloads != MAX_DOWNLOADS_UNLIMITED and completed >= max_downloads:
        return Gone(_GONE[DeliveryStatus.MAX_DOWNLOADS_EXCEEDED])
    if delivery_status is DeliveryStatus.EXPIRED and now < expires:
        # Not the time has passed: the source snapshot is gone, and with it what could be resumed.
        return Gone(_GONE[DeliveryStatus.EXPIRED])
    transfers = tuple(transfers)
    if now >= expires:
        begun_in_time = [t for t in transfers if t.started < expires and not t.is_complete]
        if not (is_resumption and begun_in_time and now < expires + resume_for):
            return Gone(_GONE[DeliveryStatus.EXPIRED])
        if all(is_active(t, now=now) for t in begun_in_time):
            # Either it still runs, or its api process died a moment ago: in a while it is known which.
            return TooMany(transfers_max)
    if sum(is_active(t, now=now) for t in transfers) >= transfers_max:
        return TooMany(transfers_max)
    return Allowed()


_GONE = {
    DeliveryStatus.EXPIRED: "This download link has expired; create a new restore job.",
    DeliveryStatus.MAX_DOWNLOADS_EXCEEDED: "All downloads of this link are used up; create a new restore job.",
    DeliveryStatus.FAILED: "The stored data of this restore job is damaged; create a restore job of another snapshot.",
    DeliveryStatus.INTERRUPTED: "This restore job was cancelled; create a new one.",
}
