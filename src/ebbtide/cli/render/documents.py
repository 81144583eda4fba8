"""The API's documents as rows of text. Pure; a field that is not there becomes an empty cell."""

from collections.abc import Mapping, Sequence
from typing import Any

from ebbtide.cli.render.quantities import human_bytes, human_seconds, human_share

Document = Mapping[str, Any]
Fields = list[tuple[str, str]]

CLUSTER_HEADERS = ("NAME", "ID", "STATE", "HEAD", "LAG", "LAST SNAPSHOT", "STORED")
SNAPSHOT_HEADERS = ("ID", "CREATED", "STATE", "RESTORES TO", "DATA", "STORED", "NEW")
DELETED_HEADERS = ("ID", "CREATED", "DELETED", "CAN COME BACK UNTIL", "RESTORES TO", "DATA")
RESTORE_HEADERS = ("ID", "CREATED", "STATUS", "DELIVERY", "SNAPSHOT", "EXPIRES")
EVENT_HEADERS = ("TIME", "LEVEL", "KIND", "MESSAGE", "BY")
KEY_HEADERS = ("PUBLIC KEY", "OWNER", "DESCRIPTION", "ROLES", "ALLOWED FROM", "ENDS")
ACCOUNT_HEADERS = ("CLIENT ID", "NAME", "ROLES", "ALLOWED FROM", "SECRETS UNTIL")


def cell(value: object) -> str:
    return "" if value is None else str(value)


def size(value: object) -> str:
    return human_bytes(value) if isinstance(value, int | float) else ""


def seconds(value: object) -> str:
    return human_seconds(value) if isinstance(value, int | float) else ""


def bson_time(value: object) -> str:
    """`2024-05-01T10:00:00Z, 3`: the second and the increment in it."""
    return f"{value.get('date')}, {value.get('increment')}" if isinstance(value, Mapping) else ""


def heads_in_short(parts: Sequence[Document]) -> str:
    """How many heads of a sharded cluster's parts follow, and what the others do."""
    states = {str(part.get("name")): str((part.get("head") or {}).get("state", "none")) for part in parts}
    others = [f"{name}: {state}" for name, state in states.items() if state != "FOLLOWING"]
    shown = f"{len(states) - len(others)} of {len(states)} heads follow"
    return shown + (f" ({', '.join(others)})" if others else "")


def cluster_row(cluster: Document) -> Sequence[str]:
    head, last = cluster.get("head") or {}, cluster.get("lastSnapshot") or {}
    parts = cluster.get("parts")
    return (
        # A part stands below its sharded cluster: their names begin alike.
        ("  " if cluster.get("partOf") else "") + cell(cluster.get("name")),
        cell(cluster.get("id")),
        cell(cluster.get("state")),
        heads_in_short(parts) if parts else cell(head.get("state")),
        seconds(head.get("lagSeconds")),
        cell(last.get("completed") or last.get("created")),
        size(last.get("storedBytes")),
    )


