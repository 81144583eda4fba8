"""Which moments of a cluster can be restored, in the words of Ops Manager: a bare array, oldest first (contract section 10)."""

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call
from ebbtide.api.responses import Answer
from ebbtide.api.wire import bson_timestamp
from ebbtide.backup.restorable import restorable_ranges


def list_restorable_time_ranges(call: Call) -> Answer:
    """Every stretch of time that a snapshot can be brought to. Asked for by POST, and changes nothing."""
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)
    ranges = restorable_ranges(call.cluster, catalog=call.context.catalog, now=call.now)
    return Answer(
        document=[
            {
                "start": bson_timestamp(found.first),
                "end": bson_timestamp(found.last),
                "snapshotId": found.snapshot_id,
            }
            for found in ranges
        ]
    )
