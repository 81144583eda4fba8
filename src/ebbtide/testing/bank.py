"""Accounts spread over the shards of a `ShardedLab`, and money moving between them: the total stays.

    bank.accounts   {_id: 0 … accounts - 1, balance}, sharded by _id in chunks of equal numbers of accounts

Every transfer is a cross-shard transaction; balances may become negative. With the same seed the same
accounts and amounts are tried in the same order; which of them are made also depends on where migrations have
put the chunks.

Invariant: at every cluster time the balances that shards own sum to `Bank.expected_total`.

Any thread may use a `Bank`; transfers are made one at a time. Crash: a transfer that stopped half way stays
prepared in the shards until somebody decides it.
"""

import random
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from bson import Timestamp
from pymongo.errors import OperationFailure, PyMongoError

from ebbtide.errors import MongodError, Refused
from ebbtide.testing.cross_shard import CrossShardTransaction, ShardConnections, shard_versions
from ebbtide.testing.lab import WAIT_SECONDS
from ebbtide.testing.sharded_lab import ShardedLab

Document = dict[str, Any]

DATABASE, COLLECTION = "bank", "accounts"
NAMESPACE = f"{DATABASE}.{COLLECTION}"
OPENING_BALANCE = 1_000
CHUNKS_PER_SHARD = 2
AMOUNT_MAX = 100

_STALE_CONFIG = 13388
_PAUSE_SECONDS = 0.02
_MOVE_PAUSE_SECONDS = 0.2
"""Between migrations: transfers should mostly go through."""


class StopAfter(StrEnum):
    """Where a transfer stops half way."""

    PREPARE = "prepare"
    """Prepared on both shards, decided on none."""

    FIRST_COMMIT = "first commit"
    """Committed on the shard that gives, prepared on the one that takes."""


class StoppedTransfer:
    """A transfer that stopped half way. Until it is decided its two accounts take part in no other.

    A read at a cluster time after its prepare waits meanwhile. No chunk is moved: the migration would wait
    for this transfer, and all others for the migration, until the server gives up.
    """

    def __init__(
        self, bank: "Bank", transaction: CrossShardTransaction, *, accounts: tuple[int, int]
    ) -> None:
        self.accounts = accounts
        self.transaction = transaction
        self._bank = bank
        self._is_decided = False

    def finish(self) -> None:
        """Commit it on every shard; harmless where it is committed."""
        with self._bank.lock:
            for shard in self.transaction.shards:
                self.transaction.commit_prepared(shard)
            self._settle()

    def abort(self) -> None:
        """Abort it. Raises OperationFailure after a first commit: the money would be gone."""
        with self._bank.lock:
            self.transaction.abort()
            self._settle()

    def _settle(self) -> None:
        if not self._is_decided:
            self._is_decided = True
            self._bank.release(self.accounts)


