"""Events: recorded without secrets, and never worth more than the work that they tell of."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import GroupId
from ebbtide.errors import Unreachable
from ebbtide.events import record_event

GROUP = GroupId("5f0000000000000000000001")


def test_an_event_is_in_the_catalog_and_in_the_log_without_secrets(catalog: Catalog) -> None:
    with capture_logs() as lines:
        record_event(
            catalog,
            SystemClock(),
            level=EventLevel.WARNING,
            kind="head.down",
            message="mongodb://u:p4ss@db1 does not answer",
            group_id=GROUP,
            subject_id="s",
        )
    (event,) = catalog.events.page(GROUP, cluster_id=None, skip=0, limit=5)
    assert (event.kind, event.level, event.subject_id) == ("head.down", EventLevel.WARNING, "s")
    assert event.message == "mongodb://<credentials>@db1 does not answer"
    assert lines == [
        {"event": "head.down", "message": event.message, "subject_id": "s", "log_level": "warning"}
    ]


@pytest.mark.parametrize("level", EventLevel)
def test_a_catalog_that_does_not_answer_costs_the_entry_only(level: EventLevel) -> None:
    class Away:
        @property
        def events(self) -> "Away":
            return self

        def insert(self, _: object) -> None:
            raise Unreachable("the catalog does not answer")

    away: Any = Away()
    with capture_logs() as lines:
        record_event(away, SystemClock(), level=level, kind="head.down", message="it is down")
    assert [line["event"] for line in lines] == ["head.down", "event.not_recorded"]
    assert lines[0]["log_level"] == level.value.lower()
