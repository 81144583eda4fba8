"""What the doctor says of keys and secrets that end."""

from datetime import UTC, datetime, timedelta

import pytest

from ebbtide.doctor.checks import Verdict
from ebbtide.doctor.credentials import Credential, judge_credentials

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def credential(name: str, *, days_left: int) -> Credential:
    return Credential(
        name=name,
        created=NOW - timedelta(days=300),
        expires=NOW + timedelta(days=days_left),
        fix="make another",
    )


@pytest.mark.parametrize(
    ("days_left", "found"),
    [
        ([], [("keys and secrets", Verdict.OK)]),
        ([100, 200], [("keys and secrets", Verdict.OK)]),
        ([3], [("0", Verdict.WARNING)]),
        ([100, 3, -3], [("1", Verdict.WARNING), ("2", Verdict.WARNING), ("keys and secrets", Verdict.OK)]),
    ],
)
def test_each_that_ends_soon_or_has_ended_is_named(
    days_left: list[int], found: list[tuple[str, Verdict]]
) -> None:
    findings = judge_credentials(
        [credential(str(place), days_left=days) for place, days in enumerate(days_left)], now=NOW
    )
    assert [(finding.name, finding.verdict) for finding in findings] == found
    assert all(bool(finding.fix) is (finding.verdict is not Verdict.OK) for finding in findings)