class Bank:
    """`accounts` accounts, at least four per chunk, in `lab`; `open` makes them, `close` disconnects."""

    def __init__(self, lab: ShardedLab, *, accounts: int = 40, seed: int = 1) -> None:
        self.lab = lab
        self.accounts = accounts
        self.expected_total = accounts * OPENING_BALANCE
        self.lock = threading.Lock()
        self._rng = random.Random(seed)
        self._moves_rng = random.Random(seed)
        self._held: set[int] = set()
        self._gate = threading.Condition()  # guards the next two
        self._undecided_count = 0
        self._is_moving = False
        self._connections = ShardConnections(lab)

    def open(self) -> Self:
        """Create the collection, spread its chunks over the shards, and fill it."""
        shards = list(self.lab.shards)
        self.lab.create_sharded(NAMESPACE, {"_id": 1}, shards[0])
        chunk_count = len(shards) * CHUNKS_PER_SHARD
        bounds = [self.accounts * index // chunk_count for index in range(1, chunk_count)]
        self.lab.split(NAMESPACE, *({"_id": bound} for bound in bounds))
        for index, chunk in enumerate(self.lab.chunks(NAMESPACE)):
            shard = shards[index % len(shards)]
            if shard != chunk["shard"]:
                self.lab.move_range(NAMESPACE, chunk["min"], chunk["max"], shard)
        for shard, accounts in self.owned_accounts().items():
            documents = [{"_id": account, "balance": OPENING_BALANCE} for account in accounts]
            self.lab.admin_client(shard)[DATABASE][COLLECTION].insert_many(documents)
        return self

    def close(self) -> None:
        self._connections.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def owned_accounts(self) -> dict[str, list[int]]:
        """The accounts that each shard owns now."""
        owned: dict[str, list[int]] = {shard: [] for shard in self.lab.shards}
        for chunk in self.lab.chunks(NAMESPACE):
            low, high = chunk["min"]["_id"], chunk["max"]["_id"]
            owned[chunk["shard"]] += range(
                low if isinstance(low, int) else 0, high if isinstance(high, int) else self.accounts
            )
        return owned

    # --- money ----------------------------------------------------------------------------------------------------

    def transfer(self, *, stop_after: StopAfter | None = None) -> StoppedTransfer | None:
        """Move money between accounts on two shards; with `stop_after` half way, and what is to decide.

        With `stop_after` it first waits for a migration that `move_some_chunk` has begun. Tried again while a
        migration or another transaction is in the way. Raises MongodError when that takes too long,
        OperationFailure or OSError for anything else.
        """
        if stop_after is None:
            return self._transfer(None)
        self._keep_chunks()
        try:
            return self._transfer(stop_after)
        except BaseException:
            self.release(())
            raise

    def release(self, accounts: tuple[int, ...]) -> None:
        """Let accounts of a stopped transfer take part again, and chunks move unless another is stopped."""
        self._held.difference_update(accounts)
        with self._gate:
            self._undecided_count -= 1

    def _transfer(self, stop_after: StopAfter | None) -> StoppedTransfer | None:
        deadline = time.monotonic() + WAIT_SECONDS
        with self.lock:
            while True:
                transaction = CrossShardTransaction(self._connections)
                try:
                    accounts = self._pay(transaction)
                    return self._commit(transaction, accounts, stop_after)
                except OperationFailure as error:
                    transaction.abort()
                    if not _is_passing(error):
                        raise
                    if time.monotonic() > deadline:
                        raise MongodError(f"no transfer could be made in {WAIT_SECONDS:.0f} s") from error
                time.sleep(_PAUSE_SECONDS)

    def total(self, *, at: Timestamp | None = None) -> int:
        """The sum of all balances at one cluster time, `at` or now, no orphans; waits for stopped transfers.

        Raises MongodError when migrations or a stopped transfer keep it from an answer.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            cluster_time = at or self.lab.gossip_note()
            try:
                versions = shard_versions(self.lab, NAMESPACE)
                return sum(self._balance(shard, version, cluster_time) for shard, version in versions.items())
            except OperationFailure as error:
                if not _is_passing(error) or time.monotonic() > deadline:
                    raise MongodError("the bank's total could not be read") from error
            time.sleep(_PAUSE_SECONDS)

    def _pay(self, transaction: CrossShardTransaction) -> tuple[int, int]:
        owned = {
            shard: free
            for shard, accounts in self.owned_accounts().items()
            if (free := [account for account in accounts if account not in self._held])
        }
        if len(owned) < 2:
            raise Refused(
                "fewer than two shards have accounts that are free", hint="decide stopped transfers"
            )
        versions = shard_versions(self.lab, NAMESPACE)
        giver, taker = self._rng.sample(sorted(owned), 2)
        amount = self._rng.randint(1, AMOUNT_MAX)
        accounts = (self._rng.choice(owned[giver]), self._rng.choice(owned[taker]))
        for shard, account, change in ((giver, accounts[0], -amount), (taker, accounts[1], amount)):
            update = {"q": {"_id": account}, "u": {"$inc": {"balance": change}}}
            command = {"update": COLLECTION, "updates": [update], "shardVersion": versions.get(shard)}
            reply = transaction.execute(shard, DATABASE, command)
            if reply["n"] != 1 or reply.get("writeErrors"):
                # The chunk moved between two looks at the config server: as good as a stale version.
                raise OperationFailure(f"{shard} has no account {account}", _STALE_CONFIG, reply)
        return accounts

    def _commit(
        self, transaction: CrossShardTransaction, accounts: tuple[int, int], stop_after: StopAfter | None
    ) -> StoppedTransfer | None:
        if stop_after is None:
            transaction.commit_by_coordinator()
            return None
        transaction.prepare()
        self._held.update(accounts)
        if stop_after is StopAfter.FIRST_COMMIT:
            transaction.commit_prepared(transaction.shards[0])
        return StoppedTransfer(self, transaction, accounts=accounts)

    def _balance(self, shard: str, version: Document, cluster_time: Timestamp) -> int:
        reply = self.lab.admin_client(shard)[DATABASE].command(
            "aggregate",
            COLLECTION,
            pipeline=[{"$group": {"_id": None, "total": {"$sum": "$balance"}}}],
            cursor={},
            readConcern={"level": "snapshot", "atClusterTime": cluster_time},
            shardVersion=version,
            maxTimeMS=int(WAIT_SECONDS * 1000),
        )
        return sum(int(document["total"]) for document in reply["cursor"]["firstBatch"])

    # --- migrations -----------------------------------------------------------------------------------------------

    def move_some_chunk(self) -> bool:
        """Move a chunk from a shard that has most of them, so that none is left without; whether it did.

        Nothing moves while a transfer is stopped, or another thread moves a chunk. Raises OperationFailure.
        """
        with self._gate:
            if self._undecided_count or self._is_moving:
                return False
            self._is_moving = True
        try:
            self._move_one()
        finally:
            with self._gate:
                self._is_moving = False
                self._gate.notify_all()
        return True

    def _keep_chunks(self) -> None:
        """Wait for the chunk that is moving, and let none move until `release`."""
        with self._gate:
            if not self._gate.wait_for(lambda: not self._is_moving, WAIT_SECONDS):
                raise MongodError(f"a chunk has been moving for {WAIT_SECONDS:.0f} s")
            self._undecided_count += 1

    def _move_one(self) -> None:
        by_shard: dict[str, list[Document]] = {shard: [] for shard in self.lab.shards}
        for chunk in self.lab.chunks(NAMESPACE):
            by_shard[chunk["shard"]].append(chunk)
        chunk_counts = {shard: len(chunks) for shard, chunks in by_shard.items()}
        giver = max(chunk_counts, key=lambda shard: (chunk_counts[shard], self._moves_rng.random()))
        taker = self._moves_rng.choice([shard for shard in by_shard if shard != giver])
        chunk = self._moves_rng.choice(by_shard[giver])
        self.lab.move_range(NAMESPACE, chunk["min"], chunk["max"], taker)


class BackgroundBank:
    """Transfers in one thread, and migrations in another while they go on, until stopped.

    No migration begins while the balancer is off. An error ends its thread, and `stop` raises it.
    """

    def __init__(self, bank: Bank, *, moves: bool = True) -> None:
        self.transfers = 0  # written by its thread only
        self.moves = 0  # written by its thread only
        self._bank = bank
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._threads = [self._thread("bank", self._transfer, _PAUSE_SECONDS)]
        if moves:
            self._threads.append(self._thread("bank-moves", self._move, _MOVE_PAUSE_SECONDS))

    def start(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> int:
        """Stop after what is in hand; the number of transfers made. Raises what ended a thread early."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * WAIT_SECONDS)
            if thread.is_alive():
                raise MongodError("the bank did not stop", hint="see the logs of the lab")
        if self._error is not None:
            raise self._error
        return self.transfers

    def wait_for(self, *, transfers: int = 0, moves: int = 0) -> None:
        """Wait until so many were made. Raises what ended a thread early, MongodError after the time."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.transfers < transfers or self.moves < moves:
            if self._error is not None:
                raise self._error
            if time.monotonic() > deadline:
                raise MongodError(f"the bank made {self.transfers} transfers and {self.moves} moves only")
            time.sleep(_PAUSE_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _thread(self, name: str, work: Callable[[], None], pause_seconds: float) -> threading.Thread:
        return threading.Thread(target=self._guard, args=(work, pause_seconds), name=name, daemon=True)

    def _guard(self, work: Callable[[], None], pause_seconds: float) -> None:
        try:
            while not self._stopping.wait(pause_seconds):
                work()
        except BaseException as error:  # noqa: BLE001 (handed to whoever stops the bank)
            self._error = error

    def _transfer(self) -> None:
        self._bank.transfer()
        self.transfers += 1

    def _move(self) -> None:
        if self._bank.lab.balancer_status()["mode"] == "off":
            return
        if self._bank.move_some_chunk():
            self.moves += 1


def _is_passing(error: PyMongoError) -> bool:
    """Whether the same may succeed when tried again: a migration or another transaction was in the way."""
    is_stale = isinstance(error, OperationFailure) and error.code == _STALE_CONFIG
    return is_stale or error.has_error_label("TransientTransactionError")
