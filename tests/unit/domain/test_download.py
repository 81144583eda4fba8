"""Accounting of a download link: what counts, and who may begin."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.download import (
    IN_FLIGHT_BYTES,
    TRANSFER_STALE_AFTER,
    Allowed,
    Gone,
    TooMany,
    Transfer,
    completed_downloads,
    decide_transfer,
    is_active,
    sent_intervals,
    sent_of_lost,
)
from ebbtide.domain.ids import RestoreJobId
from ebbtide.domain.restore_job import MAX_DOWNLOADS_UNLIMITED, DeliveryStatus

EXPIRES = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
JOB = RestoreJobId("5f0000000000000000000001")


@pytest.mark.parametrize(
    ("length", "sent", "expected"),
    [
        (10, [], 0),
        (10, [(0, 10)], 1),
        (10, [(0, 9)], 0),
        (10, [(1, 10)], 0),
        (10, [(0, 5), (5, 10)], 1),  # a resumed one, or two parallel ranges
        (10, [(5, 10), (0, 5)], 1),
        (10, [(0, 5), (4, 10)], 1),  # resumed a little earlier
        (10, [(0, 4), (5, 10)], 0),  # one byte is missing
        (10, [(0, 10), (0, 10)], 2),
        (10, [(0, 10), (0, 9)], 1),
        (10, [(0, 10), (0, 5), (5, 10), (3, 7)], 2),
        (10, [(0, 20)], 1),
        (10, [(-5, 20)], 1),
        (10, [(3, 3), (10, 20), (7, 2)], 0),
        (1, [(0, 1)] * 5, 5),
        (0, [(0, 0)], 0),
    ],
)
def test_a_download_is_complete_when_every_byte_was_sent(
    length: int, sent: list[tuple[int, int]], expected: int
) -> None:
    assert expected == completed_downloads(length, sent)


@given(
    length=st.integers(0, 30),
    sent=st.lists(st.tuples(st.integers(-3, 35), st.integers(-3, 35)), max_size=12),
)
def test_counting_equals_counting_byte_by_byte(length: int, sent: list[tuple[int, int]]) -> None:
    times = [sum(first <= byte < end for first, end in sent) for byte in range(length)]
    assert min(times, default=0) == completed_downloads(length, sent)


def transfer(
    *,
    started: datetime = EXPIRES - HOUR,
    updated: datetime | None = None,
    ended: datetime | None = None,
    sent_bytes: int = 50,
) -> Transfer:
    return Transfer(
        id="t",
        job_id=JOB,
        first=0,
        end=100,
        sent_bytes=sent_bytes,
        started=started,
        updated=updated or started,
        ended=ended,
    )


def test_only_what_was_sent_counts() -> None:
    assert sent_intervals([transfer(), transfer(sent_bytes=0)]) == [(0, 50)]


def part(first: int, end: int, sent_bytes: int, *, begun: int, is_ended: bool = True) -> Transfer:
    started = EXPIRES - HOUR + begun * SECOND
    return replace(
        transfer(started=started, ended=started if is_ended else None, sent_bytes=sent_bytes),
        first=first,
        end=end,
    )


MIB = IN_FLIGHT_BYTES


@pytest.mark.parametrize(
    ("transfers", "completed"),
    [
        # A client that resumes at the very byte has what was in flight before it.
        ([part(0, 9 * MIB, 3 * MIB, begun=0), part(4 * MIB, 9 * MIB, 5 * MIB, begun=1)], 1),
        # Further on than what can have been in flight: the gap was never sent.
        ([part(0, 9 * MIB, 3 * MIB, begun=0), part(6 * MIB, 9 * MIB, 3 * MIB, begun=1)], 0),
        # The other one came first: nobody resumed.
        ([part(0, 9 * MIB, 3 * MIB, begun=1), part(4 * MIB, 9 * MIB, 5 * MIB, begun=0)], 0),
        # Still running: what it has sent is what it has told.
        ([part(0, 9 * MIB, 3 * MIB, begun=0, is_ended=False), part(4 * MIB, 9 * MIB, 5 * MIB, begun=1)], 0),
    ],
)
def test_a_resumed_download_counts_without_a_gap(transfers: list[Transfer], completed: int) -> None:
    assert completed == completed_downloads(9 * MIB, sent_intervals(transfers))


@pytest.mark.parametrize(
    ("others", "sent_bytes"),
    [
        ([], 3 * MIB),
        ([part(7 * MIB, 9 * MIB, 0, begun=1)], 7 * MIB),
        ([part(8 * MIB, 9 * MIB, 0, begun=1), part(7 * MIB, 9 * MIB, 0, begun=2)], 7 * MIB),
        ([part(2 * MIB, 9 * MIB, 0, begun=1)], 3 * MIB),
        ([part(9 * MIB, 18 * MIB, 0, begun=1)], 3 * MIB),
    ],
)
def test_a_lost_transfer_sent_what_it_told_or_up_to_where_its_client_went_on(
    others: list[Transfer], sent_bytes: int
) -> None:
    lost = part(0, 9 * MIB, 3 * MIB, begun=0, is_ended=False)
    assert sent_bytes == sent_of_lost(lost, [lost, *others])


@pytest.mark.parametrize(
    ("since", "ended", "expected"),
    [
        (timedelta(0), False, True),
        (TRANSFER_STALE_AFTER - SECOND, False, True),
        (TRANSFER_STALE_AFTER, False, False),
        (timedelta(0), True, False),
    ],
)
def test_a_silent_or_ended_transfer_is_not_active(since: timedelta, ended: bool, expected: bool) -> None:
    started = EXPIRES - HOUR
    found = transfer(started=started, ended=started if ended else None)
    assert expected is is_active(found, now=started + since)


BROKEN = transfer(ended=EXPIRES - MINUTE)
COMPLETE = transfer(ended=EXPIRES - MINUTE, sent_bytes=100)
STALE = transfer(updated=EXPIRES - MINUTE)
LATE = transfer(started=EXPIRES + SECOND, ended=EXPIRES + SECOND)


def decide(**changes: Any) -> Allowed | Gone | TooMany:
    values: dict[str, Any] = {
        "delivery_status": DeliveryStatus.READY,
        "expires": EXPIRES,
        "max_downloads": 3,
        "completed": 0,
        "transfers": [],
        "now": EXPIRES - SECOND,
        "is_resumption": False,
        "transfers_max": 8,
        "resume_for": HOUR,
    }
    return decide_transfer(**(values | changes))


@pytest.mark.parametrize(
    ("now", "is_resumption", "transfers", "expected"),
    [
        (EXPIRES - SECOND, False, [], Allowed),
        (EXPIRES - SECOND, True, [], Allowed),
        (EXPIRES, False, [], Gone),
        (EXPIRES, True, [], Gone),
        (EXPIRES, False, [BROKEN], Gone),  # from its first byte on is a new download
        (EXPIRES, True, [BROKEN], Allowed),
        (EXPIRES, True, [STALE], Allowed),  # its api process died
        (EXPIRES, True, [COMPLETE], Gone),
        (EXPIRES, True, [COMPLETE, BROKEN], Allowed),
        (EXPIRES + MINUTE, True, [LATE], Gone),  # only a transfer begun in time may be resumed
        (EXPIRES + HOUR - SECOND, True, [BROKEN], Allowed),
        (EXPIRES + HOUR, True, [BROKEN], Gone),
        (
            EXPIRES + SECOND,
            True,
            [transfer(updated=EXPIRES)],
            TooMany,
        ),  # it runs, or its process just died: wait
    ],
)
@pytest.mark.parametrize("status", [DeliveryStatus.READY, DeliveryStatus.EXPIRED])
def test_after_the_expiry_only_a_broken_transfer_goes_on(
    status: DeliveryStatus, now: datetime, is_resumption: bool, transfers: list[Transfer], expected: type
) -> None:
    if status is DeliveryStatus.EXPIRED and now < EXPIRES:
        expected = Gone
    found = decide(delivery_status=status, now=now, is_resumption=is_resumption, transfers=transfers)
    assert isinstance(found, expected)


def test_a_link_that_expired_before_its_time_is_dead() -> None:
    """The source snapshot was deleted: `expires` still lies ahead."""
    for is_resumption in (False, True):
        found = decide(
            delivery_status=DeliveryStatus.EXPIRED, is_resumption=is_resumption, transfers=[BROKEN]
        )
        assert isinstance(found, Gone)


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (DeliveryStatus.NOT_STARTED, "not usable"),
        (DeliveryStatus.IN_PROGRESS, "not usable"),
        (DeliveryStatus.FAILED, "damaged"),
        (DeliveryStatus.INTERRUPTED, "cancelled"),
        (DeliveryStatus.EXPIRED, "expired"),
        (DeliveryStatus.MAX_DOWNLOADS_EXCEEDED, "used up"),
    ],
)
def test_a_dead_link_says_why(status: DeliveryStatus, word: str) -> None:
    found = decide(delivery_status=status, now=EXPIRES)
    assert isinstance(found, Gone)
    assert word in found.reason


@pytest.mark.parametrize(
    ("max_downloads", "completed", "expected"),
    [
        (1, 0, Allowed),
        (1, 1, Gone),
        (3, 2, Allowed),
        (3, 3, Gone),
        (3, 4, Gone),
        (MAX_DOWNLOADS_UNLIMITED, MAX_DOWNLOADS_UNLIMITED + 1, Allowed),
    ],
)
def test_downloads_are_used_up(max_downloads: int, completed: int, expected: type) -> None:
    assert isinstance(decide(max_downloads=max_downloads, completed=completed), expected)


@pytest.mark.parametrize(
    ("active", "others", "expected"), [(7, 5, Allowed), (8, 0, TooMany), (9, 0, TooMany)]
)
def test_eight_transfers_at_once_are_enough(active: int, others: int, expected: type) -> None:
    now = EXPIRES - SECOND
    running = [transfer(updated=now)] * active
    found = decide(now=now, transfers=[*running, *[BROKEN, STALE, COMPLETE][:others]])
    assert isinstance(found, expected)


def test_a_dead_link_is_gone_rather_than_busy() -> None:
    running = [transfer(updated=EXPIRES)] * 8
    assert isinstance(decide(now=EXPIRES, transfers=running), Gone)
