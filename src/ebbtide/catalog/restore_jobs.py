"""Restore jobs, and the transfers of their download links.

A restore job's pair of states changes only along the table in `domain.restore_job`: `apply` names the states that
the event may come from in its query, so two writers cannot both win.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.download import Transfer
from ebbtide.domain.ids import BatchId, ClusterId, RestoreJobId, SnapshotId
from ebbtide.domain.restore_job import (
    TRANSITIONS,
    DeliveryStatus,
    RestoreEvent,
    RestoreJob,
    RestoreStatus,
)

_NEWEST_FIRST = [("created", DESCENDING), ("_id", DESCENDING)]


def _of(cluster_ids: Sequence[ClusterId]) -> Document:
    """The jobs of these clusters: with one the index gives the order, with more of them it merges."""
    return {"cluster_id": cluster_ids[0] if len(cluster_ids) == 1 else {"$in": list(cluster_ids)}}


class RestoreJobCollection:
    """All restore jobs; lists are newest first, id as tie-break."""

    def __init__(self, database: Database[Document]) -> None:
        self._jobs = database.restore_jobs
        self._as_stored = self._jobs.with_options(CodecOptions(document_class=RawBSONDocument))

    @translated
    def insert(self, job: RestoreJob) -> None:
        """Harmless where it exists."""
        try:
            self._jobs.insert_one(to_document(job))
        except DuplicateKeyError:
            pass

    @translated
    def find(self, job_id: RestoreJobId) -> RestoreJob | None:
        document = self._jobs.find_one({"_id": job_id})
        return None if document is None else from_document(RestoreJob, document)

    @translated
    def page(self, cluster_id: ClusterId, *, skip: int, limit: int) -> list[RestoreJob]:
        cursor = self._jobs.find({"cluster_id": cluster_id}).sort(_NEWEST_FIRST).skip(skip).limit(limit)
        return [from_document(RestoreJob, d) for d in cursor]

    @translated
    def page_as_stored(self, *cluster_ids: ClusterId, skip: int, limit: int) -> list[bytes]:
        """As `page`, of any of these clusters, each job as the catalog holds it: for `read_stored`, and to see whether it
        changed."""
        cursor = self._as_stored.find(_of(cluster_ids)).sort(_NEWEST_FIRST).skip(skip).limit(limit)
        return [bytes(d.raw) for d in cursor]

    def read_stored(self, stored: bytes) -> RestoreJob:
        """The job of one item of `page_as_stored`."""
        return from_document(RestoreJob, bson.decode(stored, self._jobs.codec_options))

    @translated
    def count(self, *cluster_ids: ClusterId) -> int:
        return self._jobs.count_documents(_of(cluster_ids))

    @translated
    def list_unfinished(self) -> list[RestoreJob]:
        """Jobs that a worker still has to bring to READY."""
        cursor = self._jobs.find({"status": RestoreStatus.IN_PROGRESS.value})
        return [from_document(RestoreJob, d) for d in cursor]

    @translated
    def list_expired(self, now: datetime) -> list[RestoreJob]:
        """Jobs whose link is READY although its time has passed."""
        cursor = self._jobs.find({"delivery_status": DeliveryStatus.READY.value, "expires": {"$lte": now}})
        return [from_document(RestoreJob, d) for d in cursor]

    @translated
    def list_for_snapshot(self, snapshot_id: SnapshotId) -> list[RestoreJob]:
        cursor = self._jobs.find({"snapshot_id": snapshot_id}).sort(_NEWEST_FIRST)
        return [from_document(RestoreJob, d) for d in cursor]

    @translated
    def list_batch(self, batch_id: BatchId) -> list[RestoreJob]:
        """The jobs of all parts of one restore."""
        cursor = self._jobs.find({"batch_id": batch_id}).sort(_NEWEST_FIRST)
        return [from_document(RestoreJob, d) for d in cursor]

    @translated
    def list_ready(self) -> list[RestoreJob]:
        """Jobs whose link is usable, or whose time has just passed."""
        cursor = self._jobs.find({"delivery_status": DeliveryStatus.READY.value})
        return [from_document(RestoreJob, d) for d in cursor]

    @translated
    def apply(self, job_id: RestoreJobId, event: RestoreEvent, **changes: Any) -> RestoreJob | None:
        """Let `event` happen, with `changes` in the same write; None where it does not apply to the job's state."""
        values = {name: to_value(value) for name, value in changes.items()}
        for (before, taken), after in TRANSITIONS.items():
            if taken is not event:
                continue
            document = self._jobs.find_one_and_update(
                {"_id": job_id, "status": before[0].value, "delivery_status": before[1].value},
                {"$set": {**values, "status": after[0].value, "delivery_status": after[1].value}},
                return_document=ReturnDocument.AFTER,
            )
            if document is not None:
                return from_document(RestoreJob, document)
        return None

    @translated
    def set_sha1(self, job_id: RestoreJobId, sha1: str) -> None:
        self._jobs.update_one({"_id": job_id}, {"$set": {"sha1": sha1}})

    @translated
    def raise_completed_downloads(self, job_id: RestoreJobId, completed: int) -> RestoreJob | None:
        """Note that `completed` downloads are done; the count never goes down."""
        document = self._jobs.find_one_and_update(
            {"_id": job_id},
            {"$max": {"completed_downloads": completed}},
            return_document=ReturnDocument.AFTER,
        )
        return None if document is None else from_document(RestoreJob, document)


class TransferCollection:
    """Transfers of download links."""

    def __init__(self, database: Database[Document]) -> None:
        self._transfers = database.transfers

    @translated
    def insert(self, transfer: Transfer) -> None:
        self._transfers.insert_one(to_document(transfer))

    @translated
    def list_for_job(self, job_id: RestoreJobId) -> list[Transfer]:
        """Oldest first."""
        cursor = self._transfers.find({"job_id": job_id}).sort([("started", ASCENDING), ("_id", ASCENDING)])
        return [from_document(Transfer, d) for d in cursor]

    @translated
    def list_lost(self, before: datetime) -> list[Transfer]:
        """Transfers that never ended and told nothing since `before`: their api process died."""
        cursor = self._transfers.find({"ended": None, "updated": {"$lt": before}})
        return [from_document(Transfer, d) for d in cursor]

    @translated
    def delete_ended_before(self, time: datetime) -> int:
        """Forget the transfers that ended, and were last heard of, before `time`; how many there were."""
        query = {"ended": {"$lt": time}, "updated": {"$lt": time}}
        return self._transfers.delete_many(query).deleted_count

    @translated
    def record_progress(
        self, transfer_id: str, *, sent_bytes: int, now: datetime, ended: datetime | None
    ) -> None:
        self._transfers.update_one(
            {"_id": transfer_id}, {"$set": {"sent_bytes": sent_bytes, "updated": now, "ended": ended}}
        )

    @translated
    def delete(self, transfer_id: str) -> None:
        self._transfers.delete_one({"_id": transfer_id})
