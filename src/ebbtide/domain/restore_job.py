"""A restore job and its table of states.

Two states live side by side: the job's (is the data ready?) and the delivery's (can it be fetched?). Every
change goes through `apply_event`; what is not in `TRANSITIONS` raises. Source: contract sections 6.4 and 13.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from ebbtide.domain.ids import BatchId, ClusterId, GroupId, RestoreJobId, ResultId, SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.sealed import Sealed

MAX_DOWNLOADS_UNLIMITED = 2147483647


class DeliveryMethod(StrEnum):
    """How the result arrives: the delivery's `methodName`."""

    HTTP = "HTTP"  # as an archive to download
    AUTOMATED_RESTORE = "AUTOMATED_RESTORE"  # in a running cluster, whose data it replaces


class RestoreStatus(StrEnum):
    """The job's `statusName`."""

    IN_PROGRESS = "IN_PROGRESS"
    FINISHED = "FINISHED"  # the data is ready; delivery lives on by itself
    BROKEN = "BROKEN"  # failed for a reason that would meet it again
    KILLED = "KILLED"  # cancelled by a person


class DeliveryStatus(StrEnum):
    """The delivery's `statusName`."""

    NOT_STARTED = "NOT_STARTED"
    IN_PROGRESS = "IN_PROGRESS"
    READY = "READY"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"
    EXPIRED = "EXPIRED"
    MAX_DOWNLOADS_EXCEEDED = "MAX_DOWNLOADS_EXCEEDED"


class RestoreEvent(StrEnum):
    """What can happen to a restore job."""

    WORKER_BEGAN = "WORKER_BEGAN"
    LINK_READY = "LINK_READY"
    RESTORED = "RESTORED"  # automated: the data is in place and was compared
    LINK_EXPIRED = "LINK_EXPIRED"  # the time passed, or the source snapshot was deleted
    DOWNLOADS_USED_UP = "DOWNLOADS_USED_UP"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    DAMAGE_FOUND = "DAMAGE_FOUND"  # stored data found damaged after READY


RestoreState = tuple[RestoreStatus, DeliveryStatus]

NEW: RestoreState = (RestoreStatus.IN_PROGRESS, DeliveryStatus.NOT_STARTED)
BEGUN: RestoreState = (RestoreStatus.IN_PROGRESS, DeliveryStatus.IN_PROGRESS)
READY: RestoreState = (RestoreStatus.FINISHED, DeliveryStatus.READY)
EXPIRED: RestoreState = (RestoreStatus.FINISHED, DeliveryStatus.EXPIRED)
USED_UP: RestoreState = (RestoreStatus.FINISHED, DeliveryStatus.MAX_DOWNLOADS_EXCEEDED)
BROKEN: RestoreState = (RestoreStatus.BROKEN, DeliveryStatus.FAILED)
KILLED: RestoreState = (RestoreStatus.KILLED, DeliveryStatus.INTERRUPTED)
DAMAGED: RestoreState = (RestoreStatus.FINISHED, DeliveryStatus.FAILED)

TRANSITIONS: dict[tuple[RestoreState, RestoreEvent], RestoreState] = {
    (NEW, RestoreEvent.WORKER_BEGAN): BEGUN,
    (NEW, RestoreEvent.FAILED): BROKEN,
    (NEW, RestoreEvent.CANCELLED): KILLED,
    # A worker was lost: the next one begins again, and nobody sees a difference.
    (BEGUN, RestoreEvent.WORKER_BEGAN): BEGUN,
    (BEGUN, RestoreEvent.LINK_READY): READY,
    (BEGUN, RestoreEvent.RESTORED): READY,
    (BEGUN, RestoreEvent.FAILED): BROKEN,
    (BEGUN, RestoreEvent.CANCELLED): KILLED,
    (READY, RestoreEvent.LINK_EXPIRED): EXPIRED,
    (READY, RestoreEvent.DOWNLOADS_USED_UP): USED_UP,
    (READY, RestoreEvent.CANCELLED): KILLED,
    (READY, RestoreEvent.DAMAGE_FOUND): DAMAGED,
    # A transfer begun before the expiry runs on, and may be the last one allowed.
    (EXPIRED, RestoreEvent.DOWNLOADS_USED_UP): EXPIRED,
    (EXPIRED, RestoreEvent.DAMAGE_FOUND): DAMAGED,
    (USED_UP, RestoreEvent.LINK_EXPIRED): USED_UP,
    (USED_UP, RestoreEvent.DAMAGE_FOUND): DAMAGED,
}


