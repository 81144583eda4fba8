"""Every wire name of the API: records to JSON documents. No other module spells one of an answer.

Dates are ISO 8601 in UTC with whole seconds, ids 24 hex digits, BSON timestamps `{date, increment}`, sizes carry their
unit in the name. A field without a value is left out. Sources: contract sections 6.3, 6.5 and 7; Ebbtide's own
documents are described in docs/api.md.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import quote

from ebbtide.api.families import Family
from ebbtide.backup.registration import RegistrationReport
from ebbtide.backup.registration_checks import Check
from ebbtide.domain.cluster import Cluster, Head
from ebbtide.domain.download import Transfer
from ebbtide.domain.event import Event
from ebbtide.domain.group import Group
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId
from ebbtide.domain.job import Job
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.progress import Progress
from ebbtide.domain.restore_job import (
    READY,
    DeliveryMethod,
    DeliveryStatus,
    RestoreEvent,
    RestoreJob,
    RestoreState,
    RestoreStatus,
    apply_event,
)
from ebbtide.domain.restore_point import Resolution
from ebbtide.domain.snapshot import Snapshot, SnapshotState

Document = dict[str, Any]

AUTH_HEADER = "Authorization"
AUTH_BEARER = "Bearer"
COMPRESSION = "GZIP"
_NO_FILTER: Document = {"filterType": "blacklist", "filterList": []}
"""Physical snapshots hold every namespace."""


@lru_cache(maxsize=1024)
def _segment(name: str) -> str:
    return quote(name, safe="")


@dataclass(frozen=True)
class Addresses:
    """Absolute addresses of everything, in one family; `external_url` has no trailing slash."""

    external_url: str
    family: Family = Family.ATLAS

    @cached_property
    def base(self) -> str:
        return f"{self.external_url}{self.family.value}"

    @property
    def ebbtide(self) -> str:
        return f"{self.external_url}{Family.OWN.value}"

    def group(self, group_id: GroupId) -> str:
        return f"{self.base}/groups/{group_id}"

    def cluster(self, group_id: GroupId, cluster_id: ClusterId, name: str) -> str:
        """By id or by name, as the family has it."""
        segment = cluster_id if self.family.names_clusters_by_id else _segment(name)
        return f"{self.group(group_id)}/clusters/{segment}"

    def of_cluster(self, record: Snapshot | RestoreJob) -> str:
        """The address of the cluster that a record is of."""
        return self.cluster(record.group_id, record.cluster_id, record.cluster_name)

    def restore_job(self, job: RestoreJob) -> str:
        return f"{self.of_cluster(job)}/restoreJobs/{job.id}"

    def snapshot(self, snapshot: Snapshot) -> str:
        return f"{self.of_cluster(snapshot)}/snapshots/{snapshot.id}"

    def backup_config(self, group_id: GroupId, cluster_id: ClusterId) -> str:
        return f"{self.group(group_id)}/backupConfigs/{cluster_id}"

    def own_group(self, group_id: GroupId) -> str:
        return f"{self.ebbtide}/groups/{group_id}"

    def own_cluster(self, group_id: GroupId, name: str) -> str:
        return f"{self.own_group(group_id)}/clusters/{quote(name, safe='')}"

    def own_snapshot(self, group_id: GroupId, name: str, snapshot_id: SnapshotId) -> str:
        return f"{self.own_cluster(group_id, name)}/snapshots/{snapshot_id}"

    def own_restore_job(self, group_id: GroupId, job_id: RestoreJobId) -> str:
        return f"{self.own_group(group_id)}/restoreJobs/{job_id}"

    def download_v2(self, job: RestoreJob, key: str) -> str:
        return f"{self.external_url}/backup/restore/v2/pull/{job.id}/{link_key(key)}/{job.file_name}"

    def download_v3(self, job: RestoreJob) -> str:
        return f"{self.external_url}/backup/restore/v3/pull/{job.id}/{job.file_name}"


def link_key(key: str) -> str:
    """The form of a download key in a v2 link; base64 of hex digits never holds a slash or a plus."""
    return base64.b64encode(key.encode()).decode()


def iso_date(moment: datetime) -> str:
    """ISO 8601 in UTC, whole seconds."""
    # A page of a list has hundreds of dates, and `strftime` takes five times as long.
    text = moment.isoformat(timespec="seconds")
    if not text.endswith("+00:00"):
        text = moment.astimezone(UTC).isoformat(timespec="seconds")
    return f"{text[:-6]}Z"


def bson_timestamp(timestamp: OplogTimestamp) -> Document:
    return {"date": iso_date(timestamp.date), "increment": timestamp.increment}


def self_links(href: str) -> list[Document]:
    return [{"rel": "self", "href": href}]


def _present(**fields: Any) -> Document:
    """A document of the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def _date_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else iso_date(moment)


