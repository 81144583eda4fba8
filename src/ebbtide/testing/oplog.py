"""Comparing an oplog archive with the oplog that it was made of, entry by entry; and made-up entries to archive."""

from collections.abc import Iterable
from typing import cast

import bson
from blake3 import blake3
from bson import Timestamp

from ebbtide.backup.archive_wait import newest_committed, wait_until_archived
from ebbtide.backup.context import BackupContext
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.oplog import OplogRange
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.entries import entry_starts, optime_at
from ebbtide.repository.repository import never_cancelled
from ebbtide.testing.lab import ReplicaSetLab

Fingerprint = tuple[OplogTimestamp, str]

ARCHIVE_SECONDS = 120.0
"""How long an archive is waited for; far more than it takes, on a busy machine too."""


def fingerprints(raw: bytes) -> list[Fingerprint]:
    """The timestamp and the hash of each entry."""
    starts = entry_starts(raw)
    ends = [*starts[1:], len(raw)]
    return [
        (optime_at(raw, start).timestamp, blake3(raw[start:end]).hexdigest())
        for start, end in zip(starts, ends, strict=True)
    ]


def archived_between(archive: OplogArchive, covered: OplogRange) -> list[Fingerprint]:
    """The archived entries beyond the first of a range."""
    batches = archive.iter_batches(after=covered.first.timestamp, through=covered.last.timestamp)
    return [found for batch in batches for found in fingerprints(batch.raw)]


def set_between(lab: ReplicaSetLab, covered: OplogRange) -> list[Fingerprint]:
    """The set's own entries beyond the first of a range.

    Of all members together: after its initial sync a member's oplog begins with that, and not with the set.
    """
    bounds = {"$gt": covered.first.timestamp.to_bson(), "$lte": covered.last.timestamp.to_bson()}
    found: set[Fingerprint] = set()
    for member in lab.members:
        with lab.member_client(member.index) as client:
            batches = cast(Iterable[bytes], client.local["oplog.rs"].find_raw_batches({"ts": bounds}))
            found |= {entry for batch in batches for entry in fingerprints(batch)}
    return sorted(found)


def make_entry(seconds: int, increment: int = 1, *, term: int = 1, payload: bytes = b"") -> bytes:
    """A no-op, as an entry of an oplog."""
    return bson.encode(
        {
            "op": "n",
            "ns": "",
            "o": {"payload": payload},
            "ts": Timestamp(seconds, increment),
            "t": term,
            "v": 2,
        }
    )


def make_optime(seconds: int, increment: int = 1, *, term: int = 1) -> OpTime:
    return OpTime(OplogTimestamp(seconds, increment), term)


def archive_of(context: BackupContext, cluster: Cluster) -> OplogArchive:
    return OplogArchive(context.repository.replica_set(cluster.id, cluster.replica_set_name))


def archive_now(context: BackupContext, cluster: Cluster) -> OpTime:
    """Have everything archived that the set has now; the newest archived entry then. Needs a worker."""
    wanted = newest_committed(context.access(cluster))
    return wait_until_archived(
        context.catalog,
        cluster.id,
        wanted.timestamp,
        clock=context.clock,
        check=never_cancelled,
        seconds=ARCHIVE_SECONDS,
    )


def differing_history(context: BackupContext, cluster: Cluster, lab: ReplicaSetLab) -> list[Fingerprint]:
    """Have everything archived, and compare the newest range with the set's own oplog: what only one of them has.

    Raises ValueError where an entry is there twice.
    """
    newest = archive_now(context, cluster)
    archive = archive_of(context, cluster)
    covered = archive.ranges()[-1]
    lab.wait_until_replicated()
    theirs = set_between(lab, covered)
    ours = archived_between(archive, covered)
    if len(set(ours)) != len(ours) or covered.last < newest:
        raise ValueError("the archive holds an entry twice, or lacks the newest one")
    return sorted(set(theirs) ^ set(ours))
