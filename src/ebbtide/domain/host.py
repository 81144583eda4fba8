"""A standalone mongod that its operator declares a mirrored (SCCC) config server, as MongoDB had them until 3.2.

It has no replication, so it has no head and no oplog archive: its data is copied over the wire while it is locked. Its
id is made of where it is, so one that was removed and declared again has its earlier snapshots.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType

from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.sealed import Sealed
from ebbtide.errors import Refused

HostId = NewType("HostId", str)
"""32 lower-case hex digits (contract section 1)."""

HOST_ID = re.compile(r"[0-9a-f]{32}")

SET_NAME = "config"
"""In place of a replica set's name, in the repository and in the names of downloads."""

HOST_FACT = "hostId"
"""Among the engine's layout in a manifest: these files are a copy that was made over the wire."""


class HostState(StrEnum):
    """Whether snapshots can be taken."""

    ACTIVE = "ACTIVE"
    REMOVED = "REMOVED"  # not asked any more; what is stored of it stays


@dataclass(frozen=True, kw_only=True)
class Host:
    """A declared host. `address` is `host:port`, `password` is sealed with this record's id.

    Snapshots, restore jobs and the repository know it by `store_id`. `lock_job_id` is written *before* it is locked
    and cleared after the unlock: while it is set, the host may be locked by us.
    """

    id: HostId
    group_id: GroupId
    store_id: ClusterId
    address: str
    state: HostState
    created: datetime
    username: str | None
    auth_source: str
    password: Sealed | None
    mongod_version: str
    lock_job_id: str | None = None


def host_id(group_id: GroupId, address: str) -> HostId:
    """The id of the host at `host:port`, in one group."""
    return HostId(hashlib.sha256(f"{group_id}/{address}".encode()).hexdigest()[:32])


class NotStandalone(Refused):
    """The server is a part of something, and is to be backed up as such."""


def check_standalone(hello: Mapping[str, Any], *, address: str) -> None:
    """Raise NotStandalone unless the reply to `hello` is that of a mongod by itself."""
    if hello.get("msg") == "isdbgrid":
        raise NotStandalone(
            f"{address} is a router", hint="declare the mirrored config servers, each by itself"
        )
    if "setName" in hello or hello.get("isreplicaset"):
        raise NotStandalone(
            f"{address} is of a replica set, and no mirrored config server",
            hint="register it with its set: ebbtide clusters add",
        )


def may_lock_with(privileges: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an account with these privileges, as connectionStatus shows them, may lock and unlock its server."""
    allowed: set[str] = set()
    for privilege in privileges:
        resource = privilege["resource"]
        if resource.get("cluster") or resource.get("anyResource"):
            allowed |= set(privilege["actions"])
    return {"fsync", "unlock"} <= allowed
