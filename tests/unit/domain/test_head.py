"""What to do with a head next, for everything that can be wanted and seen."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from ebbtide.domain.cluster import HeadState
from ebbtide.domain.head import (
    CERTIFICATE_WARN,
    CERTIFICATE_WARN_AGAIN,
    HeadAction,
    HeadSight,
    certificate_warning_due,
    decide_head_action,
)

SIGHTS = [
    HeadSight(is_running=running, is_listed=listed, is_secondary=secondary)
    for running, listed, secondary in itertools.product((False, True), (None, False, True), (False, True))
]
EVERYTHING = list(itertools.product((False, True), HeadState, (False, True), SIGHTS))


def expected_action(
    *,
    is_wanted: bool,
    state: HeadState,
    joined_once: bool,
    sight: HeadSight,
    may_rejoin: bool,
    rejoin_wanted: bool,
) -> HeadAction:
    """The rules once more, the first that holds; from what must never be done to what usually is."""
    rules = [
        (not is_wanted and state is HeadState.GONE, HeadAction.NOTHING),
        (not is_wanted, HeadAction.LEAVE),
        (state in {HeadState.GONE, HeadState.FAILED}, HeadAction.NOTHING),
        (state is HeadState.REMOVED and not (may_rejoin or sight.is_listed), HeadAction.NOTHING),
        (not sight.is_running, HeadAction.START),
        (not joined_once, HeadAction.JOIN),
        (sight.is_listed is False and may_rejoin, HeadAction.REJOIN),
        (sight.is_listed is False, HeadAction.REPORT_DROPPED),
        (sight.is_listed is True and rejoin_wanted, HeadAction.REJOIN),
        (not sight.is_secondary, HeadAction.WATCH_SYNC),
        (True, HeadAction.FOLLOW),
    ]
    return next(action for holds, action in rules if holds)


@pytest.mark.parametrize("is_wanted", [False, True])
@pytest.mark.parametrize("joined_once", [False, True])
@pytest.mark.parametrize("state", HeadState)
def test_every_combination_has_the_action_of_the_first_rule_that_holds(
    is_wanted: bool, state: HeadState, joined_once: bool
) -> None:
    for sight, may_rejoin, rejoin_wanted in itertools.product(SIGHTS, (False, True), (False, True)):
        seen = {"is_wanted": is_wanted, "state": state, "joined_once": joined_once, "sight": sight}
        seen |= {"may_rejoin": may_rejoin, "rejoin_wanted": rejoin_wanted}
        assert expected_action(**seen) is decide_head_action(**seen)  # type: ignore[arg-type]


def actions(*, is_running: bool | None = None, joined_once: bool | None = None) -> set[HeadAction]:
    """Every action that is ever taken in such a situation."""
    return {
        decide_head_action(
            is_wanted=wanted, state=state, joined_once=joined, sight=sight, may_rejoin=may_rejoin
        )
        for wanted, state, joined, sight in EVERYTHING
        for may_rejoin in (False, True)
        if is_running in (None, sight.is_running) and joined_once in (None, joined)
    }


def test_only_a_running_head_joins_or_is_followed() -> None:
    assert {HeadAction.NOTHING, HeadAction.LEAVE, HeadAction.START} == actions(is_running=False)


def test_a_head_that_joined_is_never_added_to_the_set_again() -> None:
    assert HeadAction.JOIN not in actions(joined_once=True)


def test_a_set_that_cannot_be_asked_is_not_taken_for_one_that_dropped_the_head() -> None:
    sight = HeadSight(is_running=True, is_listed=None, is_secondary=True)
    found = decide_head_action(is_wanted=True, state=HeadState.FOLLOWING, joined_once=True, sight=sight)
    assert found is HeadAction.FOLLOW


@pytest.mark.parametrize("state", [state for state in HeadState if state is not HeadState.GONE])
def test_an_unwanted_head_leaves_from_every_state(state: HeadState) -> None:
    for sight in SIGHTS:
        for joined in (False, True):
            found = decide_head_action(is_wanted=False, state=state, joined_once=joined, sight=sight)
            assert found is HeadAction.LEAVE


NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("left", "warned_ago", "is_due"),
    [
        (None, None, False),
        (CERTIFICATE_WARN + DAY, None, False),
        (CERTIFICATE_WARN, None, True),
        (10 * DAY, CERTIFICATE_WARN_AGAIN - DAY, False),
        (10 * DAY, CERTIFICATE_WARN_AGAIN, True),
        (-DAY, None, True),
    ],
)
def test_the_end_of_a_certificate_is_said_a_month_before_and_every_week(
    left: timedelta | None, warned_ago: timedelta | None, is_due: bool
) -> None:
    expires = None if left is None else NOW + left
    warned = None if warned_ago is None else NOW - warned_ago
    assert is_due is certificate_warning_due(expires=expires, warned=warned, now=NOW)
