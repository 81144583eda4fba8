"""What follows a failure of a job."""

from datetime import UTC, datetime, timedelta

import pytest

from ebbtide.domain.job import GiveUp, JobKind, TryAgain, decide_retry, failing_since, job_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def decide(
    *, retryable: bool = True, failures: int = 0, first_failed: datetime | None = NOW
) -> TryAgain | GiveUp:
    return decide_retry(
        retryable=retryable,
        error="the disk is full",
        failures=failures,
        first_failed=first_failed,
        now=NOW,
        retry_for=HOUR,
    )


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 60), (7, 60), (1000, 60)],
)
def test_delays_double_up_to_a_minute(failures: int, seconds: int) -> None:
    assert TryAgain(NOW + timedelta(seconds=seconds)) == decide(failures=failures)


def test_a_cause_that_would_meet_the_job_again_ends_it_at_once() -> None:
    assert GiveUp("the disk is full") == decide(retryable=False)


@pytest.mark.parametrize(
    ("first_failed", "is_given_up"),
    [(None, False), (NOW, False), (NOW - HOUR, False), (NOW - HOUR - timedelta(milliseconds=1), True)],
)
def test_a_cause_that_lasts_too_long_ends_it(first_failed: datetime | None, is_given_up: bool) -> None:
    found = decide(failures=20, first_failed=first_failed)
    assert is_given_up is isinstance(found, GiveUp)


def test_giving_up_says_how_long_it_was_tried() -> None:
    found = decide(first_failed=NOW - 2 * HOUR)
    assert GiveUp("the disk is full (tried again for 60 minutes)") == found


@pytest.mark.parametrize(
    ("first_failed", "worked", "expected"),
    [
        (None, HOUR, NOW),
        (NOW - HOUR, timedelta(0), NOW - HOUR),
        (NOW - 2 * HOUR, HOUR, NOW - HOUR),
        (NOW - HOUR, HOUR, NOW),
        (NOW - HOUR, 2 * HOUR, NOW),  # the clock was set back
    ],
)
def test_time_in_which_an_attempt_worked_is_no_time_of_failure(
    first_failed: datetime | None, worked: timedelta, expected: datetime
) -> None:
    assert expected == failing_since(first_failed, worked=worked, now=NOW)


def test_a_subject_has_one_job_of_a_kind() -> None:
    assert job_id(JobKind.SNAPSHOT, "5f") == "SNAPSHOT:5f"
    assert job_id(JobKind.SNAPSHOT, "5f") != job_id(JobKind.RESTORE, "5f")
