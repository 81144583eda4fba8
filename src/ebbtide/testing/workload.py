"""Data and writes of every kind that a backup must bring through, from a seed.

`load` makes the databases once; `churn` changes them; `BackgroundWorkload` churns in a thread. With the same seed
the same operations are made in the same order; times and ids that the server chooses differ.

    shop        customers, orders, products, stock; every kind of index; two views; documents under a validator, and one
                that it would refuse; a stored function
    telemetry   measurements (time series that expire), recent (capped), ledger (clustered)
    archive     large documents up to 15.9 MB; odd ones: empty timestamps, dotted and $-prefixed field names; words with
                a collation of their `_id`; watched, with pre-images
    scratch     what DDL creates, renames and drops

Nothing is printed. Server 6.0 or later (clustered collections, $-prefixed names).
"""

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from bson import Binary, Code, Decimal128, Int64, ObjectId, Timestamp
from pymongo import ASCENDING, DESCENDING, GEOSPHERE, HASHED, TEXT, IndexModel, MongoClient
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure, PyMongoError, WriteError
from pymongo.write_concern import WriteConcern

from ebbtide.errors import MongodError

Document = dict[str, Any]
Client = MongoClient[Document]

USER_DATABASES = ("shop", "telemetry", "archive", "scratch")

CUSTOMERS = 4_000
ORDERS = 12_000
PRODUCTS = 1_000
MEASUREMENTS = 6_000
LARGE_DOCUMENTS = 50
"""Documents at scale 1."""

SENSORS = 20
"""Few: the server writes one bucket per sensor and hour."""

LARGE_DOCUMENT_BYTES = 15_900_000
LARGE_INSERT_TRIES_MAX = 50
BATCH_DOCUMENTS = 1_000
CAPPED_BYTES = 1024 * 1024
TTL_SECONDS = 10 * 365 * 24 * 3600
"""Far away: nothing may expire while two copies are compared."""

OUTAGE_SECONDS_MAX = 60.0
"""How long the background workload goes on trying against a set without a primary."""

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
_VOCABULARY = """
    amber anchor basin beacon cargo cedar coral current delta drift ebb estuary ferry flint gale harbor heron
    inlet island jetty kelp lagoon lantern marsh mast mooring north ocean osprey pebble pier quay reef river rope
    sail salt sand shoal silt sound spring squall strait surf tern tide timber vessel wave wharf wind yawl
"""
_WORDS = _VOCABULARY.split()

# Another thread, or the same operation before a lost answer, has done or undone it.
_NAMESPACE_NOT_FOUND, _INDEX_NOT_FOUND, _NAMESPACE_EXISTS, _DUPLICATE_KEY = 26, 27, 48, 11000
_INDEX_EXISTS = (85, 86)
_TOO_LARGE_FOR_CACHE = 388
_HARMLESS_CODES = frozenset(
    {_NAMESPACE_NOT_FOUND, _INDEX_NOT_FOUND, _NAMESPACE_EXISTS, _DUPLICATE_KEY, *_INDEX_EXISTS}
)


# --- loading ------------------------------------------------------------------------------------------------------


def load(client: Client, *, seed: int = 1, scale: float = 1.0) -> None:
    """Create the databases of the workload; they must not exist yet.

    They hold about 20 MB (two large documents) and 25 MB × `scale` of BSON. Scale 1 makes 60 MB of data files, oplog
    included, in about 2 s; scale 3 110 MB in 5. At least a hundredth of scale 1 is made.
    """
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(_WORDS, k=rng.randint(8, 90))) for _ in range(500)]
    scale = max(scale, 0.01)
    _load_shop(client, rng, texts, scale)
    _load_telemetry(client, rng, texts, scale)
    _load_archive(client, rng, scale)
    client.scratch.create_collection("seed")
    client.scratch.seed.insert_one({"_id": 0, "seed": seed})


