"""Checkpoints of sharded clusters."""

from datetime import datetime
from typing import Any

from pymongo import DESCENDING, ReturnDocument
from pymongo.database import Database

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.checkpoint import Checkpoint, CheckpointState
from ebbtide.domain.ids import CheckpointId, ClusterId

_NEWEST_FIRST = [("created", DESCENDING), ("_id", DESCENDING)]


class CheckpointCollection:
    """All checkpoints; lists are newest first, id as tie-break."""

    def __init__(self, database: Database[Document]) -> None:
        self._checkpoints = database.checkpoints

    @translated
    def insert(self, checkpoint: Checkpoint) -> None:
        self._checkpoints.insert_one(to_document(checkpoint))

    @translated
    def find(self, checkpoint_id: CheckpointId) -> Checkpoint | None:
        return _checkpoint(self._checkpoints.find_one({"_id": checkpoint_id}))

    @translated
    def page(
        self, cluster_id: ClusterId, *, only_noted: bool = False, skip: int, limit: int
    ) -> list[Checkpoint]:
        """Of any state; `only_noted`: those alone that have a cluster time."""
        cursor = (
            self._checkpoints.find(_query(cluster_id, only_noted=only_noted))
            .sort(_NEWEST_FIRST)
            .skip(skip)
            .limit(limit)
        )
        return [from_document(Checkpoint, document) for document in cursor]

    @translated
    def count(self, cluster_id: ClusterId, *, only_noted: bool = False) -> int:
        return self._checkpoints.count_documents(_query(cluster_id, only_noted=only_noted))

    @translated
    def list_in_state(self, cluster_id: ClusterId, *states: CheckpointState) -> list[Checkpoint]:
        """All of one cluster in these states."""
        wanted = {"cluster_id": cluster_id, "state": {"$in": [state.value for state in states]}}
        cursor = self._checkpoints.find(wanted).sort(_NEWEST_FIRST)
        return [from_document(Checkpoint, document) for document in cursor]

    @translated
    def list_cluster_ids(self) -> list[ClusterId]:
        """Every sharded cluster that has one of any state, removed clusters too."""
        return [ClusterId(cluster_id) for cluster_id in self._checkpoints.distinct("cluster_id")]

    @translated
    def newest_slot(self, cluster_id: ClusterId) -> datetime | None:
        """The newest slot of the schedule that one was asked for, whatever became of it."""
        found = _checkpoint(
            self._checkpoints.find_one(
                {"cluster_id": cluster_id, "scheduled_for": {"$ne": None}},
                sort=[("scheduled_for", DESCENDING)],
            )
        )
        return None if found is None else found.scheduled_for

    @translated
    def change(
        self, checkpoint_id: CheckpointId, *, only: CheckpointState, **changes: Any
    ) -> Checkpoint | None:
        """Change fields of one in the state `only`; None where it is in another one, or forgotten."""
        return _checkpoint(
            self._checkpoints.find_one_and_update(
                {"_id": checkpoint_id, "state": only.value},
                {"$set": {name: to_value(value) for name, value in changes.items()}},
                return_document=ReturnDocument.AFTER,
            )
        )

    @translated
    def delete(self, checkpoint_id: CheckpointId) -> None:
        """Idempotent."""
        self._checkpoints.delete_one({"_id": checkpoint_id})


def _checkpoint(document: Document | None) -> Checkpoint | None:
    return None if document is None else from_document(Checkpoint, document)


def _query(cluster_id: ClusterId, *, only_noted: bool) -> Document:
    return {"cluster_id": cluster_id, **({"cluster_time": {"$ne": None}} if only_noted else {})}