# --- Atlas family ---------------------------------------------------------------------------------------------------


def group_document(group: Group, *, cluster_count: int, addresses: Addresses) -> Document:
    return {
        "id": group.id,
        "name": group.name,
        "clusterCount": cluster_count,
        "created": iso_date(group.created),
        "links": self_links(addresses.group(group.id)),
    }


def cluster_document(cluster: Cluster, *, addresses: Addresses) -> Document:
    return {
        "id": cluster.id,
        "name": cluster.name,
        "groupId": cluster.group_id,
        "clusterType": "REPLICASET",
        "mongoDBVersion": cluster.mongod_version,
        "links": self_links(addresses.cluster(cluster.group_id, cluster.id, cluster.name)),
    }


def snapshot_document(snapshot: Snapshot, *, addresses: Addresses) -> Document:
    """Contract section 7. A snapshot being taken shows what is known of its part."""
    return _present(
        id=snapshot.id,
        groupId=snapshot.group_id,
        clusterId=snapshot.cluster_id,
        clusterName=snapshot.cluster_name,
        complete=snapshot.state is SnapshotState.COMPLETE,
        created={"date": iso_date(snapshot.created), "increment": 1},
        lastOplogAppliedTimestamp=(
            None if snapshot.stable_timestamp is None else bson_timestamp(snapshot.stable_timestamp)
        ),
        doNotDelete=snapshot.do_not_delete,
        expires=None if snapshot.do_not_delete else _date_or_none(snapshot.expires),
        incremental=snapshot.parent_id is not None,
        parts=[_snapshot_part(snapshot)],
        namespaceFilterList=_NO_FILTER if addresses.family is Family.CLOUD else None,
        links=self_links(addresses.snapshot(snapshot)),
    )


def _snapshot_part(snapshot: Snapshot) -> Document:
    sizes: Document = {}
    if snapshot.state is SnapshotState.COMPLETE:
        sizes = {
            "dataSizeBytes": snapshot.data_size_bytes,
            "storageSizeBytes": snapshot.storage_size_bytes,
            "fileSizeBytes": snapshot.file_size_bytes,
        }
    return _present(
        typeName="REPLICA_SET",
        clusterId=snapshot.cluster_id,
        replicaSetName=snapshot.replica_set_name,
        mongodVersion=snapshot.mongod_version or None,
        fcv=snapshot.fcv or None,
        **sizes,
        compressionSetting=COMPRESSION,
        encryptionEnabled=False,
        machineId=snapshot.machine or None,
        replicaState="SECONDARY",
        completedTime=_date_or_none(snapshot.completed),
    )


def effective_state(job: RestoreJob, *, now: datetime) -> RestoreState:
    """The job's states as of `now`: EXPIRED from the moment of `expires`, whether or not that was written yet."""
    if job.state == READY and job.expires is not None and now >= job.expires:
        return apply_event(job.state, RestoreEvent.LINK_EXPIRED) or job.state
    return job.state


def restore_job_document(
    job: RestoreJob, *, now: datetime, addresses: Addresses, download_key: str | None
) -> Document:
    """Contract section 6.3. `download_key` (32 hex digits) is None for callers who may not download."""
    status, delivery_status = effective_state(job, now=now)
    hashes = None
    if job.sha1 is not None and job.completed_downloads >= 1:
        hashes = [{"typeName": "SHA1", "fileName": job.file_name, "hash": job.sha1}]
    return _present(
        id=job.id,
        groupId=job.group_id,
        clusterId=job.cluster_id,
        clusterName=job.cluster_name,
        snapshotId=job.snapshot_id,
        created=iso_date(job.created),
        statusName=status.value,
        pointInTime=job.point_in_time,
        timestamp=bson_timestamp(job.timestamp),
        encryptionEnabled=False,
        delivery=_delivery(
            job,
            delivery_status=delivery_status,
            addresses=addresses,
            download_key=download_key if status is RestoreStatus.FINISHED else None,
        ),
        hashes=hashes,
        links=self_links(addresses.restore_job(job)),
    )


