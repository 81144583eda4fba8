"""Which moments of a cluster can be restored, in the words of Ops Manager: a bare array, oldest first (contract section 10)."""

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call
from ebbtide.api.responses import Answer
from ebbtide.api.wire import bson_timestamp
from ebbtide.backup.restorable import restorable_ranges
from ebbtide.domain.cluster import ClusterKind


def list_restorable_time_ranges(call: Call) -> Answer:
    """Every stretch of time that a snapshot can be brought to. Asked for by POST, and changes nothing."""
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)
    of_sharded = {}
    if call.cluster.kind is ClusterKind.SHARDED:
        parts = call.context.catalog.clusters.list_parts(call.cluster.id)
        of_sharded = {"shardCount": len(parts) - 1, "configServerType": "REPLICA_SET"}
    ranges = restorable_ranges(call.cluster, catalog=call.context.catalog, now=call.now)
    return Answer(
        document=[
            {
                "start": bson_timestamp(found.first),
                "end": bson_timestamp(found.last),
                "snapshotId": found.snapshot_id,
                **of_sharded,
            }
            for found in ranges
        ]
    )
