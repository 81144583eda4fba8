"""Documents about the oplog archive. Wire names of it are here alone."""

from collections.abc import Iterable
from datetime import datetime

from ebbtide.api.wire import Addresses, Document, bson_timestamp, iso_date, self_links
from ebbtide.domain.archive_state import ArchiveState, lag_at, recorded_ranges
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.oplog import OplogGap
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restorable import RestorableRange


def archive_document(state: ArchiveState, *, now: datetime) -> Document:
    """How far the archive is, for the cluster's own document."""
    lag = lag_at(state, now)
    return {
        "archivedTo": None if state.archived_to is None else bson_timestamp(state.archived_to.timestamp),
        "lagSeconds": None if lag is None else round(lag, 3),
        "source": state.source or None,
        "message": state.message,
        "gaps": len(state.gaps),
    }


def oplog_ranges_document(
    cluster: Cluster,
    *,
    state: ArchiveState | None,
    restorable: Iterable[RestorableRange],
    now: datetime,
    addresses: Addresses,
) -> Document:
    """`archived` are the ranges as they are stored, `restorable` those that a snapshot can be brought to."""
    return {
        "clusterId": cluster.id,
        "clusterName": cluster.name,
        "archive": None if state is None else archive_document(state, now=now),
        "archived": [
            _range(r.first.timestamp, r.last.timestamp)
            for r in (() if state is None else recorded_ranges(state))
        ],
        "restorable": [{**_range(r.first, r.last), "snapshotId": r.snapshot_id} for r in restorable],
        "gaps": [_gap(gap) for gap in (() if state is None else state.gaps)],
        "links": self_links(f"{addresses.own_cluster(cluster.group_id, cluster.name)}/oplogRanges"),
    }


def _range(first: OplogTimestamp, last: OplogTimestamp) -> Document:
    return {"first": _moment(first), "last": _moment(last)}


def _moment(timestamp: OplogTimestamp) -> Document:
    """As `oplogTs` and `oplogInc` of a restore job are given, and as a date."""
    return {**bson_timestamp(timestamp), "oplogTs": timestamp.seconds, "oplogInc": timestamp.increment}


def _gap(gap: OplogGap) -> Document:
    return {
        "after": _moment(gap.after.timestamp),
        "before": _moment(gap.before.timestamp),
        "found": iso_date(gap.found),
        "reason": gap.reason,
    }
