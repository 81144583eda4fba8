"""When something that logs somebody in ends, as a table."""

from datetime import UTC, datetime, timedelta

import pytest

from ebbtide.domain.expiry import ExpiryStage, find_stage, is_over

MADE = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("life", "age", "stage"),
    [
        (timedelta(days=8), timedelta(0), None),
        (timedelta(days=8), timedelta(days=6) - SECOND, None),
        (timedelta(days=8), timedelta(days=6), ExpiryStage.SOON),
        (timedelta(days=8), timedelta(days=8) - SECOND, ExpiryStage.SOON),
        (timedelta(days=8), timedelta(days=8), ExpiryStage.ENDED),
        (timedelta(days=365), timedelta(days=351) - SECOND, None),
        (timedelta(days=365), timedelta(days=351), ExpiryStage.SOON),
        (timedelta(days=365), timedelta(days=500), ExpiryStage.ENDED),
    ],
)
def test_a_warning_comes_in_the_last_quarter_and_two_weeks_before_at_most(
    life: timedelta, age: timedelta, stage: ExpiryStage | None
) -> None:
    found = find_stage(created=MADE, expires=MADE + life, now=MADE + age)
    assert found is stage
    assert is_over(MADE + life, now=MADE + age) is (stage is ExpiryStage.ENDED)


def test_what_has_no_end_never_ends() -> None:
    far = MADE + timedelta(days=100_000)
    assert find_stage(created=MADE, expires=None, now=far) is None
    assert not is_over(None, now=far)
