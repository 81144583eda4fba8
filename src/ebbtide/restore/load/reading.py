"""Reading the documents of a plan's collections from their source, as raw batches.

A `Reader` gives all documents that one planned collection gets, end to end in batches, each document once. It may be
called again, and from any thread: the loader reads with it, and the comparison after that.
"""

from collections.abc import Generator
from contextlib import closing
from typing import Any, Protocol

import pymongo
from pymongo.collection import Collection

from ebbtide.restore.load.inventory import RAW, Client, Held
from ebbtide.restore.load.plan import PlannedCollection

_COUNT_SECONDS_MAX = 24 * 3600.0


class Reader(Protocol):
    """Where a collection's documents come from. Both raise PyMongo's errors."""

    def iter_batches(self, planned: PlannedCollection, *, batch_documents: int) -> Generator[bytes]:
        """Its documents in batches of at most so many; 0 for as many as the server likes."""

    def count_documents(self, planned: PlannedCollection) -> int:
        """How many there are, by reading them all: a server's books may be wrong after a crash."""


class NaturalReader:
    """Everything that one server has of a collection, in natural order."""

    def __init__(self, source: Client) -> None:
        self._source = source

    def iter_batches(self, planned: PlannedCollection, *, batch_documents: int) -> Generator[bytes]:
        return iter_found(self._source, planned.held, batch_documents=batch_documents)

    def count_documents(self, planned: PlannedCollection) -> int:
        return count_all(self._source[planned.held.database][planned.held.name])


def iter_found(source: Client, held: Held, *, batch_documents: int = 0, **find: Any) -> Generator[bytes]:
    """The batches of one cursor on a collection; `find` are further arguments of PyMongo's."""
    collection: Collection[Any] = source[held.database].get_collection(held.name, codec_options=RAW)
    # A wait for the target may be longer than a cursor lives.
    batches = collection.find_raw_batches({}, batch_size=batch_documents, no_cursor_timeout=True, **find)
    with closing(batches):
        for raw in batches:
            if raw:
                yield bytes(raw)


def count_all(collection: Collection[Any]) -> int:
    """How many documents it has, by reading them."""
    with pymongo.timeout(_COUNT_SECONDS_MAX):
        found = list(collection.aggregate([{"$count": "documents"}]))
    return int(found[0]["documents"]) if found else 0