def apply_event(state: RestoreState, event: RestoreEvent) -> RestoreState | None:
    """The state after `event`, or None where the event does not apply to `state`."""
    return TRANSITIONS.get((state, event))


def states_taking(event: RestoreEvent) -> tuple[RestoreState, ...]:
    """Every state that `event` applies to."""
    return tuple(state for state, taken in TRANSITIONS if taken is event)


@dataclass(frozen=True, kw_only=True)
class RestoreJob:
    """A request to have the data of one moment delivered.

    `timestamp` is the restored moment: T_s of a snapshot, and for a point in time the newest entry that is in the
    result, which is known once it was built; until then what was asked for. `limit` is the last oplog timestamp that
    may be in it (None: the snapshot as it is), `snapshot_id` the snapshot it is built on, `result_id` the stored
    result of a replay. `download_key` is 32 hex digits, sealed with this record's id. `sha1`
    is of the whole archive, known once the worker has read it; it is shown only after the first complete download.
    `target_*` is the running cluster that an automated restore goes into. `batch_id` ties together the jobs of all parts
    of a sharded cluster. `expires` counts from the moment the link became ready, unless a moment was asked for. `restore_info` is the archive's restoreInfo.txt, kept so
    that the archive's bytes outlive a change of its wording. `reason` tells why a job is BROKEN or FAILED.
    """

    id: RestoreJobId
    group_id: GroupId
    cluster_id: ClusterId
    cluster_name: str
    replica_set_name: str
    snapshot_id: SnapshotId
    created: datetime
    status: RestoreStatus
    delivery_status: DeliveryStatus
    timestamp: OplogTimestamp
    expiration_hours: int
    max_downloads: int
    requested_by: str
    expires: datetime | None = None
    file_name: str = ""
    archive_bytes: int | None = None
    download_key: Sealed | None = None
    sha1: str | None = None
    completed_downloads: int = 0
    ready: datetime | None = None
    restore_info: str = ""
    reason: str = ""
    method: DeliveryMethod = DeliveryMethod.HTTP
    point_in_time: bool = False
    limit: OplogTimestamp | None = None
    result_id: ResultId | None = None
    asked_expires: datetime | None = None
    target_group_id: GroupId | None = None
    target_cluster_id: ClusterId | None = None
    target_cluster_name: str | None = None
    batch_id: BatchId | None = None

    @property
    def state(self) -> RestoreState:
        return (self.status, self.delivery_status)


def link_expiry(job: RestoreJob, *, ready: datetime) -> datetime:
    """When the link of a job that is ready at `ready` ends: the moment asked for, else so many hours from there."""
    return job.asked_expires or ready + timedelta(hours=job.expiration_hours)


def hours_until(moment: datetime, *, now: datetime) -> int:
    """Whole hours from `now` that reach `moment`, at least one."""
    return max(1, math.ceil((moment - now) / timedelta(hours=1)))


def archive_name(
    *,
    replica_set_name: str,
    timestamp: OplogTimestamp,
    job_id: RestoreJobId,
    config_server_of: ClusterId | None = None,
) -> str:
    """The name of the download and, without `.tar.gz`, of the directory inside it (contract 6.5).

    `config_server_of` is the sharded cluster whose config server it is of.
    """
    part = replica_set_name if config_server_of is None else f"config-{replica_set_name}-{config_server_of}"
    return f"{part}-{timestamp.seconds}-{job_id}.tar.gz"
