"""Waiting until the oplog archive holds everything up to a moment, and finding out what "now" is for a set."""

from collections.abc import Callable

from pymongo import MongoClient, ReadPreference

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock, SystemClock
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.errors import EbbtideError, Unreachable
from ebbtide.mongod.deployment import DeploymentError, Document, run_admin

LOOK_SECONDS = 0.25
COMMIT_SECONDS = 30.0
"""So long a note may take to reach a majority of the set."""

NOTE = {"ebbtide": "so that there is an entry at this moment"}


class ArchiveBehind(EbbtideError):
    """The oplog archive is not as far as it is needed. Nothing is wrong with what it holds."""

    exit_code = 10
    retryable = True


def wait_until_archived(
    catalog: Catalog,
    cluster_id: ClusterId,
    timestamp: OplogTimestamp,
    *,
    clock: Clock,
    check: Callable[[], None],
    seconds: float,
) -> OpTime:
    """Have everything up to `timestamp` archived; the archive's newest entry then, at or beyond `timestamp`.

    There must be an entry at or beyond it, or come one: `newest_committed` makes one. `check` is called now and then and
    may raise. Raises ArchiveBehind after `seconds`, or at once where the cluster has no archive.
    """
    deadline = clock.monotonic() + seconds
    if not catalog.archives.want(cluster_id, timestamp):
        raise ArchiveBehind(
            "this cluster's oplog is not archived yet",
            hint="wait until its head follows: ebbtide clusters show",
        )
    while True:
        check()
        state = catalog.archives.find(cluster_id)
        archived_to = None if state is None else state.archived_to
        if archived_to is not None and archived_to.timestamp >= timestamp:
            return archived_to
        if clock.monotonic() > deadline:
            trouble = f": {state.message}" if state is not None and state.message else ""
            raise ArchiveBehind(
                f"the oplog archive ends at {archived_to}, and {timestamp} was waited for {seconds:.0f} s{trouble}",
                hint="see `ebbtide clusters show`; a worker must run, and a member of the set be reachable",
            )
        clock.sleep(LOOK_SECONDS)


def newest_committed(access: ClusterAccess, *, clock: Clock | None = None) -> OpTime:
    """The newest entry that a majority of the set holds.

    Where there is a primary, an entry is written first (a note, which changes no data), so that what was written before
    this call lies at or before the answer. Raises Unreachable, DeploymentError.
    """
    clock = clock or SystemClock()
    client = access.set_client()
    try:
        try:
            reply = run_admin(client, "appendOplogNote", data=NOTE)
        except (Unreachable, DeploymentError):
            # Without a primary nothing more is written, so what is committed is all that there will be.
            return _committed(client)
        noted = OplogTimestamp.from_bson(reply["operationTime"])
        deadline = clock.monotonic() + COMMIT_SECONDS
        while (committed := _committed(client)).timestamp < noted:
            if clock.monotonic() > deadline:
                raise Unreachable("a majority of the set does not confirm what is written")
            clock.sleep(LOOK_SECONDS / 5)
        return committed
    finally:
        client.close()


def _committed(client: MongoClient[Document]) -> OpTime:
    hello = run_admin(client, "hello", read_preference=ReadPreference.PRIMARY_PREFERRED)
    found = hello.get("lastWrite", {}).get("majorityOpTime")
    if found is None:
        raise Unreachable("the member that answers has nothing that a majority confirmed")
    return OpTime.from_entry(found)
