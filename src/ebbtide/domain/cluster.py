"""A registered deployment: one replica set, how to reach it, and the head that Ebbtide runs in it.

A sharded cluster is one record without a head (`ClusterKind.SHARDED`), and one more for each of its replica sets.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.replica_set import ClusterAuthMode, TlsMode
from ebbtide.domain.sealed import Sealed

CLUSTER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]*")
CLUSTER_NAME_LENGTH_MAX = 64


class ClusterKind(StrEnum):
    """What a record stands for."""

    REPLICA_SET = "REPLICA_SET"  # one set, of its own or part of a sharded cluster
    SHARDED = "SHARDED"  # a sharded cluster; its parts are clusters of their own


class ClusterState(StrEnum):
    """Whether a cluster is backed up."""

    ACTIVE = "ACTIVE"  # it has, or is getting, a head
    REMOVING = "REMOVING"  # its head is leaving the set
    REMOVED = "REMOVED"  # no head any more; its last snapshot stays, older ones until they expire


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A replica set under backup.

    `uri` holds no credentials. `password`, `keyfile` and `tls_certificate` (with the private key) are sealed with this
    record's id. `head_host` and `head_port` are where the set's members reach the head. `tls_mode`,
    `cluster_auth_mode` and `authorization` are what the members use, and so the head too. `is_paused`: the head
    follows, and no snapshot is begun. `is_detached`: it is being removed without its set being asked. `mongod` is the
    path of a mongod for this head alone, on its worker's machine. `restore_target`: its owner lets restores replace its
    data, as the user `restore_username`, whose password is sealed with `restore_secret_id`.

    Where `kind` is SHARDED there is neither set nor head: `uri` is the config server's, and `replica_set_name`,
    `head_host` and `head_port` say nothing. A part of a sharded cluster has `parent_id`, and is either the shard
    `shard_name` or the config server.
    """

    id: ClusterId
    group_id: GroupId
    name: str
    replica_set_name: str
    uri: str
    username: str | None
    auth_source: str
    password: Sealed | None
    keyfile: Sealed | None
    mongod_version: str
    fcv: str
    state: ClusterState
    created: datetime
    head_host: str
    head_port: int
    oplog_bytes: int = 0
    mongod: str | None = None
    tls_mode: TlsMode = TlsMode.DISABLED
    cluster_auth_mode: ClusterAuthMode = ClusterAuthMode.KEYFILE
    authorization: bool = False
    tls_ca: str | None = None
    tls_certificate: Sealed | None = None
    tls_expires: datetime | None = None
    is_paused: bool = False
    is_detached: bool = False
    restore_target: bool = False
    restore_username: str | None = None
    restore_auth_source: str = "admin"
    restore_password: Sealed | None = None
    kind: ClusterKind = ClusterKind.REPLICA_SET
    parent_id: ClusterId | None = None
    shard_name: str | None = None
    is_config_server: bool = False

    @property
    def config_server_of(self) -> ClusterId | None:
        """The sharded cluster whose config server this is."""
        return self.parent_id if self.is_config_server else None

    @property
    def restore_secret_id(self) -> str:
        """What `restore_password` is bound to: not the record alone, or it could be swapped with the other password."""
        return f"{self.id} restore"


class HeadState(StrEnum):
    """Where a head is on its way; one line of meaning each, shown to people as it is."""

    PROVISIONING = "PROVISIONING"  # its mongod is being started on an empty dbpath
    JOINING = "JOINING"  # it is being added to the set, and members must reach it
    SYNCING = "SYNCING"  # initial sync copies the data
    FOLLOWING = "FOLLOWING"  # secondary; snapshots can be taken
    DOWN = "DOWN"  # its mongod is not running or does not answer; it is being restarted
    TOO_STALE = "TOO_STALE"  # it fell off the oplog; its files are replaced
    RESEEDING = "RESEEDING"  # a snapshot's files are laid down for it, or it catches up from there
    REMOVED = "REMOVED"  # somebody else took it out of the set, again after it was put back once
    FAILED = "FAILED"  # it needs a person; the message says for what
    LEAVING = "LEAVING"  # it is being taken out of the set
    GONE = "GONE"  # it left the set; process and files are gone


@dataclass(frozen=True, kw_only=True)
class Head:
    """The hidden member that Ebbtide runs in a replica set. `id` is the cluster's.

    `dbpath` is relative to the worker's data directory. `lock_job_id` is written *before* the head is locked and
    cleared after the unlock: while it is set, the head may be locked. Bytes of initial sync are estimates. `put_back`
    is when Ebbtide put it back by itself, which it does once; `rejoin_wanted`: it is to be put back (again).
    `certificate_warned` is when its certificate's end was last an event.
    """

    id: ClusterId
    state: HeadState
    state_since: datetime
    host: str
    port: int
    dbpath: str
    member_id: int | None = None
    message: str = ""
    lag_seconds: float | None = None
    sync_done_bytes: int | None = None
    sync_total_bytes: int | None = None
    sync_started: datetime | None = None
    lock_job_id: str | None = None
    restarts: int = 0
    joined_once: bool = False
    put_back: datetime | None = None
    rejoin_wanted: bool = False
    certificate_warned: datetime | None = None
    lease_worker_id: str | None = None
    lease_until: datetime | None = None
    updated: datetime
