"""What must go from replayed files before anybody else has them: things that were half done at that moment.

  * `config.transactions` is emptied: a transaction that was prepared then would come back with the first restart as a
    member, without anyone who could end it, and block its documents for ever. Lost with it: the retry of writes that
    were in flight.
  * an index that was still being built is dropped: it did not exist yet. A plain mongod lists it like a finished one,
    and refuses to create it.

Both are done on a plain start; both can be done again.
"""

from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient, WriteConcern

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class UnfinishedIndex:
    """An index that was still being built: where, its name, and the specification that would create it."""

    namespace: str
    name: str
    specification: Document


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What was found half done, and is gone now."""

    prepared_transactions: int = 0
    unfinished_indexes: tuple[UnfinishedIndex, ...] = ()


def settle(client: "MongoClient[Document]") -> Settled:
    """Do it on a plainly started mongod. Raises PyMongo's errors."""
    transactions = client.config.get_collection("transactions", write_concern=WriteConcern(w=1, j=True))
    prepared = transactions.count_documents({"state": "prepared"})
    transactions.delete_many({})
    unfinished = find_unfinished_indexes(client)
    for index in unfinished:
        database, _, collection = index.namespace.partition(".")
        client[database].command("dropIndexes", collection, index=index.name)
    return Settled(prepared_transactions=prepared, unfinished_indexes=unfinished)


def find_unfinished_indexes(client: "MongoClient[Document]") -> tuple[UnfinishedIndex, ...]:
    """Every index that is still being built, or was when the files were left."""
    found: list[UnfinishedIndex] = []
    for database in client.list_database_names():
        if database == "local":
            continue
        for collection in client[database].list_collections(filter={"type": "collection"}):
            found += _unfinished_of(client, database, str(collection["name"]))
    return tuple(found)


def _unfinished_of(client: "MongoClient[Document]", database: str, collection: str) -> list[UnfinishedIndex]:
    answer = client[database].command("listIndexes", collection, includeBuildUUIDs=True)
    # One page holds 101: a collection has at most 64 indexes.
    return [
        UnfinishedIndex(
            namespace=f"{database}.{collection}",
            name=str(index["spec"]["name"]),
            specification=dict(index["spec"]),
        )
        for index in answer["cursor"]["firstBatch"]
        if "buildUUID" in index
    ]
