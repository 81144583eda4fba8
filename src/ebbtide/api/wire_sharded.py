"""Wire names of snapshots of sharded clusters (contract section 7). As `wire`, of which it is a part.

A cluster's snapshot is one document with `parts[]`; each part is also a snapshot of its own, under its own cluster. What
is said of the whole in one number is the sum of its parts.
"""

from collections.abc import Iterable, Mapping

from ebbtide.api.families import Family
from ebbtide.api.wire import (
    COMPRESSION,
    NO_FILTER,
    Addresses,
    Document,
    bson_timestamp,
    date_or_none,
    iso_date,
    present,
    self_links,
    snapshot_part,
)
from ebbtide.api.wire_own import job_document
from ebbtide.domain.cluster_snapshot import ClusterSnapshot, PartSnapshot
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.job import Job
from ebbtide.domain.snapshot import Snapshot, SnapshotState

Parts = Mapping[SnapshotId, Snapshot]
"""The parts' own snapshots; one that was not asked for yet is absent."""


def cluster_snapshot_document(whole: ClusterSnapshot, parts: Parts, *, addresses: Addresses) -> Document:
    """The snapshot as the hosted services list it. It restores to the latest consistent point at or before its time."""
    is_cloud = addresses.family is Family.CLOUD
    return present(
        id=whole.id,
        groupId=whole.group_id,
        clusterId=whole.cluster_id,
        clusterName=whole.cluster_name,
        complete=whole.state is SnapshotState.COMPLETE,
        created={"date": iso_date(whole.created), "increment": 1},
        lastOplogAppliedTimestamp=_cluster_time(whole),
        doNotDelete=whole.do_not_delete,
        expires=None if whole.do_not_delete else date_or_none(whole.expires),
        incremental=_is_incremental(whole, parts),
        isPossiblyInconsistent=whole.is_possibly_inconsistent if is_cloud else None,
        missingShards=[] if is_cloud else None,
        parts=[_part(part, parts.get(part.snapshot_id)) for part in whole.parts],
        namespaceFilterList=NO_FILTER if is_cloud else None,
        links=self_links(addresses.snapshot(whole)),
    )


def own_cluster_snapshot_document(
    whole: ClusterSnapshot, parts: Parts, *, jobs: Mapping[str, Job], addresses: Addresses
) -> Document:
    """The snapshot with the work on it; `jobs` by the id of the snapshot that they take, the whole's own too."""
    found = [parts[part.snapshot_id] for part in whole.parts if part.snapshot_id in parts]
    removed = [part.removed for part in found if part.removed is not None]
    return present(
        id=whole.id,
        groupId=whole.group_id,
        clusterId=whole.cluster_id,
        clusterName=whole.cluster_name,
        state=whole.state.value,
        created=iso_date(whole.created),
        completed=date_or_none(whole.completed),
        stableTimestamp=_cluster_time(whole),
        isPossiblyInconsistent=whole.is_possibly_inconsistent,
        parts=[_own_part(part, parts.get(part.snapshot_id), jobs) for part in whole.parts],
        mongodVersion=_first(part.mongod_version for part in found),
        fcv=_first(part.fcv for part in found),
        fileSizeBytes=sum(part.file_size_bytes for part in found),
        storedBytes=sum(part.stored_bytes for part in found),
        newStoredBytes=sum(part.new_stored_bytes for part in found),
        lockSeconds=max((part.lock_seconds for part in found if part.lock_seconds is not None), default=None),
        doNotDelete=whole.do_not_delete,
        expires=date_or_none(whole.expires),
        scheduledFor=date_or_none(whole.scheduled_for),
        deleted=date_or_none(whole.deleted),
        pruneAfter=date_or_none(whole.prune_after),
        removed=date_or_none(min(removed, default=None)),
        error=whole.message or None,
        job=_job(jobs.get(whole.id)),
        links=self_links(addresses.own_snapshot(whole.group_id, whole.cluster_name, whole.id)),
    )


def _part(part: PartSnapshot, snapshot: Snapshot | None) -> Document:
    if snapshot is not None:
        return snapshot_part(snapshot, is_config_server=part.is_config_server)
    return {
        "typeName": _type_name(part),
        "clusterId": part.cluster_id,
        "replicaSetName": part.replica_set_name,
        "compressionSetting": COMPRESSION,
        "encryptionEnabled": False,
        "replicaState": "SECONDARY",
    }


def _own_part(part: PartSnapshot, snapshot: Snapshot | None, jobs: Mapping[str, Job]) -> Document:
    return present(
        typeName=_type_name(part),
        clusterId=part.cluster_id,
        snapshotId=part.snapshot_id,
        shardName=part.shard_name,
        replicaSetName=part.replica_set_name,
        state=None if snapshot is None else snapshot.state.value,
        completed=None if snapshot is None else date_or_none(snapshot.completed),
        fileSizeBytes=None if snapshot is None else snapshot.file_size_bytes,
        newStoredBytes=None if snapshot is None else snapshot.new_stored_bytes,
        error=None if snapshot is None else snapshot.error or None,
        job=_job(jobs.get(part.snapshot_id)),
    )


def _type_name(part: PartSnapshot) -> str:
    return "CONFIG_SERVER_REPLICA_SET" if part.is_config_server else "REPLICA_SET"


def _is_incremental(whole: ClusterSnapshot, parts: Parts) -> bool:
    """Whether every part is built upon another one."""
    found = [parts.get(part.snapshot_id) for part in whole.parts]
    return bool(found) and all(part is not None and part.parent_id is not None for part in found)


def _cluster_time(whole: ClusterSnapshot) -> Document | None:
    return None if whole.cluster_time is None else bson_timestamp(whole.cluster_time)


def _job(job: Job | None) -> Document | None:
    return None if job is None else job_document(job)


def _first(values: Iterable[str]) -> str:
    return next((value for value in values if value), "")