def _load_shop(client: Client, rng: random.Random, texts: list[str], scale: float) -> None:
    shop = client.shop
    shop.create_collection("customers", collation={"locale": "de", "strength": 2})
    shop.customers.create_indexes(
        [
            IndexModel([("email", ASCENDING)], unique=True),
            IndexModel([("name", ASCENDING), ("born", DESCENDING)]),
            IndexModel([("place", GEOSPHERE)]),
            IndexModel([("joined", ASCENDING)], expireAfterSeconds=TTL_SECONDS),
            IndexModel([("level", ASCENDING)], hidden=True),
            IndexModel([("notes", TEXT)], collation={"locale": "simple"}, weights={"notes": 3}),
        ]
    )
    shop.orders.create_indexes(
        [
            IndexModel([("customer", HASHED)]),
            IndexModel([("total", ASCENDING)], partialFilterExpression={"paid": False}),
            IndexModel([("lines.product", ASCENDING)]),
        ]
    )
    shop.products.create_indexes([IndexModel([("text", TEXT)]), IndexModel([("attributes.$**", ASCENDING)])])
    shop.create_collection(
        "stock",
        validator={
            "$jsonSchema": {"required": ["count"], "properties": {"count": {"bsonType": "int", "minimum": 0}}}
        },
        validationAction="error",
    )
    shop.create_collection("unpaid", viewOn="orders", pipeline=[{"$match": {"paid": False}}])
    shop.create_collection(
        "spending",
        viewOn="unpaid",
        pipeline=[{"$group": {"_id": "$customer", "total": {"$sum": "$total"}}}],
    )
    products = _count(PRODUCTS, scale)
    customers = _count(CUSTOMERS, scale)
    _insert(client, "shop", "customers", customers, lambda i: _customer(i, rng, texts))
    _insert(client, "shop", "products", products, lambda i: _product(i, rng, texts))
    _insert(client, "shop", "stock", products, lambda i: {"_id": i, "count": rng.randint(0, 10_000)})
    _insert(client, "shop", "orders", _count(ORDERS, scale), lambda i: _order(Int64(i), rng, texts))
    # As left behind by whoever wrote it before there was a validator.
    shop.command("insert", "stock", documents=[{"_id": "lost", "count": -1}], bypassDocumentValidation=True)
    shop["system.js"].insert_one({"_id": "total", "value": Code("function (a, b) { return a + b; }")})


def _load_telemetry(client: Client, rng: random.Random, texts: list[str], scale: float) -> None:
    telemetry = client.telemetry
    telemetry.create_collection(
        "measurements",
        timeseries={"timeField": "at", "metaField": "sensor", "granularity": "seconds"},
        expireAfterSeconds=TTL_SECONDS,
    )
    telemetry.measurements.create_index([("sensor.id", ASCENDING), ("at", DESCENDING)])
    telemetry.create_collection("recent", capped=True, size=CAPPED_BYTES, max=5_000)
    telemetry.create_collection("ledger", clusteredIndex={"key": {"_id": 1}, "unique": True})
    _insert(client, "telemetry", "measurements", _count(MEASUREMENTS, scale), lambda i: _measurement(i, rng))
    _insert(client, "telemetry", "recent", 2_000, lambda i: {"_id": i, "line": rng.choice(texts)})
    _insert(
        client, "telemetry", "ledger", _count(2_000, scale), lambda i: {"_id": i, "entry": rng.choice(texts)}
    )


def _load_archive(client: Client, rng: random.Random, scale: float) -> None:
    archive = client.archive
    sizes = [
        LARGE_DOCUMENT_BYTES,
        5_000_000,
        *(rng.randint(10_000, 400_000) for _ in range(int(LARGE_DOCUMENTS * scale))),
    ]
    for index, size in enumerate(sizes):
        _insert_large(client, {"_id": index, "body": _half_random(rng, size)})
    archive.odd.insert_many(
        [
            {"_id": "dotted", "a.b": 1, "c": {"d.e": 2, "": 3}},
            {"_id": "dollar", "$price": 4, "inner": {"$ref": "x", "$id": 5}},
            {"_id": "empty time", "nested": {"time": Timestamp(0, 0)}},
            {"_id": ObjectId(b"ebbtide-odd1"), "number": Decimal128("1.10"), "bytes": Binary(b"\x00\xff", 5)},
            {"_id": {"compound": [1, 2.5, None, True]}, "minus zero": -0.0, "big": Int64(2**62)},
        ]
    )
    # The server puts the current time into an inserted top-level Timestamp(0, 0), but not into one that is set.
    archive.odd.update_one({"_id": "empty time"}, {"$set": {"time": Timestamp(0, 0)}})
    archive.create_collection("words", collation={"locale": "fr", "strength": 2, "numericOrdering": True})
    archive.words.insert_many([{"_id": word} for word in ("item 10", "item 9", "Élan", "elan", "zèbre")])
    archive.create_collection("watched", changeStreamPreAndPostImages={"enabled": True})
    archive.watched.insert_one({"_id": 1})


