"""When a head's files are worth nothing any more, and what they are replaced by: pure rules.

A member that comes back goes on from the newest entry of its own oplog, T_a for a snapshot's files. It needs a member
to go on from whose oplog still has that entry. Should the entries from T_s to T_a be ones that the set rolled back
since, it goes back as far as T_s first; so it is T_s that the set's oplog has to reach.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.optime import OplogTimestamp

RECOVERING = "RECOVERING"
"""What the server calls a member that has data and cannot be read: too stale, or not caught up yet."""


@dataclass(frozen=True, kw_only=True)
class ReseedBase:
    """A snapshot that a head may be built from. Its maker vouches that it is no replayed result (deliver-only)."""

    snapshot_id: SnapshotId
    stable_timestamp: OplogTimestamp
    fcv: str


@dataclass(frozen=True, kw_only=True)
class FromSnapshot:
    """Lay this snapshot's files down, and let the oplog do the rest."""

    base: ReseedBase


@dataclass(frozen=True, kw_only=True)
class InitialSync:
    """Begin with an empty dbpath: `reason` says why no snapshot will do."""

    reason: str


ReseedPlan = FromSnapshot | InitialSync


def plan_reseed(base: ReseedBase | None, *, oplog_oldest: Sequence[OplogTimestamp], fcv: str) -> ReseedPlan:
    """How to give a head its data again.

    `base` is the newest snapshot that may be used; `oplog_oldest` the oldest entry of each member that the head could
    follow; `fcv` is the set's.
    """
    if base is None:
        return InitialSync(reason="there is no snapshot")
    if not oplog_oldest:
        return InitialSync(reason="no member said how far back its oplog reaches")
    if min(oplog_oldest) > base.stable_timestamp:
        return InitialSync(
            reason=f"the set's oplog begins at {min(oplog_oldest).date:%Y-%m-%d %H:%M:%S} UTC, "
            f"after the newest snapshot ({base.stable_timestamp.date:%Y-%m-%d %H:%M:%S} UTC)"
        )
    if base.fcv != fcv:
        return InitialSync(reason=f"the newest snapshot has FCV {base.fcv}, and the set has {fcv}")
    return FromSnapshot(base=base)


def has_fallen_off(
    *, state: str, newest: OplogTimestamp | None, oplog_oldest: Sequence[OplogTimestamp]
) -> bool:
    """Whether a head can never catch up: nobody has the entries any more that follow its newest one.

    `state` is what the head calls itself. What is not known proves nothing.
    """
    return state == RECOVERING and newest is not None and bool(oplog_oldest) and newest < min(oplog_oldest)


def followed_hosts(configuration: Mapping[str, Any], *, head: str) -> list[str]:
    """`host:port` of the members that a head could follow: they have data, now, and are not the head itself."""
    return [
        m["host"]
        for m in configuration["members"]
        if m["host"] != head
        and not m.get("arbiterOnly", False)
        and not m.get("secondaryDelaySecs", m.get("slaveDelay", 0))
    ]


_STORAGE_ERROR = re.compile(r'"s":"[EF]",\s*"c":"(?:WT|STORAGE)"')
# What they say of files that cannot be read or are not there (each was provoked on 6.0.5).
_DAMAGE = re.compile(
    r"WT_TRY_SALVAGE|WT_PANIC|WT_ERROR|WT_NOTFOUND|corruption|checksum error|No such file or directory"
    r"|starting MongoDB with --repair"
)
# What makes them say so although nothing is wrong with the files.
_NO_DAMAGE = re.compile(r"No space left|Too many open files|Permission denied|Operation not permitted|ENOSPC")


def says_damaged(log: str) -> bool:
    """Whether what a mongod logged before it failed to start means that its files cannot be read.

    Only errors of its storage count (lines of JSON); the backtrace after them has none of the words.
    """
    said = "\n".join(line for line in log.splitlines() if _STORAGE_ERROR.search(line))
    return _DAMAGE.search(said) is not None and _NO_DAMAGE.search(said) is None


def newest_base(bases: Iterable[ReseedBase]) -> ReseedBase | None:
    """The one with the newest data."""
    return max(bases, key=lambda base: base.stable_timestamp, default=None)
