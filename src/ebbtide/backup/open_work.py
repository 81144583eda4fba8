"""Carrying open work along the archive of one part of a sharded cluster.

Where the archive begins, the part itself is asked once, at any moment after that: what is open now and was not begun in
the archive was open at its beginning. From there on the entries tell. Every chain has a record at its beginning, and
more further on, each some minutes of the oplog after the one before; a trim first stores one at its new beginning.

Invariant: a slice goes only once a record of the moment right before what stays is stored.
Crash: a record that nothing needs yet, or one that is not stored yet; the next run goes on.
"""

from collections.abc import Callable
from typing import Any

from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.read_concern import ReadConcern

from ebbtide.backup.archive_wait import NOTE, wait_until_archived
from ebbtide.backup.context import BackupContext
from ebbtide.backup.head_connection import ClusterAccess, member_login
from ebbtide.crash_points import reach
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.consistent_point import ClusterOperation, OpenWork, Participants, PartTransaction
from ebbtide.domain.open_work import newest_record, opening_work
from ebbtide.domain.oplog import Chain, chains
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import Unreachable
from ebbtide.mongod.deployment import connect_to_set, run_admin, translated_errors
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.open_work import OpenWorkStore
from ebbtide.oplog.transactions import (
    COORDINATORS,
    OPERATIONS,
    HistoryReader,
    operation_name,
    read_history,
    transaction_id,
)

Document = dict[str, Any]

CARRY_SECONDS = 600
"""So much of the oplog, by its own time, lies between two records: what a late window costs to read at most."""

ARCHIVED_SECONDS = 60.0
ANSWER_MILLIS = 10_000

_NOTE_CONCERN = {"w": "majority", "wtimeout": 30_000}
_TRANSACTIONS = "config.transactions"


def part_name(cluster: Cluster) -> str:
    """As coordinators name the part; the config server's is of no matter."""
    return cluster.shard_name or "config"


class OpenWorkCarry:
    """For the archive of one part. One thread uses it."""

    def __init__(
        self, cluster: Cluster, archive: OplogArchive, context: BackupContext, *, check: Callable[[], None]
    ) -> None:
        """`check` is called now and then and may raise."""
        self._cluster = cluster
        self._archive = archive
        self._context = context
        self._check = check
        self._records = OpenWorkStore(archive.store)

    def keep(self) -> None:
        """Have a record where the newest chain begins, and another one once enough follows; drop what none needs.

        Raises Unreachable, DeploymentError, ArchiveBehind where the part, or its archive, is not ready for that.
        """
        found = chains(self._archive.slices())
        if not found:
            return
        for at in self._records.moments():
            if at < found[0].starts_after:
                self._records.delete(at)
        newest = found[-1]
        end = newest.range.last.timestamp
        last = self._record_before(newest, end)
        if last is None:
            self._store(newest.starts_after, self._ask_opening(newest.starts_after))
        elif end.seconds - last.seconds >= CARRY_SECONDS:
            self.carry_to(end)

    def carry_to(self, border: OplogTimestamp) -> bool:
        """Have a record at `border`; whether there is one now.

        There is none where the border's chain has no earlier one, or where it would cut through a transaction that
        begins or ends an operation.
        """
        chain = _chain_at(chains(self._archive.slices()), border)
        last = None if chain is None else self._record_before(chain, border)
        if last is None or last == border:
            return last is not None
        reader = HistoryReader(part_name(self._cluster), after=last, opening=self._records.load(last))
        for batch in self._archive.iter_batches(after=last, through=border):
            self._check()
            reader.read(batch.raw)
            reader.forget_finished(batch.last.timestamp)
        if not reader.can_be_cut:
            return False
        self._store(border, reader.open_work())
        return True

    def _store(self, at: OplogTimestamp, work: OpenWork) -> None:
        self._records.put(at, work)
        reach("open_work.recorded")

    def _record_before(self, chain: Chain, at_most: OplogTimestamp) -> OplogTimestamp | None:
        return newest_record(self._records.moments(), chain_starts_after=chain.starts_after, at_most=at_most)

    def _ask_opening(self, after: OplogTimestamp) -> OpenWork:
        """What was open right after the entry at `after`, where the newest chain of the archive begins."""
        found, asked = ask_open_work(self._context.access(self._cluster), after=after)
        wait_until_archived(
            self._context.catalog,
            self._cluster.id,
            asked,
            clock=self._context.clock,
            check=self._check,
            seconds=ARCHIVED_SECONDS,
        )
        batches = self._archive.iter_batches(after=after, through=asked)
        shown = read_history(
            batches, part=part_name(self._cluster), after=after, through=asked, opening=OpenWork()
        )
        return opening_work(found, shown)