def cluster_fields(cluster: Document) -> Fields:
    head, last = cluster.get("head") or {}, cluster.get("lastSnapshot") or {}
    fields = [
        ("cluster", f"{cell(cluster.get('name'))} ({cell(cluster.get('id'))})"),
        *_what_it_is(cluster),
        ("version", _version(cluster)),
        *([("mongod", cell(cluster["mongod"]))] if cluster.get("mongod") else []),
        ("state", cell(cluster.get("state")) + (", paused" if cluster.get("paused") else "")),
        *([("snapshots wait", cell(cluster["snapshotsWaitFor"]))] if cluster.get("snapshotsWaitFor") else []),
        ("registered", cell(cluster.get("created"))),
        *([("restore target", _restore_target(cluster))] if cluster.get("restoreTarget") else []),
        *_part_fields(cluster.get("parts")),
    ]
    if not cluster.get("parts"):
        fields.append(
            ("head", f"{cell(head.get('state'))} since {cell(head.get('stateSince'))}" if head else "none")
        )
    if head:
        restarts = head.get("restarts") or 0
        fields += [
            ("head address", f"{cell(head.get('host'))}:{cell(head.get('port'))}"),
            ("head lag", seconds(head.get("lagSeconds"))),
            ("head restarts", cell(restarts) if restarts else ""),
            ("head says", cell(head.get("message"))),
        ]
    archive = cluster.get("archive") or {}
    if archive:
        fields += [
            ("oplog archive", f"up to {bson_time(archive.get('archivedTo')) or 'nothing yet'}"),
            ("archive lag", seconds(archive.get("lagSeconds"))),
            *([("archive gaps", cell(archive["gaps"]))] if archive.get("gaps") else []),
            ("archive says", cell(archive.get("message"))),
        ]
    tls = cluster.get("tls") or {}
    if tls:
        fields.append(
            ("certificate", f"good until {cell(tls.get('certificateExpires'))} ({cell(tls.get('mode'))})")
        )
    if last:
        fields.append(("last snapshot", f"{cell(last.get('id'))} of {cell(last.get('created'))}"))
        # Of a sharded cluster the snapshot itself tells.
        if last.get("storedBytes") is not None:
            fields.append(
                ("  stored", f"{size(last.get('storedBytes'))}, new: {size(last.get('newStoredBytes'))}")
            )
    else:
        fields.append(("last snapshot", "none"))
    return fields


def _what_it_is(cluster: Document) -> Fields:
    if cluster.get("kind") == "SHARDED":
        return [("sharded cluster", f"{len(cluster.get('parts') or ()) - 1} shards and a config server")]
    fields = [("replica set", cell(cluster.get("replicaSetName")))]
    if cluster.get("partOf"):
        role = "the config server" if cluster.get("configServer") else f"the shard {cluster.get('shardName')}"
        fields.append(("part", f"{role} of {cluster['partOf']}"))
    return fields


def _part_fields(parts: Sequence[Document] | None) -> Fields:
    """A line for each part of a sharded cluster: its name, and what its head does."""
    if not parts:
        return []
    fields = [("heads", heads_in_short(parts))]
    for part in parts:
        head = part.get("head") or {}
        address = f" at {head.get('host')}:{head.get('port')}" if head else ""
        lag = f", {seconds(head.get('lagSeconds'))} behind" if head.get("lagSeconds") is not None else ""
        fields.append((f"  {part.get('name')}", f"{cell(head.get('state')) or 'no head yet'}{address}{lag}"))
    return fields


def _restore_target(cluster: Document) -> str:
    user = cluster.get("restoreUsername")
    return "yes" + (f", restores write as {user}" if user else "")


def snapshot_row(snapshot: Document) -> Sequence[str]:
    complete = snapshot.get("state") == "COMPLETE"
    return (
        cell(snapshot.get("id")),
        cell(snapshot.get("created")),
        cell(snapshot.get("state")),
        bson_time(snapshot.get("stableTimestamp")),
        size(snapshot.get("fileSizeBytes")) if complete else "",
        size(snapshot.get("storedBytes")) if complete else "",
        size(snapshot.get("newStoredBytes")) if complete else "",
    )


def deleted_row(snapshot: Document) -> Sequence[str]:
    is_gone = snapshot.get("removed") is not None
    return (
        cell(snapshot.get("id")),
        cell(snapshot.get("created")),
        cell(snapshot.get("deleted")),
        "gone" if is_gone else cell(snapshot.get("pruneAfter")),
        bson_time(snapshot.get("stableTimestamp")),
        size(snapshot.get("fileSizeBytes")),
    )


def kept_until(snapshot: Document) -> str:
    """`kept until 2024-05-03T11:00:00Z`, as part of a sentence."""
    if snapshot.get("doNotDelete"):
        return "kept until further notice"
    expires = snapshot.get("expires")
    return f"kept until {expires}" if expires else "kept as the schedule says"


