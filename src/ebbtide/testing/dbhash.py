"""Whether two mongods hold the same documents, by the server's own `dbHash`.

Meant for a locked head and its copy, opened as a standalone and advanced to the same oplog timestamp. On 6.0.5 all
of `admin` and `config` (users, keys, the table of transactions, images of retryable writes) come out equal there.
Left out:
  * `local`: each member's own; the server hashes nothing of it
  * `config.system.indexBuilds`: how far this member's index builds are, kept by each member for itself
  * by the server itself: `system.profile`, `config.system.sessions` and other `system.` collections, except users,
    roles, versions, views, stored functions and the buckets of time series

`dbHash` reads documents and nothing else: not indexes, collection options or UUIDs. It reads all of them.
"""

from collections.abc import Collection
from typing import Any

from pymongo import MongoClient

Document = dict[str, Any]

OWN_BOOKKEEPING = frozenset({("config", "system.indexBuilds")})


def database_hashes(
    client: "MongoClient[Document]", *, exclude: Collection[str] = ("local",)
) -> dict[str, dict[str, str]]:
    """For each database the hash of each collection, without the databases in `exclude`.

    `client` must be of one member. The roles of the lab's backup user suffice; raises PyMongo's errors.
    """
    names = sorted(set(client.list_database_names()) - set(exclude))
    return {name: _collection_hashes(client, name) for name in names}


def _collection_hashes(client: "MongoClient[Document]", database: str) -> dict[str, str]:
    hashes: dict[str, str] = client[database].command("dbHash")["collections"]
    return {name: value for name, value in hashes.items() if (database, name) not in OWN_BOOKKEEPING}