def _chain_at(found: tuple[Chain, ...], at: OplogTimestamp) -> Chain | None:
    """The newest chain that begins at or before a moment."""
    return max(
        (chain for chain in found if chain.starts_after <= at), key=lambda c: c.starts_after, default=None
    )


def ask_open_work(access: ClusterAccess, *, after: OplogTimestamp) -> tuple[OpenWork, OplogTimestamp]:
    """What is open on a part now, each without the moment at which it began; and a moment by which all was read.

    The collections are read one after another, at or after `after`: what begins or ends meanwhile does so in entries up
    to the moment that is returned. The server (6.0.5) refuses majority reads of config.transactions in a session. So
    the primary is read as it is, and has to get a note to a majority behind that, still in the same election: then all
    that was read is held by a majority too. Raises Unreachable, DeploymentError.
    """
    # The keyfile's user: no role of a backup user may read all of these.
    login = member_login(access.keyfile(), access.cluster.cluster_auth_mode)
    with (
        connect_to_set(access.cluster.uri, login or access.credentials(), tls=access.tls()) as client,
        translated_errors(f"reading what is open on {access.cluster.name}"),
        client.start_session(causal_consistency=True) as session,
    ):
        session.advance_operation_time(after.to_bson())
        election = run_admin(client, "hello").get("electionId")
        transactions = _read(client, _TRANSACTIONS, session, {"state": "prepared"})
        coordinators = _read(client, COORDINATORS, session)
        operations = {name: _read(client, name, session) for name in sorted(OPERATIONS)}
        noted = client.admin.command(
            "appendOplogNote", 1, data=NOTE, session=session, writeConcern=_NOTE_CONCERN
        )
        if run_admin(client, "hello").get("electionId") != election:
            raise Unreachable(f"{access.cluster.name} elected a primary while it was read")
        asked = OplogTimestamp.from_bson(noted["operationTime"])
    return _open_work(transactions, coordinators, operations), asked


def _read(
    client: MongoClient[Document],
    namespace: str,
    session: ClientSession,
    condition: Document | None = None,
) -> list[Document]:
    database, _, name = namespace.partition(".")
    collection = client[database].get_collection(name, read_concern=ReadConcern("local"))
    return list(collection.find(condition or {}, session=session).max_time_ms(ANSWER_MILLIS))


def _open_work(
    transactions: list[Document], coordinators: list[Document], operations: dict[str, list[Document]]
) -> OpenWork:
    names = {operation_name(where, found) for where, documents in operations.items() for found in documents}
    return OpenWork(
        transactions=tuple(
            PartTransaction(
                id=transaction_id({"lsid": found["_id"], "txnNumber": found["txnNum"]}), prepared=None
            )
            for found in transactions
        ),
        participants=tuple(
            Participants(
                id=transaction_id(found["_id"]),
                shards=tuple(str(shard) for shard in found["participants"]),
                recorded=None,
            )
            for found in coordinators
            if "participants" in found
        ),
        operations=tuple(ClusterOperation(name=name, began=None) for name in sorted(names)),
    )