def snapshot_fields(snapshot: Document) -> Fields:
    fields = [
        ("snapshot", cell(snapshot.get("id"))),
        ("cluster", f"{cell(snapshot.get('clusterName'))} ({cell(snapshot.get('clusterId'))})"),
        ("replica set", cell(snapshot.get("replicaSetName"))),
        ("version", _version(snapshot)),
        ("state", cell(snapshot.get("state"))),
        ("error", cell(snapshot.get("error"))),
        ("created", cell(snapshot.get("created"))),
        ("completed", cell(snapshot.get("completed"))),
        ("restores to", bson_time(snapshot.get("stableTimestamp"))),
        ("parent", cell(snapshot.get("parentId"))),
    ]
    if "parts" in snapshot:
        fields = _of_sharded(fields, snapshot)
    if snapshot.get("clusterSnapshotId"):
        fields.append(("part of", f"snapshot {cell(snapshot['clusterSnapshotId'])} of its sharded cluster"))
    if snapshot.get("state") == "DELETED":
        fields.append(("deleted", cell(snapshot.get("deleted"))))
        is_gone = snapshot.get("removed") is not None
        fields.append(("can come back", "no" if is_gone else f"until {cell(snapshot.get('pruneAfter'))}"))
    if snapshot.get("state") == "COMPLETE":
        fields.append(("kept", kept_until(snapshot).removeprefix("kept ")))
        fields += [
            ("data files", size(snapshot.get("fileSizeBytes"))),
            ("stored", size(snapshot.get("storedBytes"))),
            ("newly stored", newly_stored(snapshot)),
            ("head locked", seconds(snapshot.get("lockSeconds"))),
        ]
    return fields


def _of_sharded(fields: Fields, snapshot: Document) -> Fields:
    """Of all parts together: no set's name and no parent, and a line for each part."""
    point = bson_time(snapshot.get("stableTimestamp"))
    kept = [field for field in fields if field[0] not in ("replica set", "parent", "restores to")]
    chunks = "may have moved while parts were taken" if snapshot.get("isPossiblyInconsistent") else "rested"
    return [
        *kept,
        ("restores to", f"the latest consistent point at or before {point}" if point else ""),
        ("chunks", chunks),
        *((f"part {part_name(part)}", _part(part)) for part in snapshot["parts"]),
    ]


def part_name(part: Document) -> str:
    return cell(part.get("shardName") or "config server")


def _part(part: Document) -> str:
    job = part.get("job") or {}
    said = [cell(part.get("state") or "not begun"), f"snapshot {cell(part.get('snapshotId'))}"]
    if part.get("state") == "COMPLETE":
        said.append(size(part.get("fileSizeBytes")))
    elif part.get("error") or job.get("error"):
        said.append(cell(part.get("error") or job.get("error")))
    elif job.get("step"):
        said.append(cell(job["step"]))
    return ", ".join(said)


def newly_stored(snapshot: Document) -> str:
    """`1.2 MB (0.3 % of the data files)`: what this snapshot added to the repository."""
    new, data = snapshot.get("newStoredBytes"), snapshot.get("fileSizeBytes")
    if not isinstance(new, int):
        return ""
    share = human_share(new, data) if isinstance(data, int) else ""
    return human_bytes(new) + (f" ({share} of the data files)" if share else "")


def restore_row(job: Document) -> Sequence[str]:
    delivery = job.get("delivery") or {}
    return (
        cell(job.get("id")),
        cell(job.get("created")),
        cell(job.get("statusName")),
        cell(delivery.get("statusName")),
        cell(job.get("snapshotId")),
        cell(delivery.get("expires")),
    )


