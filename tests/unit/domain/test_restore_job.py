"""The table of a restore job's states: every state with every event (contract, section 13)."""

import itertools

import pytest

from ebbtide.domain.ids import ClusterId, RestoreJobId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import (
    BEGUN,
    BROKEN,
    DAMAGED,
    EXPIRED,
    KILLED,
    NEW,
    READY,
    TRANSITIONS,
    USED_UP,
    DeliveryStatus,
    RestoreEvent,
    RestoreState,
    RestoreStatus,
    apply_event,
    archive_name,
    states_taking,
)

STATES = (NEW, BEGUN, READY, EXPIRED, USED_UP, BROKEN, KILLED, DAMAGED)

# Rows are states, columns events; None: the event does not apply.
#                 BEGAN  READY  RESTORED EXPIRED   USED_UP  FAILED  CANCELLED DAMAGE
TABLE: dict[RestoreState, tuple[RestoreState | None, ...]] = {
    NEW:         (BEGUN, None,  None,    None,     None,    BROKEN, KILLED,   None),
    BEGUN:       (BEGUN, READY, READY,   None,     None,    BROKEN, KILLED,   None),
    READY:       (None,  None,  None,    EXPIRED,  USED_UP, None,   KILLED,   DAMAGED),
    EXPIRED:     (None,  None,  None,    None,     EXPIRED, None,   None,     DAMAGED),
    USED_UP:     (None,  None,  None,    USED_UP,  None,    None,   None,     DAMAGED),
    BROKEN:      (None,  None,  None,    None,     None,    None,   None,     None),
    KILLED:      (None,  None,  None,    None,     None,    None,   None,     None),
    DAMAGED:     (None,  None,  None,    None,     None,    None,   None,     None),
}  # fmt: skip


@pytest.mark.parametrize(("state", "event"), list(itertools.product(STATES, RestoreEvent)))
def test_every_state_takes_every_event_as_the_table_says(state: RestoreState, event: RestoreEvent) -> None:
    assert TABLE[state][list(RestoreEvent).index(event)] == apply_event(state, event)


@pytest.mark.parametrize("pair", list(itertools.product(RestoreStatus, DeliveryStatus)))
def test_no_other_pair_of_states_takes_any_event(pair: RestoreState) -> None:
    if pair not in STATES:
        assert [None] * len(RestoreEvent) == [apply_event(pair, event) for event in RestoreEvent]


def test_the_contracts_words() -> None:
    """Contract 13: event → `statusName`, `delivery.statusName`."""
    words = {
        NEW: ("IN_PROGRESS", "NOT_STARTED"),
        BEGUN: ("IN_PROGRESS", "IN_PROGRESS"),
        READY: ("FINISHED", "READY"),
        EXPIRED: ("FINISHED", "EXPIRED"),
        USED_UP: ("FINISHED", "MAX_DOWNLOADS_EXCEEDED"),
        BROKEN: ("BROKEN", "FAILED"),
        KILLED: ("KILLED", "INTERRUPTED"),
        DAMAGED: ("FINISHED", "FAILED"),
    }
    assert words == {state: (state[0].value, state[1].value) for state in STATES}


@pytest.mark.parametrize("event", RestoreEvent)
def test_the_states_of_an_event_are_those_of_the_table(event: RestoreEvent) -> None:
    column = list(RestoreEvent).index(event)
    assert {state for state in STATES if TABLE[state][column] is not None} == set(states_taking(event))


def _reachable(state: RestoreState) -> set[RestoreState]:
    found: set[RestoreState] = set()
    waiting = [state]
    while waiting:
        for event in RestoreEvent:
            after = apply_event(waiting[-1], event)
            if after is not None and after not in found:
                found.add(after)
                waiting.insert(0, after)
        waiting.pop()
    return found


@pytest.mark.parametrize("event", RestoreEvent)
def test_states_are_listed_in_the_order_in_which_a_job_passes_them(event: RestoreEvent) -> None:
    """The catalog tries them one after another: a job that moves on meanwhile must be met by a later try."""
    taking = states_taking(event)
    for place, state in enumerate(taking):
        assert set(taking[:place]).isdisjoint(_reachable(state) - {state})


def test_every_state_can_be_reached_from_a_new_job() -> None:
    assert set(STATES) - {NEW} == _reachable(NEW)


def test_the_table_has_no_row_that_is_not_tested() -> None:
    assert len(TRANSITIONS) == sum(after is not None for row in TABLE.values() for after in row)


def test_an_archive_is_named_after_set_time_and_job() -> None:
    name = archive_name(
        replica_set_name="rs0",
        timestamp=OplogTimestamp(1700000000, 3),
        job_id=RestoreJobId("5f0000000000000000000001"),
    )
    assert name == "rs0-1700000000-5f0000000000000000000001.tar.gz"


def test_the_config_servers_is_named_after_its_cluster_too() -> None:
    name = archive_name(
        replica_set_name="cfg",
        timestamp=OplogTimestamp(1700000000, 3),
        job_id=RestoreJobId("5f0000000000000000000001"),
        config_server_of=ClusterId("6f0000000000000000000002"),
    )
    assert name == "config-cfg-6f0000000000000000000002-1700000000-5f0000000000000000000001.tar.gz"
