"""Snapshots of sharded clusters as the catalog lists them. Of one cluster at most one is in progress."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pymongo import DESCENDING, ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.cluster_snapshot import ClusterSnapshot
from ebbtide.domain.ids import ClusterId, SnapshotId
from ebbtide.domain.snapshot import SnapshotState

_NEWEST_FIRST = [("created", DESCENDING), ("_id", DESCENDING)]


class ClusterSnapshotCollection:
    """All of them; lists are newest first, id as tie-break."""

    def __init__(self, database: Database[Document]) -> None:
        self._snapshots = database.cluster_snapshots

    @translated
    def insert(self, snapshot: ClusterSnapshot) -> bool:
        """False where one of the same cluster is in progress; then nothing was written."""
        try:
            self._snapshots.insert_one(to_document(snapshot))
        except DuplicateKeyError:
            return False
        return True

    @translated
    def find(self, snapshot_id: SnapshotId) -> ClusterSnapshot | None:
        return _snapshot(self._snapshots.find_one({"_id": snapshot_id}))

    @translated
    def find_many(self, snapshot_ids: Iterable[SnapshotId]) -> dict[SnapshotId, ClusterSnapshot]:
        """Those of `snapshot_ids` that exist, by id."""
        cursor = self._snapshots.find({"_id": {"$in": list(set(snapshot_ids))}})
        return {s.id: s for s in (from_document(ClusterSnapshot, document) for document in cursor)}

    @translated
    def newest_complete(self, cluster_id: ClusterId) -> ClusterSnapshot | None:
        return _snapshot(
            self._snapshots.find_one(
                {"cluster_id": cluster_id, "state": SnapshotState.COMPLETE.value}, sort=_NEWEST_FIRST
            )
        )

    @translated
    def page(
        self, cluster_id: ClusterId, *, states: tuple[SnapshotState, ...], skip: int, limit: int
    ) -> list[ClusterSnapshot]:
        cursor = self._snapshots.find(_query(cluster_id, states)).sort(_NEWEST_FIRST).skip(skip).limit(limit)
        return [from_document(ClusterSnapshot, document) for document in cursor]

    @translated
    def count(self, cluster_id: ClusterId, *, states: tuple[SnapshotState, ...]) -> int:
        return self._snapshots.count_documents(_query(cluster_id, states))

    @translated
    def list_in_state(self, cluster_id: ClusterId, *states: SnapshotState) -> list[ClusterSnapshot]:
        """All of one cluster in these states."""
        cursor = self._snapshots.find(_query(cluster_id, states)).sort(_NEWEST_FIRST)
        return [from_document(ClusterSnapshot, document) for document in cursor]

    @translated
    def list_in_progress(self) -> list[ClusterSnapshot]:
        cursor = self._snapshots.find({"state": SnapshotState.IN_PROGRESS.value})
        return [from_document(ClusterSnapshot, document) for document in cursor]

    @translated
    def list_cluster_ids(self) -> list[ClusterId]:
        """Every sharded cluster that has one of any state, removed clusters too."""
        return [ClusterId(cluster_id) for cluster_id in self._snapshots.distinct("cluster_id")]

    @translated
    def newest_slot(self, cluster_id: ClusterId) -> datetime | None:
        """The newest slot of the schedule that one was asked for, whatever became of it."""
        found = _snapshot(
            self._snapshots.find_one(
                {"cluster_id": cluster_id, "scheduled_for": {"$ne": None}},
                sort=[("scheduled_for", DESCENDING)],
            )
        )
        return None if found is None else found.scheduled_for

    @translated
    def update(self, snapshot_id: SnapshotId, **changes: Any) -> ClusterSnapshot | None:
        """Change fields of one that is in progress; None where it is not any more."""
        return self.change(snapshot_id, only=SnapshotState.IN_PROGRESS, **changes)

    @translated
    def change(
        self, snapshot_id: SnapshotId, *, only: SnapshotState, **changes: Any
    ) -> ClusterSnapshot | None:
        """Change fields of one in the state `only`; None where it is in another one."""
        return _snapshot(
            self._snapshots.find_one_and_update(
                {"_id": snapshot_id, "state": only.value},
                {"$set": {name: to_value(value) for name, value in changes.items()}},
                return_document=ReturnDocument.AFTER,
            )
        )


def _snapshot(document: Document | None) -> ClusterSnapshot | None:
    return None if document is None else from_document(ClusterSnapshot, document)


def _query(cluster_id: ClusterId, states: tuple[SnapshotState, ...]) -> Document:
    return {"cluster_id": cluster_id, "state": {"$in": [state.value for state in states]}}