def _delivery(
    job: RestoreJob, *, delivery_status: DeliveryStatus, addresses: Addresses, download_key: str | None
) -> Document:
    if job.method is DeliveryMethod.AUTOMATED_RESTORE:
        # Every source shows `HTTP` for these too, and no link, nor anything of one.
        return _present(
            methodName="HTTP",
            statusName=delivery_status.value,
            targetGroupId=job.target_group_id,
            targetClusterId=job.target_cluster_id,
            targetClusterName=job.target_cluster_name,
        )
    delivery = _present(
        methodName="HTTP",
        statusName=delivery_status.value,
        expirationHours=job.expiration_hours,
        maxDownloads=job.max_downloads,
        expires=_date_or_none(job.expires) if job.status is RestoreStatus.FINISHED else None,
    )
    if download_key is not None:
        delivery |= {
            "url": addresses.download_v2(job, download_key),
            "urlV2": addresses.download_v3(job),
            "authHeader": AUTH_HEADER,
            "authBearer": AUTH_BEARER,
            "authValue": download_key,
        }
    return delivery


# --- Ebbtide's own --------------------------------------------------------------------------------------------------


def own_cluster_document(
    cluster: Cluster,
    *,
    head: Head | None,
    last_snapshot: Snapshot | None,
    archive: Document | None = None,
    waits_for: str = "",
    shows_paths: bool = False,
    addresses: Addresses,
) -> Document:
    """`waits_for` is why no snapshot is begun now; empty: nothing holds them up. `shows_paths`: of the server too."""
    return _present(
        id=cluster.id,
        groupId=cluster.group_id,
        name=cluster.name,
        replicaSetName=cluster.replica_set_name,
        mongodVersion=cluster.mongod_version,
        fcv=cluster.fcv,
        mongod=cluster.mongod if shows_paths else None,
        state=cluster.state.value,
        paused=cluster.is_paused or None,
        restoreTarget=cluster.restore_target,
        restoreUsername=cluster.restore_username,
        created=iso_date(cluster.created),
        tls=None if cluster.tls_expires is None else _tls(cluster),
        head=None if head is None else _head(head),
        archive=archive,
        lastSnapshot=None if last_snapshot is None else _last_snapshot(last_snapshot),
        snapshotsWaitFor=waits_for or None,
        links=self_links(addresses.own_cluster(cluster.group_id, cluster.name)),
    )


def _tls(cluster: Cluster) -> Document:
    return _present(
        mode=cluster.tls_mode.value,
        clusterAuthMode=cluster.cluster_auth_mode.value,
        certificateExpires=_date_or_none(cluster.tls_expires),
    )


def checks_document(checks: Iterable[Check]) -> Document:
    """Every check of a registration, or of credentials, passed and failed."""
    return {
        "checks": [
            {"name": check.name, "ok": check.ok, "what": check.what, "fix": check.fix} for check in checks
        ]
    }


def dry_run_document(report: RegistrationReport) -> Document:
    return {
        "dryRun": True,
        "ok": report.ok,
        **checks_document(report.checks),
        "head": {"host": report.head_host, "port": report.head_port},
        "needs": {"diskBytes": report.disk_bytes, "memoryBytes": report.memory_bytes},
    }


def status_document(*, version: str) -> Document:
    return {"version": version}


def _head(head: Head) -> Document:
    return _present(
        state=head.state.value,
        stateSince=iso_date(head.state_since),
        host=head.host,
        port=head.port,
        memberId=head.member_id,
        message=head.message or None,
        lagSeconds=head.lag_seconds,
        restarts=head.restarts,
        initialSync=_initial_sync(head),
    )


def _initial_sync(head: Head) -> Document | None:
    if head.sync_done_bytes is None or head.sync_started is None:
        return None
    return _present(
        doneBytes=head.sync_done_bytes,
        totalBytes=head.sync_total_bytes,
        started=iso_date(head.sync_started),
        secondsLeft=seconds_left(
            done=head.sync_done_bytes,
            total=head.sync_total_bytes,
            seconds=(head.updated - head.sync_started).total_seconds(),
        ),
    )


def seconds_left(*, done: int, total: int | None, seconds: float) -> int | None:
    """Time left at the average speed so far; None while that says nothing."""
    if total is None or done <= 0 or seconds <= 0:
        return None
    return max(0, round((total - done) * seconds / done))


def _last_snapshot(snapshot: Snapshot) -> Document:
    return _present(
        id=snapshot.id,
        created=iso_date(snapshot.created),
        completed=_date_or_none(snapshot.completed),
        storedBytes=snapshot.stored_bytes,
        newStoredBytes=snapshot.new_stored_bytes,
    )


