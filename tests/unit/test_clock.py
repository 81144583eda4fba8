"""Time as the catalog can hold it."""

from datetime import UTC, datetime, timedelta, timezone

from ebbtide.clock import SystemClock, to_millis


def test_now_is_aware_utc_in_whole_milliseconds() -> None:
    now = SystemClock().now()
    assert UTC is now.tzinfo
    assert now.microsecond % 1000 == 0


def test_a_moment_is_cut_and_not_rounded_and_stays_the_same_moment() -> None:
    east = timezone(timedelta(hours=2))
    moment = datetime(2026, 1, 1, 1, 0, 0, 999_999, tzinfo=east)
    assert to_millis(moment) == datetime(2025, 12, 31, 23, 0, 0, 999_000, tzinfo=UTC)


def test_the_monotonic_clock_does_not_go_back() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    clock.sleep(0.001)
    assert before < clock.monotonic()
