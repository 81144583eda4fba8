"""The queue of jobs: enqueue, claim by lease, heartbeat, finish.

Every change by a worker names its id, so a worker that lost its lease changes nothing: such calls return False
(or None). A job whose lease ran out, or whose worker is known dead (`release_all`), can be claimed again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.job import Job, JobKind, JobState

_QUEUED = JobState.QUEUED.value
_RUNNING = JobState.RUNNING.value


class JobCollection:
    """All jobs."""

    def __init__(self, database: Database[Document]) -> None:
        self._jobs = database.jobs

    @translated
    def enqueue(self, job: Job) -> None:
        """Harmless where the job exists, whatever its state."""
        try:
            self._jobs.insert_one(to_document(job))
        except DuplicateKeyError:
            pass

    @translated
    def find(self, job_id: str) -> Job | None:
        document = self._jobs.find_one({"_id": job_id})
        return None if document is None else from_document(Job, document)

    @translated
    def claim(
        self,
        *,
        worker_id: str,
        now: datetime,
        until: datetime,
        snapshot_cluster_ids: Sequence[ClusterId],
        except_ids: Sequence[str] = (),
        kinds: Sequence[JobKind] = tuple(JobKind),
    ) -> Job | None:
        """Take the oldest job of these kinds that waits or was abandoned.

        A snapshot is claimed only for a cluster in `snapshot_cluster_ids`: those whose head this worker holds.
        `except_ids` are the jobs that this worker still works on: with one of those claimed anew, both runs would be
        the owner, for it is the worker that a lease names.
        """
        document = self._jobs.find_one_and_update(
            {
                "$and": [
                    {
                        "$or": [
                            {"state": _QUEUED, "not_before": {"$lte": now}},
                            {"state": _RUNNING, "lease_until": {"$lt": now}},
                        ]
                    },
                    {
                        "$or": [
                            {"kind": {"$ne": JobKind.SNAPSHOT.value}},
                            {"cluster_id": {"$in": list(snapshot_cluster_ids)}},
                        ]
                    },
                    {"_id": {"$nin": list(except_ids)}},
                    {"kind": {"$in": [kind.value for kind in kinds]}},
                ]
            },
            {
                "$set": {"state": _RUNNING, "lease_worker_id": worker_id, "lease_until": until},
                "$inc": {"attempts": 1},
            },
            sort=[("created", ASCENDING), ("_id", ASCENDING)],
            return_document=ReturnDocument.AFTER,
        )
        return None if document is None else from_document(Job, document)

    @translated
    def is_running(self, kind: JobKind, cluster_id: ClusterId, *, step: str | None = None) -> bool:
        """Whether a worker holds a job of that kind for the cluster; with `step`, one that is in this step."""
        query: Document = {"kind": kind.value, "cluster_id": cluster_id, "state": _RUNNING}
        if step is not None:
            query["step"] = step
        return self._jobs.find_one(query, projection={"_id": 1}) is not None

    @translated
    def heartbeat(self, job_id: str, *, worker_id: str, until: datetime) -> Job | None:
        """Renew the lease; returns the job (with `cancel_requested`), or None once the lease is lost."""
        return self._update_mine(job_id, worker_id, {"lease_until": until})

    @translated
    def record(self, job_id: str, *, worker_id: str, **changes: Any) -> Job | None:
        """Change fields of a job that `worker_id` holds."""
        return self._update_mine(job_id, worker_id, {k: to_value(v) for k, v in changes.items()})

    @translated
    def note_waiting(self, kind: JobKind, reason: str) -> None:
        """Say in every job of that kind that waits why it does."""
        self._jobs.update_many(
            {"state": _QUEUED, "kind": kind.value, "error": {"$ne": reason}}, {"$set": {"error": reason}}
        )

    @translated
    def count_by_kind_and_state(self) -> dict[tuple[JobKind, JobState], int]:
        """How many jobs there are of each kind in each state, 0 included."""
        return {
            (kind, state): self._jobs.count_documents({"kind": kind.value, "state": state.value})
            for kind in JobKind
            for state in JobState
        }

    @translated
    def request_cancel(self, job_id: str) -> Job | None:
        """Ask a job to stop; one that nobody works on is cancelled at once. Returns the job as it is now."""
        self._jobs.update_one(
            {"_id": job_id, "state": _QUEUED},
            {"$set": {"state": JobState.CANCELLED.value, "cancel_requested": True}},
        )
        self._jobs.update_one({"_id": job_id, "state": _RUNNING}, {"$set": {"cancel_requested": True}})
        document = self._jobs.find_one({"_id": job_id})
        return None if document is None else from_document(Job, document)

    @translated
    def finish(self, job_id: str, *, worker_id: str, state: JobState, error: str = "") -> bool:
        """End a job; False once the lease is lost."""
        changes = {"state": state.value, "error": error, "lease_worker_id": None, "lease_until": None}
        return self._update_mine(job_id, worker_id, changes) is not None

    @translated
    def put_back(self, job_id: str, *, worker_id: str, **changes: Any) -> bool:
        """Return a job to the queue, with `changes`; False once the lease is lost."""
        values = {k: to_value(v) for k, v in changes.items()}
        back = {**values, "state": _QUEUED, "lease_worker_id": None, "lease_until": None}
        return self._update_mine(job_id, worker_id, back) is not None

    @translated
    def release_all(self, worker_id: str) -> None:
        """Return every job of a worker that is gone to the queue."""
        self._jobs.update_many(
            {"lease_worker_id": worker_id, "state": _RUNNING},
            {"$set": {"state": _QUEUED, "lease_worker_id": None, "lease_until": None}},
        )

    def _update_mine(self, job_id: str, worker_id: str, changes: Document) -> Job | None:
        document = self._jobs.find_one_and_update(
            {"_id": job_id, "lease_worker_id": worker_id, "state": _RUNNING},
            {"$set": changes},
            return_document=ReturnDocument.AFTER,
        )
        return None if document is None else from_document(Job, document)
