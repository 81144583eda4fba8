"""Workers that are, or were, alive: enough to tell whether one on this machine has died."""

from dataclasses import dataclass
from datetime import datetime

from pymongo.database import Database

from ebbtide.catalog.codec import from_document, to_document
from ebbtide.catalog.connection import Document, translated


@dataclass(frozen=True, kw_only=True)
class WorkerRecord:
    """One worker process. `boot_id` names the machine's current run, `start_ticks` the process within it."""

    id: str
    boot_id: str
    pid: int
    start_ticks: int
    heartbeat: datetime


class WorkerCollection:
    """All workers."""

    def __init__(self, database: Database[Document]) -> None:
        self._workers = database.workers

    @translated
    def put(self, worker: WorkerRecord) -> None:
        self._workers.replace_one({"_id": worker.id}, to_document(worker), upsert=True)

    @translated
    def list_all(self) -> list[WorkerRecord]:
        return [from_document(WorkerRecord, d) for d in self._workers.find()]

    @translated
    def delete(self, worker_id: str) -> None:
        self._workers.delete_one({"_id": worker_id})
