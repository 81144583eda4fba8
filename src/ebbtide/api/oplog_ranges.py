"""Ebbtide's own API: what the oplog archive of a cluster holds, and which moments can be restored."""

from ebbtide.api.operations import Call, Operation, Scope
from ebbtide.api.responses import Answer
from ebbtide.api.wire_oplog import oplog_ranges_document
from ebbtide.backup.restorable import restorable_ranges


def get_oplog_ranges(call: Call) -> Answer:
    """Ranges of the archive, restorable ranges, gaps and lag. Of a cluster without an archive: nothing of all that."""
    catalog = call.context.catalog
    return Answer(
        document=oplog_ranges_document(
            call.cluster,
            state=catalog.archives.find(call.cluster.id),
            restorable=restorable_ranges(call.cluster, catalog=catalog, now=call.now),
            now=call.now,
            addresses=call.addresses,
        )
    )


OPERATIONS = (
    Operation(
        name="getOplogRanges",
        method="GET",
        path="/api/ebbtide/v1/groups/{groupId}/clusters/{clusterName}/oplogRanges",
        handler=get_oplog_ranges,
        scope=Scope.CLUSTER,
    ),
)
