"""Automated restores: what each restore job did to its target.

A unique index over the active ones keeps two restores off one target, so `insert` is what claims it. The claim is given
back by `release`, once nothing of the job can touch the target any more. Which collections are in place is a document
each: a list in the record would be written anew for each of them.
"""

from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.automated_restore import AutomatedRestore
from ebbtide.domain.ids import ClusterId, RestoreJobId


class TargetBusy(Exception):
    """Another restore into this cluster is not over."""


class AutomatedRestoreCollection:
    """All automated restores, by the id of their restore job."""

    def __init__(self, database: Database[Document]) -> None:
        self._restores = database.automated_restores
        self._finished = database.finished_collections

    @translated
    def insert(self, restore: AutomatedRestore) -> None:
        """Claims the target. Raises TargetBusy."""
        try:
            self._restores.insert_one(to_document(restore))
        except DuplicateKeyError:
            raise TargetBusy(restore.target_name) from None

    @translated
    def find(self, job_id: RestoreJobId) -> AutomatedRestore | None:
        return _restore(self._restores.find_one({"_id": job_id}))

    @translated
    def find_active(self, target_cluster_id: ClusterId) -> AutomatedRestore | None:
        """The restore that has claimed this target."""
        return _restore(self._restores.find_one({"target_cluster_id": target_cluster_id, "is_active": True}))

    @translated
    def list_active(self) -> list[AutomatedRestore]:
        cursor = self._restores.find({"is_active": True})
        return [from_document(AutomatedRestore, d) for d in cursor]

    @translated
    def list_with_undo(self, target_cluster_id: ClusterId, now: datetime) -> list[AutomatedRestore]:
        """The restores into this target that are active, or whose time to be undone is not over at `now`."""
        live = [{"is_active": True}, {"undo_until": {"$gt": now}}]
        cursor = self._restores.find({"target_cluster_id": target_cluster_id, "$or": live})
        return [from_document(AutomatedRestore, d) for d in cursor]

    @translated
    def update(self, job_id: RestoreJobId, **changes: Any) -> AutomatedRestore | None:
        """Change fields; the restore as it is then."""
        values = {name: to_value(value) for name, value in changes.items()}
        return _restore(
            self._restores.find_one_and_update(
                {"_id": job_id}, {"$set": values}, return_document=ReturnDocument.AFTER
            )
        )

    @translated
    def finish_collection(self, job_id: RestoreJobId, namespace: str) -> None:
        """Note that a collection is in place with its documents. Idempotent."""
        found = {"_id": f"{job_id} {namespace}", "job_id": job_id, "namespace": namespace}
        self._finished.replace_one({"_id": found["_id"]}, found, upsert=True)

    @translated
    def find_finished(self, job_id: RestoreJobId) -> frozenset[str]:
        """The namespaces of the source that are in place with their documents."""
        return frozenset(d["namespace"] for d in self._finished.find({"job_id": job_id}))

    @translated
    def forget_finished(self, job_id: RestoreJobId) -> None:
        """None of them is in place any more."""
        self._finished.delete_many({"job_id": job_id})

    @translated
    def release(self, job_id: RestoreJobId) -> None:
        """Let others restore into the target. No attempt goes on any more: what was in place need not be known."""
        self._restores.update_one({"_id": job_id}, {"$set": {"is_active": False}})
        self._finished.delete_many({"job_id": job_id})


def _restore(document: Document | None) -> AutomatedRestore | None:
    return None if document is None else from_document(AutomatedRestore, document)
