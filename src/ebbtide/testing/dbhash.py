"""Whether two mongods hold the same documents, by the server's own `dbHash`."""

from collections.abc import Collection
from typing import Any

from pymongo import MongoClient

Document = dict[str, Any]


def database_hashes(
    client: "MongoClient[Document]", *, exclude: Collection[str] = ("local",)
) -> dict[str, dict[str, str]]:
    """For each database the hash of each collection, without the databases in `exclude`."""
    names = sorted(set(client.list_database_names()) - set(exclude))
    return {name: dict(client[name].command("dbHash")["collections"]) for name in names}