def own_snapshot_document(snapshot: Snapshot, *, job: Job | None, addresses: Addresses) -> Document:
    stable, applied = snapshot.stable_timestamp, snapshot.applied_timestamp
    return _present(
        id=snapshot.id,
        groupId=snapshot.group_id,
        clusterId=snapshot.cluster_id,
        clusterName=snapshot.cluster_name,
        replicaSetName=snapshot.replica_set_name,
        state=snapshot.state.value,
        created=iso_date(snapshot.created),
        completed=_date_or_none(snapshot.completed),
        parentId=snapshot.parent_id,
        stableTimestamp=None if stable is None else bson_timestamp(stable),
        appliedTimestamp=None if applied is None else bson_timestamp(applied),
        mongodVersion=snapshot.mongod_version,
        fcv=snapshot.fcv,
        fileSizeBytes=snapshot.file_size_bytes,
        storedBytes=snapshot.stored_bytes,
        newStoredBytes=snapshot.new_stored_bytes,
        lockSeconds=snapshot.lock_seconds,
        doNotDelete=snapshot.do_not_delete,
        expires=_date_or_none(snapshot.expires),
        scheduledFor=_date_or_none(snapshot.scheduled_for),
        deleted=_date_or_none(snapshot.deleted),
        pruneAfter=_date_or_none(snapshot.prune_after),
        removed=_date_or_none(snapshot.removed),
        error=snapshot.error or None,
        job=None if job is None else job_document(job),
        links=self_links(addresses.own_snapshot(snapshot.group_id, snapshot.cluster_name, snapshot.id)),
    )


def job_document(job: Job) -> Document:
    return _present(
        state=job.state.value,
        step=job.step,
        attempts=job.attempts,
        error=job.error or None,
        progress=None if job.progress is None else _progress(job.progress),
    )


def _progress(progress: Progress) -> Document:
    seconds = (progress.updated - progress.started).total_seconds()
    return _present(
        phase=progress.phase,
        done=progress.done,
        total=progress.total,
        unit=progress.unit,
        started=iso_date(progress.started),
        updated=iso_date(progress.updated),
        ratePerSecond=round(progress.done / seconds, 1) if seconds > 0 else None,
        secondsLeft=seconds_left(done=progress.done, total=progress.total, seconds=seconds),
    )


def own_restore_job_document(
    job: RestoreJob,
    *,
    now: datetime,
    work: Job | None,
    transfers: Sequence[Transfer],
    automated: Document | None = None,
    addresses: Addresses,
) -> Document:
    """What the Atlas family has no place for; never a link or a key. `automated`: what it does to its target."""
    status, delivery_status = effective_state(job, now=now)
    return _present(
        id=job.id,
        groupId=job.group_id,
        clusterId=job.cluster_id,
        clusterName=job.cluster_name,
        snapshotId=job.snapshot_id,
        created=iso_date(job.created),
        requestedBy=job.requested_by,
        statusName=status.value,
        deliveryStatusName=delivery_status.value,
        reason=job.reason or None,
        pointInTime=job.point_in_time,
        limit=None if job.limit is None else bson_timestamp(job.limit),
        timestamp=bson_timestamp(job.timestamp),
        archiveBytes=job.archive_bytes,
        fileName=job.file_name or None,
        expirationHours=job.expiration_hours,
        maxDownloads=job.max_downloads,
        completedDownloads=job.completed_downloads,
        ready=_date_or_none(job.ready),
        expires=_date_or_none(job.expires),
        automated=automated,
        job=None if work is None else job_document(work),
        transfers=[_transfer(t) for t in transfers],
        links=self_links(addresses.own_restore_job(job.group_id, job.id)),
    )


def resolution_document(resolution: Resolution) -> Document:
    """What a restore point comes to: the answer of a dry run."""
    base, limit = resolution.base, resolution.limit
    return _present(
        dryRun=True,
        snapshotId=base.id,
        stableTimestamp=None if base.stable_timestamp is None else bson_timestamp(base.stable_timestamp),
        limit=None if limit is None else bson_timestamp(limit),
    )


def _transfer(transfer: Transfer) -> Document:
    return _present(
        first=transfer.first,
        end=transfer.end,
        sentBytes=transfer.sent_bytes,
        started=iso_date(transfer.started),
        updated=iso_date(transfer.updated),
        ended=_date_or_none(transfer.ended),
        address=transfer.address,
    )


def event_document(event: Event) -> Document:
    return _present(
        id=event.id,
        time=iso_date(event.time),
        level=event.level.value,
        kind=event.kind,
        message=event.message,
        groupId=event.group_id,
        clusterId=event.cluster_id,
        subjectId=event.subject_id,
        actor=event.actor,
    )
