"""The schedule: slots, what is due, what was missed."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.schedule import (
    INTERVAL_HOURS,
    Due,
    NotDue,
    SnapshotSchedule,
    decide_snapshot,
    default_schedule,
    newest_slot,
    parse_offset,
)
from ebbtide.errors import InvalidInput

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-{text}:00+00:00")


def schedule(
    *,
    every: int = 6,
    reference: str = "00:00",
    offset: str = "+0000",
    counts_from: datetime = LONG_AGO,
) -> SnapshotSchedule:
    hour, _, minute = reference.partition(":")
    return SnapshotSchedule(
        id=ClusterId("c" * 24),
        group_id=GroupId("a" * 24),
        counts_from=counts_from,
        reference_hour=int(hour),
        reference_minute=int(minute),
        reference_offset=offset,
        interval_hours=every,
    )


@pytest.mark.parametrize(
    ("every", "reference", "offset", "now", "slot"),
    [
        (6, "00:00", "+0000", "04T00:00", "04T00:00"),
        (6, "00:00", "+0000", "04T05:59", "04T00:00"),
        (6, "00:00", "+0000", "04T06:00", "04T06:00"),
        (6, "13:30", "+0000", "04T00:00", "03T19:30"),
        (6, "13:30", "+0000", "04T01:30", "04T01:30"),
        (6, "13:30", "+0000", "04T23:59", "04T19:30"),
        (8, "22:00", "+0000", "04T05:59", "03T22:00"),
        (8, "22:00", "+0000", "04T06:00", "04T06:00"),
        (12, "03:15", "+0000", "04T03:14", "03T15:15"),
        (24, "03:15", "+0000", "04T03:14", "03T03:15"),
        (24, "03:15", "+0000", "04T03:15", "04T03:15"),
        # 03:15 in India is 21:45 in UTC, the day before
        (24, "03:15", "+0530", "04T21:44", "03T21:45"),
        (24, "03:15", "+0530", "04T21:45", "04T21:45"),
        (24, "03:15", "-08:00", "04T11:15", "04T11:15"),
        (12, "00:00", "Z", "04T11:59", "04T00:00"),
    ],
)
def test_the_newest_slot(every: int, reference: str, offset: str, now: str, slot: str) -> None:
    assert at(slot) == newest_slot(schedule(every=every, reference=reference, offset=offset), now=at(now))


@pytest.mark.parametrize(
    ("now", "last", "counts_from", "expected"),
    [
        # nothing yet, and the newest slot lies before the schedule began
        ("04T05:00", None, "04T01:00", NotDue(at("04T06:00"))),
        ("04T06:00", None, "04T01:00", Due(at("04T06:00"), timedelta(0))),
        # made, and made up
        ("04T06:10", "04T06:00", "01T00:00", NotDue(at("04T12:00"))),
        ("04T11:59", "04T00:00", "01T00:00", Due(at("04T06:00"), timedelta(hours=5, minutes=59))),
        # three days away: one snapshot, for the newest slot
        ("04T13:00", "01T06:00", "01T00:00", Due(at("04T12:00"), timedelta(hours=1))),
        ("04T13:00", "04T12:00", "01T00:00", NotDue(at("04T18:00"))),
        # the schedule was changed after the last slot: what was missed before is not made up
        ("04T13:00", "03T06:00", "04T12:30", NotDue(at("04T18:00"))),
        # a clock that went back asks for nothing
        ("04T05:00", "04T12:00", "01T00:00", NotDue(at("04T06:00"))),
    ],
)
def test_what_is_due(now: str, last: str | None, counts_from: str, expected: Due | NotDue) -> None:
    decided = decide_snapshot(
        schedule(counts_from=at(counts_from)), now=at(now), last_slot=None if last is None else at(last)
    )
    assert expected == decided


@given(
    every=st.sampled_from(INTERVAL_HOURS),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    minutes_later=st.integers(0, 60 * 24 * 400),
)
def test_the_newest_slot_is_never_ahead_and_less_than_an_interval_ago(
    every: int, hour: int, minute: int, minutes_later: int
) -> None:
    now = LONG_AGO + timedelta(minutes=minutes_later)
    slot = newest_slot(schedule(every=every, reference=f"{hour}:{minute}"), now=now)
    assert timedelta(0) <= now - slot < timedelta(hours=every)
    # The same moments of every day: intervals divide it.
    assert (slot.hour - hour) % every == 0
    assert slot.minute == minute


def test_a_cluster_without_a_schedule_begins_one_interval_after_its_registration() -> None:
    registered = at("04T10:20") + timedelta(seconds=30)
    found = default_schedule(
        cluster_id=ClusterId("c" * 24), group_id=GroupId("a" * 24), registered=registered
    )
    assert NotDue(at("04T16:20")) == decide_snapshot(found, now=at("04T16:19"), last_slot=None)
    assert Due(at("04T16:20"), timedelta(0)) == decide_snapshot(found, now=at("04T16:20"), last_slot=None)


def test_a_snapshot_taken_every_interval_for_a_year_misses_nothing() -> None:
    made: list[datetime] = []
    found = schedule(every=8, reference="05:00", counts_from=LONG_AGO)
    for minutes in range(0, 60 * 24 * 365, 7):
        now = LONG_AGO + timedelta(minutes=minutes)
        match decide_snapshot(found, now=now, last_slot=made[-1] if made else None):
            case Due(slot=slot):
                made.append(slot)
    assert len(made) == 365 * 3
    assert {timedelta(hours=8)} == {b - a for a, b in pairwise(made)}


@pytest.mark.parametrize("text", ["", "0000", "+2500", "+0060", "UTC", "+1500", "+00000", "z"])
def test_an_offset_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_offset(text)
