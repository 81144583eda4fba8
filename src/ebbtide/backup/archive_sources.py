"""Which member's oplog is archived: the head, or while that cannot be, another one; the entries are the same on each.

A source is proven before it is used: its oplog holds the entry with which the archive ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import structlog
from pymongo import MongoClient, ReadPreference

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.domain.archive_state import members_to_tail, other_data_members
from ebbtide.domain.cluster import Head, HeadState
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.replica_set import join_host_port, member_lag_seconds
from ebbtide.errors import EbbtideError
from ebbtide.mongod.deployment import run_admin
from ebbtide.oplog.tail import (
    OplogTail,
    SourceBehind,
    SourceUnfit,
    find_at,
    find_newest,
    find_oldest,
)

Document = dict[str, Any]

CONNECT_SECONDS = 5.0
BEGIN_SECONDS = 600
"""An archive that begins without a snapshot goes back so far: a snapshot that is being taken needs its T_a in it."""

_log = structlog.get_logger()


@dataclass(kw_only=True)
class Source:
    """A member that is tailed. `window_seconds`: what its oplog held when that began."""

    address: str
    is_head: bool
    client: MongoClient[Document]
    tail: OplogTail
    window_seconds: float

    def measure_lag(self) -> float | None:
        """How far the member is behind the primary; None where it does not know. Raises Unreachable, DeploymentError."""
        return member_lag_seconds(run_admin(self.client, "replSetGetStatus"), self.address)

    def close(self) -> None:
        self.tail.close()
        self.client.close()


@dataclass(frozen=True, kw_only=True)
class NoSource:
    """Nobody can be tailed now.

    `is_lost`: no member's oplog holds the entry any more, as far as members answer; `is_certain`: and all of them did.
    """

    message: str
    is_lost: bool
    is_certain: bool


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """Where a chain can begin: with that entry, on that member."""

    address: str
    entry: OpTime


class ArchiveSources:
    """The members of one cluster, as its head's record and its set tell them. Made anew for each search."""

    def __init__(self, access: ClusterAccess, head: Head, *, lag_max: float) -> None:
        self._access = access
        self._lag_max = lag_max
        self._head_address = join_host_port(head.host, head.port)
        self._head_follows = head.state is HeadState.FOLLOWING
        self._head_is_current = (
            self._head_follows and head.lock_job_id is None and (head.lag_seconds or 0.0) <= lag_max
        )
        self._others: list[str] | None = None
        self._all_others: set[str] = set()
        self._asked_set = False

    def follow(self, position: OpTime) -> Source | NoSource:
        """The first member that can be followed from the entry at `position`, which is not returned again."""
        lost: set[str] = set()
        troubles: list[str] = []
        for address in self._candidates():
            try:
                return self._open(address, position, includes_start=False)
            except SourceBehind as error:
                troubles.append(f"{address}: {error.message}")
            except SourceUnfit as error:
                lost.add(address)
                troubles.append(f"{address}: {error.message}")
            except EbbtideError as error:
                troubles.append(f"{address}: {error.message}")
        asked = self._all_others | ({self._head_address} if self._head_follows else set())
        return NoSource(
            message="; ".join(troubles) or "no member of the set can be reached",
            is_lost=bool(lost),
            is_certain=bool(lost) and self._asked_set and asked <= lost,
        )

    def begin(self, *, after: OpTime | None, wanted: list[OplogTimestamp]) -> Source | NoSource:
        """Begin a chain beyond `after`: at the earliest entry of `wanted` (in order) that a member has, else not long ago."""
        found: list[Beginning] = []
        troubles: list[str] = []
        for address in self._candidates():
            try:
                beginning = self._find_beginning(address, after=after, wanted=wanted)
            except EbbtideError as error:
                troubles.append(f"{address}: {error.message}")
                continue
            if beginning is not None:
                found.append(beginning)
                if wanted and beginning.entry.timestamp == wanted[0]:
                    break
        if not found:
            message = "; ".join(troubles) or "no member has an entry to begin with"
            return NoSource(message=message, is_lost=False, is_certain=False)
        best = min(found, key=lambda beginning: beginning.entry)
        return self._open(best.address, best.entry, includes_start=True)

    def _find_beginning(
        self, address: str, *, after: OpTime | None, wanted: list[OplogTimestamp]
    ) -> Beginning | None:
        with self._access.member_client(address, timeout_seconds=CONNECT_SECONDS) as client:
            for timestamp in wanted:
                entry = find_at(client, timestamp)
                if entry is not None:
                    return Beginning(address=address, entry=entry)
            newest = find_newest(client)
            if newest is None:
                return None
            start = OplogTimestamp(max(0, newest.timestamp.seconds - BEGIN_SECONDS), 0)
            if after is not None:
                start = max(start, OplogTimestamp.from_packed(after.timestamp.packed + 1))
            entry = find_oldest(client, at_or_after=start)
            return None if entry is None or entry > newest else Beginning(address=address, entry=entry)

    def _open(self, address: str, start: OpTime, *, includes_start: bool) -> Source:
        client = self._access.member_client(address, timeout_seconds=CONNECT_SECONDS)
        try:
            oldest, newest = find_oldest(client), find_newest(client)
            tail = OplogTail(client, start, includes_start=includes_start)
        except BaseException:
            client.close()
            raise
        held = (
            0.0 if oldest is None or newest is None else newest.timestamp.seconds - oldest.timestamp.seconds
        )
        return Source(
            address=address,
            is_head=address == self._head_address,
            client=client,
            tail=tail,
            window_seconds=float(held),
        )

    def _candidates(self) -> Iterator[str]:
        """The head while it is current, then the others; a head that is locked or lags comes last."""
        if self._head_is_current:
            yield self._head_address
        yield from self._other_members()
        if self._head_follows and not self._head_is_current:
            yield self._head_address

    def _other_members(self) -> list[str]:
        if self._others is None:
            try:
                self._others = self._ask_set()
                self._asked_set = True
            except EbbtideError as error:
                _log.info("oplog.set_not_asked", message=error.message)
                self._others = []
        return self._others

    def _ask_set(self) -> list[str]:
        with self._access.set_client(timeout_seconds=CONNECT_SECONDS) as client:
            anyone = ReadPreference.PRIMARY_PREFERRED
            configuration = run_admin(client, "replSetGetConfig", read_preference=anyone)["config"]
            status = run_admin(client, "replSetGetStatus", read_preference=anyone)
        self._all_others = other_data_members(configuration, head=self._head_address)
        return members_to_tail(configuration, status, head=self._head_address, lag_max=self._lag_max)
