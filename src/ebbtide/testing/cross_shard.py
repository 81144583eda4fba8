"""A transaction over several shards of a `ShardedLab`, committed by a coordinator or, step by step, by hand.

By hand means what a coordinator does: prepare on every shard, take the highest prepare timestamp for the
commit, and tell every shard. Nothing of it is written to `config.transaction_coordinators`, so a transaction
that is left prepared stays so, over restarts too, until somebody decides it.

Statements carry the shard version that a router would send: a shard that gave the range away refuses them,
waits out a migration's critical section, and leaves orphans out.

One thread at a time uses a transaction or a `ShardConnections`.
"""

import uuid
from typing import Any

from bson import Binary, Int64, Timestamp
from pymongo.errors import OperationFailure

from ebbtide.errors import Refused
from ebbtide.testing.lab import WAIT_SECONDS
from ebbtide.testing.op_msg import OpMsgConnection
from ebbtide.testing.sharded_lab import CONFIG, MAJORITY, ShardedLab

Document = dict[str, Any]

_UNKNOWN_TRANSACTION = 251


class ShardConnections:
    """A connection to each shard's primary, opened when first used, and the highest cluster time seen."""

    def __init__(self, lab: ShardedLab) -> None:
        self.lab = lab
        self._open: dict[str, OpMsgConnection] = {}
        self._cluster_time: Document | None = None

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def command(self, shard: str, database: str, command: Document) -> Document:
        """Raises OperationFailure; OSError for a connection that broke, which the next command reopens."""
        if self._cluster_time is not None:
            command = {**command, "$clusterTime": self._cluster_time}
        try:
            reply = self._connection(shard).command(database, command)
        except OperationFailure as error:
            self._remember(dict(error.details or {}))
            raise
        except OSError:
            self._open.pop(shard).close()
            raise
        self._remember(reply)
        return reply

    def _connection(self, shard: str) -> OpMsgConnection:
        if shard not in self._open:
            address = self.lab.shards[shard].primary().address
            connection = OpMsgConnection(address, timeout_seconds=WAIT_SECONDS)
            self._open[shard] = connection
            connection.log_in("__system", self.lab.config.keyfile_text or "", database="local")
        return self._open[shard]

    def _remember(self, reply: Document) -> None:
        told = reply.get("$clusterTime")
        known = self._cluster_time
        if told is not None and (known is None or told["clusterTime"] > known["clusterTime"]):
            self._cluster_time = told


class CrossShardTransaction:
    """Statements on shards, then `commit_by_coordinator`, or `prepare` and `commit_prepared` or `abort`.

    The shard of the first statement is the coordinator's.
    """

    def __init__(self, connections: ShardConnections) -> None:
        self.shards: list[str] = []
        self.commit_timestamp: Timestamp | None = None
        self._connections = connections
        self._lsid = {"id": Binary.from_uuid(uuid.uuid4())}
        self._session = {"lsid": self._lsid, "txnNumber": Int64(1), "autocommit": False}

    @property
    def lsid(self) -> uuid.UUID:
        return self._lsid["id"].as_uuid()

    def execute(self, shard: str, database: str, command: Document) -> Document:
        """A statement on a shard. Raises OperationFailure."""
        fields = dict(self._session)
        if shard not in self.shards:
            fields["startTransaction"] = True
            if not self.shards:
                fields["coordinator"] = True
            self.shards.append(shard)
        return self._connections.command(shard, database, {**command, **fields})

    def commit_by_coordinator(self) -> None:
        """Commit on all shards. Raises OperationFailure if the transaction was aborted instead."""
        command = {
            "coordinateCommitTransaction": 1,
            "participants": [{"shardId": shard} for shard in self.shards],
            "writeConcern": MAJORITY,
        }
        self._connections.command(self.shards[0], "admin", {**command, **self._session})

    def prepare(self) -> Timestamp:
        """Prepare on all shards; the timestamp that it can be committed at."""
        prepare = {"prepareTransaction": 1}
        replies = [self._decide(shard, prepare) for shard in self.shards]
        highest: Timestamp = max(reply["prepareTimestamp"] for reply in replies)
        self.commit_timestamp = highest
        return highest

    def commit_prepared(self, shard: str) -> None:
        """Commit on one shard what is prepared on all. Raises Refused before `prepare`."""
        if self.commit_timestamp is None:
            raise Refused("a transaction that is not prepared has no commit timestamp", hint="prepare it")
        self._decide(shard, {"commitTransaction": 1, "commitTimestamp": self.commit_timestamp})

    def abort(self) -> None:
        """Abort on all shards; harmless on one where the transaction is gone already."""
        for shard in self.shards:
            try:
                self._decide(shard, {"abortTransaction": 1})
            except OperationFailure as error:
                if error.code != _UNKNOWN_TRANSACTION:
                    raise

    def _decide(self, shard: str, command: Document) -> Document:
        return self._connections.command(
            shard, "admin", {**command, "writeConcern": MAJORITY, **self._session}
        )


def shard_versions(lab: ShardedLab, namespace: str) -> dict[str, Document]:
    """The version of a sharded collection on each shard that owns a chunk, as a router sends it (6.0)."""
    entry = lab.collection_entry(namespace)
    chunks = lab.admin_client(CONFIG).config.chunks.find({"uuid": entry["uuid"]}).sort("lastmod")
    latest = {chunk["shard"]: chunk["lastmod"] for chunk in chunks}
    return {
        shard: {"t": entry["timestamp"], "e": entry["lastmodEpoch"], "v": lastmod}
        for shard, lastmod in latest.items()
    }