def restore_fields(job: Document, progress: Document) -> Fields:
    """`job` as the restore-jobs API shows it, `progress` as Ebbtide's own does."""
    delivery = job.get("delivery") or {}
    automated = progress.get("automated") or {}
    used = (
        ""
        if automated
        else f"{cell(progress.get('completedDownloads'))} of {cell(delivery.get('maxDownloads'))}"
    )
    return [
        ("restore job", cell(job.get("id"))),
        ("cluster", f"{cell(job.get('clusterName'))} ({cell(job.get('clusterId'))})"),
        ("snapshot", cell(job.get("snapshotId"))),
        ("restores to", bson_time(job.get("timestamp"))),
        ("created", cell(job.get("created"))),
        ("status", cell(job.get("statusName"))),
        ("delivery", cell(delivery.get("statusName"))),
        ("reason", cell(progress.get("reason"))),
        ("into", cell(automated.get("targetClusterName"))),
        ("target", cell(automated.get("targetSays"))),
        ("undo point", bson_time(automated.get("undoPoint"))),
        ("kept until", cell(automated.get("undoUntil"))),
        ("compared", _compared(automated.get("comparison"))),
        ("written by others", ", ".join(automated.get("foreignWrites") or [])),
        ("file", cell(progress.get("fileName"))),
        ("size", size(progress.get("archiveBytes"))),
        ("expires", cell(delivery.get("expires"))),
        ("downloads", used),
        ("SHA-1", cell(archive_sha1(job))),
    ]


def _compared(comparison: object) -> str:
    """`12 collections, 3400 documents; no difference`, or every difference."""
    if not isinstance(comparison, Mapping):
        return ""
    differences = "; ".join(comparison.get("differences") or []) or "no difference"
    how = ", by count alone" if comparison.get("digestSkipped") else ""
    return f"{comparison.get('collections')} collections, {comparison.get('documents')} documents{how}; {differences}"


def archive_sha1(job: Document) -> str | None:
    """The SHA-1 that the job tells, in lower case; None while it tells none."""
    for entry in job.get("hashes") or []:
        value = entry.get("hash")
        if entry.get("typeName") == "SHA1" and isinstance(value, str):
            return value.lower()
    return None


def without_link(job: Document) -> dict[str, Any]:
    """A restore job without what would let its reader download: safe in logs and tickets."""
    shown = dict(job)
    delivery = job.get("delivery")
    if isinstance(delivery, Mapping):
        shown["delivery"] = {key: value for key, value in delivery.items() if key not in ("url", "authValue")}
    return shown


def event_row(event: Document) -> Sequence[str]:
    return tuple(cell(event.get(name)) for name in ("time", "level", "kind", "message", "actor"))


def key_row(key: Document) -> Sequence[str]:
    return (
        cell(key.get("publicKey")),
        "yes" if key.get("owner") else "no",
        cell(key.get("description")),
        roles_of(key),
        addresses_of(key),
        cell(key.get("expires")) or "never",
    )


def account_row(account: Document) -> Sequence[str]:
    expiries = [cell(secret.get("expiresAt")) for secret in account.get("secrets") or []]
    return (
        cell(account.get("clientId")),
        cell(account.get("name")),
        roles_of(account),
        addresses_of(account),
        ", ".join(expiries) or "no secret",
    )


def roles_of(caller: Document) -> str:
    """The roles of a key or a service account; of those in a project with its id."""
    grants = caller.get("grants") or []
    return ", ".join(f"{cell(g.get('role'))} {cell(g.get('groupId'))}".rstrip() for g in grants)


def addresses_of(caller: Document) -> str:
    """From where a key or a service account may be used."""
    return ", ".join(address_of(entry) for entry in caller.get("accessList") or []) or "anywhere"


def address_of(entry: Document) -> str:
    return cell(entry.get("ipAddress") or entry.get("cidrBlock"))


def _version(document: Document) -> str:
    version, fcv = cell(document.get("mongodVersion")), cell(document.get("fcv"))
    return f"{version} (FCV {fcv})" if version and fcv else version
