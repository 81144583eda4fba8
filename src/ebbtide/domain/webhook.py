"""Which events a webhook gets, what it is sent, and what follows an answer. Rules only."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ebbtide.domain.event import Event

OWN_KINDS = "webhook."
"""Events of the webhook itself are never sent: one that cannot be sent would cause the next."""

EVENT_AGE_MAX = timedelta(hours=24)
"""An event that could not be sent for so long is passed over: nobody wants last week's alarms all at once."""

REFUSALS_MAX = 3
"""A receiver that refuses an event (4xx) as often does not want it; the next one may be fine."""

RETRY_DELAY_FIRST = timedelta(seconds=1)
RETRY_DELAY_MAX = timedelta(minutes=5)

_MAY_PASS = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Sent:
    """The receiver has it."""


@dataclass(frozen=True)
class SendAgain:
    """It is sent again after `delay`; those behind it wait."""

    delay: timedelta


@dataclass(frozen=True)
class PassOver:
    """It is not sent again, for `reason`."""

    reason: str


def is_wanted(kind: str, patterns: Sequence[str]) -> bool:
    """Whether an event of that kind is sent; `*` in a pattern stands for anything."""
    if kind.startswith(OWN_KINDS):
        return False
    return any(re.fullmatch(re.escape(p).replace(r"\*", ".*"), kind) for p in patterns)


def judge_answer(
    status: int | None, *, attempts: int, age: timedelta, refusals: int
) -> Sent | SendAgain | PassOver:
    """What follows the `attempts`th try (from 1), which was answered with `status`; None: with nothing.

    `refusals` counts the tries, this one included, that the receiver said it will never take.
    """
    if status is not None and 200 <= status < 300:
        return Sent()
    if age > EVENT_AGE_MAX:
        return PassOver(f"it could not be sent for {age.total_seconds() / 3600:.0f} hours")
    if refusals >= REFUSALS_MAX:
        return PassOver(f"the receiver refused it {refusals} times, at last with status {status}")
    return SendAgain(min(RETRY_DELAY_MAX, RETRY_DELAY_FIRST * 2 ** min(attempts - 1, 10)))


def is_refusal(status: int | None) -> bool:
    """Whether the receiver says that this event will not do, rather than that it cannot take any now."""
    return status is not None and 400 <= status < 500 and status not in _MAY_PASS


def payload(event: Event, *, cluster_name: str | None) -> dict[str, Any]:
    """What is sent. Who did it is left out: addresses and keys are not for others."""
    return {
        "id": event.id,
        "time": _iso(event.time),
        "level": event.level.value,
        "kind": event.kind,
        "message": event.message,
        "groupId": event.group_id,
        "clusterId": event.cluster_id,
        "clusterName": cluster_name,
        "subjectId": event.subject_id,
    }


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
