"""The state of each cluster's oplog archive, and how far somebody wants it to be."""

from typing import Any

from pymongo import ReturnDocument
from pymongo.database import Database

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.archive_state import ArchiveState
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.optime import OplogTimestamp


class ArchiveCollection:
    """One document per cluster that is, or was, archived."""

    def __init__(self, database: Database[Document]) -> None:
        self._archives = database.archives

    @translated
    def find(self, cluster_id: ClusterId) -> ArchiveState | None:
        document = self._archives.find_one({"_id": cluster_id})
        return None if document is None else from_document(ArchiveState, document)

    @translated
    def list_all(self) -> list[ArchiveState]:
        return [from_document(ArchiveState, d) for d in self._archives.find()]

    @translated
    def begin(self, state: ArchiveState) -> ArchiveState:
        """Insert the state where there is none; the one that is there then."""
        fields = to_document(state)
        query = {"_id": fields.pop("_id")}
        self._archives.update_one(query, {"$setOnInsert": fields}, upsert=True)
        return from_document(ArchiveState, self._archives.find_one(query) or {})

    @translated
    def update(self, cluster_id: ClusterId, **changes: Any) -> ArchiveState | None:
        """Change fields; the state afterwards, None where there is none."""
        document = self._archives.find_one_and_update(
            {"_id": cluster_id},
            {"$set": {name: to_value(value) for name, value in changes.items()}},
            return_document=ReturnDocument.AFTER,
        )
        return None if document is None else from_document(ArchiveState, document)

    @translated
    def want(self, cluster_id: ClusterId, timestamp: OplogTimestamp) -> bool:
        """Ask for everything up to `timestamp` to be archived now; whether there is an archive to ask."""
        # The server compares documents field by field, so seconds come before increments.
        found = self._archives.update_one({"_id": cluster_id}, {"$max": {"wanted": to_value(timestamp)}})
        return found.matched_count == 1
