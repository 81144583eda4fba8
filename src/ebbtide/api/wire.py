"""Wire names of the families of the hosted services: records to JSON documents.

No module but this and its companions (`wire_own`, `wire_access`, …) spells a name of an answer.

Dates are ISO 8601 in UTC with whole seconds, ids 24 hex digits, BSON timestamps `{date, increment}`, sizes carry their
unit in the name. A field without a value is left out. Sources: contract sections 6.3, 6.5 and 7.
"""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import quote

from ebbtide.api.families import Family
from ebbtide.domain.cluster import Cluster, ClusterKind
from ebbtide.domain.cluster_snapshot import AnySnapshot
from ebbtide.domain.group import Group
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId
from ebbtide.domain.optime import OplogTimestamp
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
from ebbtide.domain.snapshot import Snapshot, SnapshotState

Document = dict[str, Any]

AUTH_HEADER = "Authorization"
AUTH_BEARER = "Bearer"
COMPRESSION = "GZIP"
NO_FILTER: Document = {"filterType": "blacklist", "filterList": []}
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

    def of_cluster(self, record: AnySnapshot | RestoreJob) -> str:
        """The address of the cluster that a record is of."""
        return self.cluster(record.group_id, record.cluster_id, record.cluster_name)

    def restore_job(self, job: RestoreJob) -> str:
        return f"{self.of_cluster(job)}/restoreJobs/{job.id}"

    def snapshot(self, snapshot: AnySnapshot) -> str:
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


def present(**fields: Any) -> Document:
    """A document of the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def date_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else iso_date(moment)


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
        "clusterType": "SHARDED" if cluster.kind is ClusterKind.SHARDED else "REPLICASET",
        "mongoDBVersion": cluster.mongod_version,
        "links": self_links(addresses.cluster(cluster.group_id, cluster.id, cluster.name)),
    }


def snapshot_document(
    snapshot: Snapshot, *, addresses: Addresses, is_config_server: bool = False
) -> Document:
    """Contract section 7. A snapshot being taken shows what is known of its part."""
    return present(
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
        expires=None if snapshot.do_not_delete else date_or_none(snapshot.expires),
        incremental=snapshot.parent_id is not None,
        parts=[snapshot_part(snapshot, is_config_server=is_config_server)],
        namespaceFilterList=NO_FILTER if addresses.family is Family.CLOUD else None,
        links=self_links(addresses.snapshot(snapshot)),
    )


def snapshot_part(snapshot: Snapshot, *, is_config_server: bool = False) -> Document:
    """What a snapshot holds of one replica set."""
    sizes: Document = {}
    if snapshot.state is SnapshotState.COMPLETE:
        sizes = {
            "dataSizeBytes": snapshot.data_size_bytes,
            "storageSizeBytes": snapshot.storage_size_bytes,
            "fileSizeBytes": snapshot.file_size_bytes,
        }
    return present(
        typeName="CONFIG_SERVER_REPLICA_SET" if is_config_server else "REPLICA_SET",
        clusterId=snapshot.cluster_id,
        replicaSetName=snapshot.replica_set_name,
        mongodVersion=snapshot.mongod_version or None,
        fcv=snapshot.fcv or None,
        **sizes,
        compressionSetting=COMPRESSION,
        encryptionEnabled=False,
        machineId=snapshot.machine or None,
        replicaState="SECONDARY",
        completedTime=date_or_none(snapshot.completed),
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
    return present(
        id=job.id,
        groupId=job.group_id,
        batchId=job.batch_id,
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
        return present(
            methodName="HTTP",
            statusName=delivery_status.value,
            targetGroupId=job.target_group_id,
            targetClusterId=job.target_cluster_id,
            targetClusterName=job.target_cluster_name,
        )
    delivery = present(
        methodName="HTTP",
        statusName=delivery_status.value,
        expirationHours=job.expiration_hours,
        maxDownloads=job.max_downloads,
        expires=date_or_none(job.expires) if job.status is RestoreStatus.FINISHED else None,
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
