"""How far the load may run ahead of the target's members, so that none of them falls off the oplog.

A batch is acknowledged by a majority, which holds writers back as far as the majority goes. A member outside of it, and
whoever archives the target's oplog, may lag: never by more than half of the oplog. Counted are the bytes of documents
with a surcharge for their entries, remembered with the operation time of each answer.

Not waited for: members that do not replicate now (down, resyncing), which catch up or resync as after any outage, and
delayed ones, whose lag is meant.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from bson import Timestamp

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.mongod.deployment import DeploymentError, get_configuration, oplog_max_bytes, run_admin
from ebbtide.restore.load.inventory import Client, is_standalone

ENTRY_BYTES = 200
"""What an oplog entry takes besides its document, about."""

STANDSTILL_SECONDS_MAX = 900.0
"""How long nobody may make headway before the attempt ends."""

_LOOK_SECONDS = 0.5
_SHARE = 0.5

Position = Callable[[], OplogTimestamp | None]
"""Up to where the target's oplog is archived; None where nobody archives it, or that is not known."""


class Flow:
    """Asked before each batch and told after it, from any thread.

    `limit_bytes` is how far ahead is too far; `delayed` are the `_id`s of members that are not waited for.
    """

    def __init__(
        self,
        target: Client,
        *,
        limit_bytes: int,
        delayed: frozenset[int] = frozenset(),
        archived: Position | None,
        check: Callable[[], None],
    ) -> None:
        self._target = target
        self._archived = archived
        self._check = check
        self._limit = limit_bytes
        self._delayed = delayed
        self._lock = threading.Lock()
        self._marks: list[tuple[OplogTimestamp, int]] = []
        self._sent = 0
        self._passed = 0
        self._looked = 0.0

    @classmethod
    def of(cls, target: Client, *, archived: Position | None, check: Callable[[], None]) -> Self:
        """Up to half of the target's oplog; no bound for a server by itself. Raises Unreachable, DeploymentError."""
        if is_standalone(target):
            return cls(target, limit_bytes=sys.maxsize, archived=None, check=check)
        return cls(
            target,
            limit_bytes=int(oplog_max_bytes(target) * _SHARE),
            delayed=delayed_members(get_configuration(target)),
            archived=archived,
            check=check,
        )

    def wait_for_room(self) -> None:
        """Return when the slowest is near enough. Raises DeploymentError after a standstill, and what `check` raises."""
        since, passed = time.monotonic(), self._passed
        while self._ahead() > self._limit:
            self._check()
            self._look()
            if self._passed > passed:
                since, passed = time.monotonic(), self._passed
            elif time.monotonic() - since > STANDSTILL_SECONDS_MAX:
                raise DeploymentError(
                    "the target's slowest member, or the archive of its oplog, makes no headway",
                    hint="see rs.status() of the target, and the lag of its archive",
                )
            time.sleep(_LOOK_SECONDS)

    def sent(self, answer: Mapping[str, Any], *, size_bytes: int, documents: int) -> None:
        """Note what was acknowledged."""
        moment = answer.get("operationTime")
        with self._lock:
            self._sent += size_bytes + documents * ENTRY_BYTES
            if isinstance(moment, Timestamp):
                self._marks.append((OplogTimestamp.from_bson(moment), self._sent))

    def _ahead(self) -> int:
        """Bytes that the slowest has not passed yet, as far as known; asked for anew when it may matter."""
        if self._sent - self._passed > self._limit // 4 and time.monotonic() - self._looked > _LOOK_SECONDS:
            self._look()
        return self._sent - self._passed

    def _look(self) -> None:
        """Find out where the slowest is now."""
        self._looked = time.monotonic()
        slowest = slowest_position(run_admin(self._target, "replSetGetStatus"), self._delayed)
        archived = self._archived() if self._archived is not None else None
        position = min((p for p in (slowest, archived) if p is not None), default=None)
        with self._lock:
            if position is None:
                return
            # Answers come in any order: the highest mark says what was sent by then.
            self._passed = max([self._passed, *(sent for moment, sent in self._marks if moment <= position)])
            self._marks = [mark for mark in self._marks if mark[0] > position]


def slowest_position(status: Mapping[str, Any], delayed: frozenset[int]) -> OplogTimestamp | None:
    """Of the members that replicate now, by replSetGetStatus; `delayed` are the `_id`s of those not waited for."""
    positions = [
        OplogTimestamp.from_bson(member["optime"]["ts"])
        for member in status["members"]
        if member.get("stateStr") in ("PRIMARY", "SECONDARY")
        and member.get("health") == 1
        and member["_id"] not in delayed
    ]
    return min(positions, default=None)


def delayed_members(configuration: Mapping[str, Any]) -> frozenset[int]:
    """Their `_id`s, by the set's configuration."""
    # `slaveDelay` until 4.4.
    return frozenset(
        int(member["_id"])
        for member in configuration["members"]
        if member.get("secondaryDelaySecs") or member.get("slaveDelay")
    )
