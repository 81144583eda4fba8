"""Wire names of hosts, the mirrored config servers (contract 6.6 and 7). As `wire`, of which it is a part."""

from ebbtide.api.wire import Addresses, Document, iso_date, self_links, snapshot_document
from ebbtide.api.wire_own import own_snapshot_document
from ebbtide.domain.host import Host
from ebbtide.domain.ids import GroupId
from ebbtide.domain.job import Job
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.snapshot import Snapshot

_OF_CLUSTERS = ("clusterId", "clusterName", "replicaSetName")
_OF_CLUSTERS_ALONE = ("parentId", "appliedTimestamp", "doNotDelete", "expires", "scheduledFor", "removed")
_OF_REPLICA_SETS = ("clusterId", "replicaSetName", "compressionSetting", "replicaState")


def host_address(addresses: Addresses, group_id: GroupId, host_id: str) -> str:
    return f"{addresses.group(group_id)}/hosts/{host_id}"


def own_host_address(addresses: Addresses, host: Host) -> str:
    return f"{addresses.own_group(host.group_id)}/hosts/{host.id}"


def host_restore_job_document(
    document: Document, host: Host, job: RestoreJob, *, addresses: Addresses
) -> Document:
    """`document` is the job's as of a cluster."""
    href = f"{host_address(addresses, host.group_id, host.id)}/restoreJobs/{job.id}"
    return {**_without(document, _OF_CLUSTERS), "hostId": host.id, "links": self_links(href)}


def host_snapshot_document(host: Host, snapshot: Snapshot, *, addresses: Addresses) -> Document:
    document = snapshot_document(snapshot, addresses=addresses)
    part = _without(document["parts"][0], _OF_REPLICA_SETS)
    href = f"{host_address(addresses, host.group_id, host.id)}/snapshots/{snapshot.id}"
    return {
        **_without(document, _OF_CLUSTERS),
        "hostId": host.id,
        "parts": [{**part, "typeName": "CONFIG_SERVER", "hostId": host.id}],
        "links": self_links(href),
    }


def own_host_document(
    host: Host, *, last: Snapshot | None, job: Job | None, addresses: Addresses
) -> Document:
    """With its newest snapshot, whatever its state, and the work on that."""
    document: Document = {
        "id": host.id,
        "groupId": host.group_id,
        "address": host.address,
        "state": host.state.value,
        "created": iso_date(host.created),
        "mongodVersion": host.mongod_version,
        "locked": host.lock_job_id is not None,
        "links": self_links(own_host_address(addresses, host)),
    }
    if host.username is not None:
        document["username"] = host.username
    if last is not None:
        document["lastSnapshot"] = own_host_snapshot_document(host, last, job=job, addresses=addresses)
    return document


def own_host_snapshot_document(
    host: Host, snapshot: Snapshot, *, job: Job | None, addresses: Addresses
) -> Document:
    document = own_snapshot_document(snapshot, job=job, addresses=addresses)
    return {
        **_without(document, (*_OF_CLUSTERS, *_OF_CLUSTERS_ALONE)),
        "hostId": host.id,
        "links": self_links(f"{own_host_address(addresses, host)}/snapshots/{snapshot.id}"),
    }


def _without(document: Document, names: tuple[str, ...]) -> Document:
    return {name: value for name, value in document.items() if name not in names}