def _insert(client: Client, database: str, name: str, count: int, make: Callable[[int], Document]) -> None:
    collection = client[database].get_collection(name, write_concern=WriteConcern(w=1))
    for first in range(0, count, BATCH_DOCUMENTS):
        documents = [make(i) for i in range(first, min(count, first + BATCH_DOCUMENTS))]
        collection.insert_many(documents, ordered=False)


def _insert_large(client: Client, document: Document) -> None:
    """Insert a document that is large against a small cache: until dirty pages are written, it may not fit."""
    for _ in range(LARGE_INSERT_TRIES_MAX - 1):
        try:
            client.archive.large.insert_one(document)
            return
        except WriteError as error:
            if error.code != _TOO_LARGE_FOR_CACHE:
                raise
            time.sleep(0.2)
    client.archive.large.insert_one(document)


def _count(at_scale_one: int, scale: float) -> int:
    return max(1, int(at_scale_one * scale))


def _half_random(rng: random.Random, size: int) -> bytes:
    """Bytes of which half can be compressed away, as in much real data."""
    return b"".join((rng.randbytes(size // 2), bytes(size - size // 2)))


def _customer(index: int, rng: random.Random, texts: list[str]) -> Document:
    return {
        "_id": index,
        "name": f"{rng.choice(_WORDS).title()} {rng.choice(_WORDS).title()}",
        "email": f"{index}@{rng.choice(_WORDS)}.example",
        "born": EPOCH - timedelta(days=rng.randint(7_000, 30_000)),
        "joined": EPOCH + timedelta(minutes=index),
        "level": rng.randint(0, 5),
        "place": {"type": "Point", "coordinates": [rng.uniform(-179, 179), rng.uniform(-89, 89)]},
        "notes": rng.choice(texts),
    }


def _product(index: int, rng: random.Random, texts: list[str]) -> Document:
    return {
        "_id": index,
        "text": rng.choice(texts)[:200],
        "price": Decimal128(f"{rng.randint(1, 99_999)}.{rng.randint(0, 99):02}"),
        "attributes": {word: rng.randint(0, 9) for word in rng.sample(_WORDS, 3)},
        "picture": Binary(rng.randbytes(rng.randint(100, 2_000))),
    }


def _order(id_: Any, rng: random.Random, texts: list[str]) -> Document:
    lines = [
        {"product": rng.randrange(PRODUCTS), "count": rng.randint(1, 9)} for _ in range(rng.randint(1, 6))
    ]
    return {
        "_id": id_,
        "customer": rng.randrange(CUSTOMERS),
        "lines": lines,
        "total": rng.randint(100, 100_000),
        "paid": rng.random() < 0.8,
        "message": rng.choice(texts),
        "signature": Binary(rng.randbytes(200)),
    }


def _measurement(index: int, rng: random.Random) -> Document:
    sensor = rng.randrange(SENSORS)
    return {
        "at": EPOCH + timedelta(seconds=index),
        "sensor": {"id": sensor, "place": _WORDS[sensor]},
        "value": rng.gauss(20, 5),
    }


# --- changing -----------------------------------------------------------------------------------------------------


def churn(client: Client, *, rng: random.Random, operations: int) -> None:
    """Make `operations` changes of every kind to loaded databases. Errors of the server are raised.

    A change that a concurrent one made pointless (its collection is gone, its key is taken) counts as made.
    """
    for _ in range(operations):
        _one_operation(client, rng)


def _one_operation(client: Client, rng: random.Random) -> None:
    operation = rng.choices(_OPERATIONS, weights=_WEIGHTS)[0]
    try:
        operation(client, rng)
    except BulkWriteError as error:
        codes = {e["code"] for e in (error.details or {}).get("writeErrors", [])}
        if not codes or not codes <= _HARMLESS_CODES:
            raise
    except OperationFailure as error:
        if error.code not in _HARMLESS_CODES:
            raise


def _hot_id(rng: random.Random, count: int) -> int:
    """An id of 0 … `count`−1, the low ones more often: some are hot, and they exist in a small load too."""
    return rng.randrange(max(1, count // rng.choice((1, 10, 100))))


def _insert_orders(client: Client, rng: random.Random) -> None:
    texts = [" ".join(rng.choices(_WORDS, k=20))]
    documents = [_order(f"{rng.getrandbits(80):x}", rng, texts) for _ in range(rng.randint(1, 10))]
    client.shop.orders.insert_many(documents, ordered=False)


def _update_customer(client: Client, rng: random.Random) -> None:
    client.shop.customers.update_one(
        {"_id": _hot_id(rng, CUSTOMERS)},
        {"$inc": {"visits": 1}, "$set": {"notes": rng.choice(_WORDS) * rng.randint(1, 50)}},
        upsert=False,
    )


def _update_many(client: Client, rng: random.Random) -> None:
    first = _hot_id(rng, CUSTOMERS)
    client.shop.customers.update_many({"_id": {"$gte": first, "$lt": first + 20}}, {"$inc": {"level": 1}})


def _find_and_modify(client: Client, rng: random.Random) -> None:
    client.shop.products.find_one_and_update(
        {"_id": _hot_id(rng, PRODUCTS)}, {"$set": {f"attributes.{rng.choice(_WORDS)}": rng.randint(0, 9)}}
    )


def _delete_order(client: Client, rng: random.Random) -> None:
    client.shop.orders.delete_one({"_id": {"$gte": Int64(rng.randrange(ORDERS))}})


def _measure(client: Client, rng: random.Random) -> None:
    first = rng.randrange(10_000_000)
    client.telemetry.measurements.insert_many([_measurement(first + i, rng) for i in range(5)])


def _log_line(client: Client, rng: random.Random) -> None:
    client.telemetry.recent.insert_one({"line": " ".join(rng.choices(_WORDS, k=10))})


def _enter_ledger(client: Client, rng: random.Random) -> None:
    client.telemetry.ledger.replace_one(
        {"_id": rng.randrange(100_000)}, {"entry": " ".join(rng.choices(_WORDS, k=10))}, upsert=True
    )


def _transaction(client: Client, rng: random.Random) -> None:
    product, count = _hot_id(rng, PRODUCTS), rng.randint(1, 5)
    order = _order(f"{rng.getrandbits(80):x}", rng, ["in a transaction"])
    shall_abort = rng.random() < 0.1

    with client.start_session() as session, session.start_transaction():
        _take_from_stock(client, session, product, count)
        client.shop.orders.insert_one(order, session=session)
        if shall_abort:
            session.abort_transaction()


def _take_from_stock(client: Client, session: ClientSession, product: int, count: int) -> None:
    client.shop.stock.update_one(
        {"_id": product, "count": {"$gte": count}}, {"$inc": {"count": -count}}, session=session
    )


def _create_collection(client: Client, rng: random.Random) -> None:
    name = f"made_{rng.randrange(8)}"
    client.scratch.create_collection(name, check_exists=False)
    client.scratch[name].insert_many([{"value": rng.random()} for _ in range(20)])


def _drop_collection(client: Client, rng: random.Random) -> None:
    client.scratch.drop_collection(f"made_{rng.randrange(8)}")


def _rename_collection(client: Client, rng: random.Random) -> None:
    source, target = rng.sample(range(8), 2)
    client.scratch[f"made_{source}"].rename(f"made_{target}", dropTarget=rng.random() < 0.5)


def _create_index(client: Client, rng: random.Random) -> None:
    keys = [("count", rng.choice((ASCENDING, DESCENDING))), ("_id", ASCENDING)]
    # By default a build waits for every voting member, those that a test has killed included.
    client.shop.stock.create_indexes([IndexModel(keys)], commitQuorum="majority")


def _drop_index(client: Client, rng: random.Random) -> None:
    client.shop.stock.drop_index(rng.choice(("count_1__id_1", "count_-1__id_1")))


def _modify_collection(client: Client, rng: random.Random) -> None:
    client.shop.command(
        "collMod", "customers", index={"keyPattern": {"level": 1}, "hidden": rng.random() < 0.5}
    )


_WEIGHTED: dict[Callable[[Client, random.Random], None], int] = {
    _insert_orders: 24,
    _update_customer: 24,
    _update_many: 4,
    _find_and_modify: 8,
    _delete_order: 8,
    _measure: 8,
    _log_line: 8,
    _enter_ledger: 6,
    _transaction: 10,
    _create_collection: 2,
    _drop_collection: 1,
    _rename_collection: 1,
    _create_index: 1,
    _drop_index: 1,
    _modify_collection: 1,
}
_OPERATIONS = list(_WEIGHTED)
_WEIGHTS = list(_WEIGHTED.values())


# --- in the background --------------------------------------------------------------------------------------------


class BackgroundWorkload:
    """Churns in a thread of its own until stopped.

    `client_factory` makes the client that the thread uses and closes. Failed connections, elections and aborted
    transactions are survived for up to OUTAGE_SECONDS_MAX at a stretch; any other error ends the thread, and
    `stop` raises it. Whether an operation that failed so was made is not known; it is not counted.
    """

    def __init__(
        self, client_factory: Callable[[], Client], *, seed: int = 1, operations_per_second: float = 200.0
    ) -> None:
        self.operations = 0  # written by the thread only
        self.interruptions = 0  # written by the thread only
        self._client_factory = client_factory
        self._rng = random.Random(seed)
        self._interval_seconds = 1.0 / operations_per_second
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self, *, timeout_seconds: float = OUTAGE_SECONDS_MAX) -> int:
        """Stop after the operation in hand; how many were made. Raises what ended the thread early."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
            if self._thread.is_alive():
                raise MongodError("the workload did not stop", hint="the set it writes to does not answer")
        if self._error is not None:
            raise self._error
        return self.operations

    def wait_for_operations(self, count: int, *, timeout_seconds: float = OUTAGE_SECONDS_MAX) -> None:
        """Wait until `count` operations were made. Raises what ended the thread early, MongodError after the time."""
        deadline = time.monotonic() + timeout_seconds
        while self.operations < count:
            if self._error is not None:
                raise self._error
            if time.monotonic() > deadline:
                raise MongodError(
                    f"the workload made {self.operations} of {count} operations in {timeout_seconds:.0f} s"
                )
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            with self._client_factory() as client:
                self._churn_until_stopped(client)
        except BaseException as error:  # noqa: BLE001 (handed to whoever stops the workload)
            self._error = error

    def _churn_until_stopped(self, client: Client) -> None:
        due = last_success = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            # Time lost in an election is not made up for: a burst is not what was asked for.
            due = max(due, time.monotonic() - 1.0) + self._interval_seconds
            try:
                _one_operation(client, self._rng)
            except PyMongoError as error:
                if not is_passing(error) or time.monotonic() - last_success > OUTAGE_SECONDS_MAX:
                    raise
                self.interruptions += 1
                self._stopping.wait(0.1)
            else:
                self.operations += 1
                last_success = time.monotonic()


# InterruptedAtShutdown, InterruptedDueToReplStateChange, NotWritablePrimary, NotPrimaryNoSecondaryOk,
# NotPrimaryOrSecondary, PrimarySteppedDown, ShutdownInProgress, WriteConflict, LockTimeout, NoSuchTransaction,
# BackgroundOperationInProgressForNamespace, IndexBuildAborted
_PASSING_CODES = frozenset({11600, 11602, 10107, 13435, 13436, 189, 91, 112, 24, 251, 12587, 276})


def is_passing(error: PyMongoError) -> bool:
    """Whether such an error goes away by itself: connections, elections, conflicts."""
    if isinstance(error, ConnectionFailure):
        return True
    if error.has_error_label("TransientTransactionError") or error.has_error_label("RetryableWriteError"):
        return True
    return isinstance(error, OperationFailure) and error.code in _PASSING_CODES
