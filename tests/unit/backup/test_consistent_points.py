"""Reading archives for a consistent point while they are trimmed."""

from collections.abc import Callable
from typing import Any

import pytest

from ebbtide.backup import consistent_points
from ebbtide.backup.consistent_points import ATTEMPTS, find_consistent_point
from ebbtide.domain.consistent_point import ConsistentPoint
from ebbtide.domain.oplog import OplogGapError
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import EbbtideError, IntegrityError, ObjectNotFound

AT = OplogTimestamp(5, 1)
FOUND = ConsistentPoint(timestamp=AT)
TRIMMED = OplogGapError(after=AT, through=AT, missing_after=None)
REMOVED = ObjectNotFound("open-work/0000000500000001")


@pytest.fixture
def failing_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Have reading fail with these errors, one after another, and then succeed; the list grows with each attempt."""

    def fail(*errors: EbbtideError) -> list[int]:
        attempts: list[int] = []

        def find(*_: Any) -> ConsistentPoint:
            attempts.append(len(attempts))
            if len(attempts) <= len(errors):
                raise errors[len(attempts) - 1]
            return FOUND

        monkeypatch.setattr(consistent_points, "_find", find)
        return attempts

    return fail


def find() -> Any:
    return find_consistent_point([], at_most=AT, context=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("errors", [[], [TRIMMED], [REMOVED], [TRIMMED, REMOVED]])
def test_what_is_trimmed_while_it_is_read_is_read_again(
    failing_with: Callable[..., list[int]], errors: list[EbbtideError]
) -> None:
    attempts = failing_with(*errors)
    assert find() == FOUND
    assert len(attempts) == len(errors) + 1


def test_it_is_not_read_again_for_ever(failing_with: Callable[..., list[int]]) -> None:
    attempts = failing_with(*[TRIMMED] * ATTEMPTS)
    with pytest.raises(OplogGapError):
        find()
    assert len(attempts) == ATTEMPTS


def test_damage_is_told_at_once(failing_with: Callable[..., list[int]]) -> None:
    attempts = failing_with(IntegrityError("slice", "does not match its checksum"))
    with pytest.raises(IntegrityError):
        find()
    assert len(attempts) == 1
