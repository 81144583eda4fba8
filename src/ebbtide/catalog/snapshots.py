"""Snapshots as the catalog lists them."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pymongo import DESCENDING, ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.ids import ClusterId, SnapshotId
from ebbtide.domain.snapshot import Snapshot, SnapshotState

_NEWEST_FIRST = [("created", DESCENDING), ("_id", DESCENDING)]


class SnapshotCollection:
    """All snapshots; lists are newest first, id as tie-break."""

    def __init__(self, database: Database[Document]) -> None:
        self._snapshots = database.snapshots

    @translated
    def insert(self, snapshot: Snapshot) -> None:
        """Harmless where it exists."""
        try:
            self._snapshots.insert_one(to_document(snapshot))
        except DuplicateKeyError:
            pass

    @translated
    def find(self, snapshot_id: SnapshotId) -> Snapshot | None:
        document = self._snapshots.find_one({"_id": snapshot_id})
        return None if document is None else from_document(Snapshot, document)

    @translated
    def find_many(self, snapshot_ids: Iterable[SnapshotId]) -> dict[SnapshotId, Snapshot]:
        """Those of `snapshot_ids` that exist, by id."""
        cursor = self._snapshots.find({"_id": {"$in": list(snapshot_ids)}})
        return {found.id: found for found in (from_document(Snapshot, document) for document in cursor)}

    @translated
    def page(
        self, cluster_id: ClusterId, *, states: tuple[SnapshotState, ...], skip: int, limit: int
    ) -> list[Snapshot]:
        cursor = self._snapshots.find(_query(cluster_id, states)).sort(_NEWEST_FIRST).skip(skip).limit(limit)
        return [from_document(Snapshot, d) for d in cursor]

    @translated
    def count(self, cluster_id: ClusterId, *, states: tuple[SnapshotState, ...]) -> int:
        return self._snapshots.count_documents(_query(cluster_id, states))

    @translated
    def newest_complete(self, cluster_id: ClusterId) -> Snapshot | None:
        document = self._snapshots.find_one(
            {"cluster_id": cluster_id, "state": SnapshotState.COMPLETE.value}, sort=_NEWEST_FIRST
        )
        return None if document is None else from_document(Snapshot, document)

    @translated
    def list_in_state(self, cluster_id: ClusterId, *states: SnapshotState) -> list[Snapshot]:
        """All of one cluster in these states, newest first."""
        cursor = self._snapshots.find(_query(cluster_id, states)).sort(_NEWEST_FIRST)
        return [from_document(Snapshot, d) for d in cursor]

    @translated
    def list_cluster_ids(self) -> list[ClusterId]:
        """Every cluster that has a snapshot of any state, removed clusters too."""
        return [ClusterId(cluster_id) for cluster_id in self._snapshots.distinct("cluster_id")]

    @translated
    def newest_slot(self, cluster_id: ClusterId) -> datetime | None:
        """The newest slot of the schedule that a snapshot was asked for, whatever became of it."""
        document = self._snapshots.find_one(
            {"cluster_id": cluster_id, "scheduled_for": {"$ne": None}}, sort=[("scheduled_for", DESCENDING)]
        )
        return None if document is None else from_document(Snapshot, document).scheduled_for

    @translated
    def list_in_progress(self) -> list[Snapshot]:
        cursor = self._snapshots.find({"state": SnapshotState.IN_PROGRESS.value})
        return [from_document(Snapshot, d) for d in cursor]

    @translated
    def update(self, snapshot_id: SnapshotId, **changes: Any) -> Snapshot | None:
        """Change fields of a snapshot that is in progress; None where it is not any more."""
        document = self._snapshots.find_one_and_update(
            {"_id": snapshot_id, "state": SnapshotState.IN_PROGRESS.value},
            {"$set": {name: to_value(value) for name, value in changes.items()}},
            return_document=ReturnDocument.AFTER,
        )
        return None if document is None else from_document(Snapshot, document)

    @translated
    def change(
        self, snapshot_id: SnapshotId, *, only: SnapshotState, unless_removed: bool = False, **changes: Any
    ) -> Snapshot | None:
        """Change fields of a snapshot in the state `only`; None where it is in another one.

        With `unless_removed` also None once prune has begun to remove it: of the two that want it, one wins.
        """
        query: Document = {"_id": snapshot_id, "state": only.value}
        if unless_removed:
            query["removed"] = None
        document = self._snapshots.find_one_and_update(
            query,
            {"$set": {name: to_value(value) for name, value in changes.items()}},
            return_document=ReturnDocument.AFTER,
        )
        return None if document is None else from_document(Snapshot, document)


def _query(cluster_id: ClusterId, states: tuple[SnapshotState, ...]) -> Document:
    return {"cluster_id": cluster_id, "state": {"$in": [state.value for state in states]}}
