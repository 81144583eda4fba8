"""What a server holds: every collection of users with its options, UUID, indexes and size; views; what is left out.

Options and index specifications stay raw BSON, so that whatever a server wrote there is handed on as it is.

A time series is two things: a view of type `timeseries`, which people see, and its collection `system.buckets.NAME`,
which holds the data. Both are listed here, each under its own name.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bson import Binary, CodecOptions
from bson.codec_options import DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure

from ebbtide.mongod.deployment import UNAUTHORIZED, translated_errors

Document = dict[str, Any]
Client = MongoClient[Document]
Raw = Mapping[str, Any]
"""A document whose nested documents are still the bytes that the server sent."""

RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument,
    # Nothing that a server stores may stop us: dates beyond the year 9999, strings that are no UTF-8.
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)

BUCKETS = "system.buckets."
STORED_FUNCTIONS = "system.js"
_VIEWS = "system.views"
_FOREIGN_DATABASES = frozenset({"local", "config"})
_NAMESPACE_NOT_FOUND = 26


class Kind(StrEnum):
    """What a namespace is."""

    COLLECTION = "collection"
    VIEW = "view"
    TIME_SERIES = "timeseries"  # the view of one; its data is in the collection of its buckets


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index as listIndexes shows it. `is_unfinished`: it was still being built."""

    specification: Raw
    is_unfinished: bool = False

    @property
    def name(self) -> str:
        return str(self.specification["name"])

    @property
    def is_inherent(self) -> bool:
        """Whether it comes into being with its collection."""
        return self.name == "_id_" or bool(self.specification.get("clustered"))

    @property
    def expires(self) -> bool:
        """Whether documents are deleted by it."""
        return "expireAfterSeconds" in self.specification


@dataclass(frozen=True, kw_only=True)
class Held:
    """One namespace of a server. Views have no UUID, no indexes and no documents of their own."""

    database: str
    name: str
    kind: Kind
    options: Raw
    uuid: Binary | None = None
    id_index: Raw | None = None
    indexes: tuple[Index, ...] = ()
    documents: int = 0
    size_bytes: int = 0

    @property
    def namespace(self) -> str:
        return f"{self.database}.{self.name}"

    @property
    def shown(self) -> str:
        """The namespace as people know it: that of the time series, for its buckets."""
        return f"{self.database}.{self.name.removeprefix(BUCKETS)}"

    @property
    def is_capped(self) -> bool:
        return bool(self.options.get("capped"))


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All that users have on a server, by namespace. `left_out` are namespaces that the server keeps for itself.

    Temporary collections are among these: they are in the middle of an aggregation, and gone after an election.
    """

    held: Mapping[str, Held]
    left_out: tuple[str, ...] = ()

    def of(self, shown: str) -> tuple[Held, ...]:
        """What is held under a name that people use: one namespace, two for a time series, or none."""
        return tuple(held for held in self.held.values() if held.shown == shown)


def is_servers_own(database: str, name: str, *, foreign: frozenset[str] = _FOREIGN_DATABASES) -> bool:
    """Whether a collection belongs to the server and not to its users."""
    if database in foreign:
        return True
    if not name.startswith("system."):
        return False
    return database == "admin" or not (name.startswith(BUCKETS) or name == STORED_FUNCTIONS)


def is_standalone(client: Client) -> bool:
    """Whether a server is a mongod by itself, with no oplog and nobody who could lag. Raises PyMongo's errors."""
    return "setName" not in client.admin.command("hello")


def read_inventory(client: Client, *, with_config: bool = False) -> Inventory:
    """Ask a server. A collection that is dropped meanwhile may be missing. Raises Unreachable, DeploymentError.

    `with_config`: of a server that is by itself, the database `config` holds what its users put there.
    """
    foreign = _FOREIGN_DATABASES - {"config"} if with_config else _FOREIGN_DATABASES
    with translated_errors("reading what the server holds"):
        found: list[Held] = []
        left_out: list[str] = []
        for database in client.list_database_names():
            if database in foreign:
                continue
            for entry in _iter_command(client[database], "listCollections"):
                name = str(entry["name"])
                if name == _VIEWS:
                    # Each of its documents is a view, listed by itself.
                    continue
                if is_servers_own(database, name, foreign=foreign) or entry["options"].get("temp"):
                    left_out.append(f"{database}.{name}")
                else:
                    found.append(_held(client[database], entry))
        return Inventory(held={held.namespace: held for held in found}, left_out=tuple(left_out))


def _held(database: Database[Document], entry: Raw) -> Held:
    name, kind = str(entry["name"]), Kind(entry["type"])
    if kind is not Kind.COLLECTION:
        options = _view_definition(database, name) if kind is Kind.TIME_SERIES else None
        return Held(database=database.name, name=name, kind=kind, options=options or entry["options"])
    documents, size_bytes = _size(database, name)
    return Held(
        database=database.name,
        name=name,
        kind=kind,
        options=entry["options"],
        uuid=entry["info"]["uuid"],
        id_index=entry.get("idIndex"),
        indexes=tuple(_iter_indexes(database, name)),
        documents=documents,
        size_bytes=size_bytes,
    )


def _iter_indexes(database: Database[Document], collection: str) -> Iterator[Index]:
    try:
        for entry in _iter_command(database, "listIndexes", collection, includeBuildUUIDs=True):
            # Only an index that is being built comes wrapped.
            is_unfinished = "buildUUID" in entry
            yield Index(specification=entry["spec"] if is_unfinished else entry, is_unfinished=is_unfinished)
    except OperationFailure as error:
        if error.code != _NAMESPACE_NOT_FOUND:
            raise


def _size(database: Database[Document], collection: str) -> tuple[int, int]:
    """Documents and their bytes, by the server's books: right after a clean shutdown, else nearly."""
    try:
        answer = database.command("collStats", collection)
    except OperationFailure as error:
        if error.code != _NAMESPACE_NOT_FOUND:
            raise
        return 0, 0
    # The buckets of a time series are shown with the statistics of the time series.
    return int(answer.get("count", answer.get("timeseries", {}).get("bucketCount", 0))), int(answer["size"])


def _view_definition(database: Database[Document], name: str) -> Raw | None:
    """The definition of a time series' view as the server wrote it; None where it may not be read."""
    try:
        views = database.get_collection(_VIEWS, codec_options=RAW)
        found = views.find_one({"_id": f"{database.name}.{name}"})
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
        return None
    return None if found is None else {k: v for k, v in found.items() if k != "_id"}


def _iter_command(
    database: Database[Document], command: str, value: Any = 1, **arguments: Any
) -> Iterator[Raw]:
    with database.cursor_command(command, value, codec_options=RAW, **arguments) as cursor:
        found: Iterable[Any] = cursor
        yield from found
