"""Leases: what only one worker at a time may do, by name."""

from dataclasses import dataclass
from datetime import datetime

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ebbtide.catalog.codec import from_document
from ebbtide.catalog.connection import Document, translated


@dataclass(frozen=True, kw_only=True)
class Lease:
    """`worker_id` holds `id` until `until`, unless it gives it back before."""

    id: str
    worker_id: str
    until: datetime


class LeaseCollection:
    """All leases that are, or were, held."""

    def __init__(self, database: Database[Document]) -> None:
        self._leases = database.leases

    @translated
    def claim(self, name: str, *, worker_id: str, now: datetime, until: datetime) -> bool:
        """Take or renew a lease; False while another worker holds it."""
        free_or_mine = {"_id": name, "$or": [{"worker_id": worker_id}, {"until": {"$lte": now}}]}
        try:
            self._leases.update_one(
                free_or_mine, {"$set": {"worker_id": worker_id, "until": until}}, upsert=True
            )
        except DuplicateKeyError:
            # It exists and is another worker's, so the update wanted to insert it.
            return False
        return True

    @translated
    def renew(self, name: str, *, worker_id: str, now: datetime, until: datetime) -> bool:
        """Hold a lease for longer; False once it ran out or is another worker's."""
        held = self._leases.update_one(
            {"_id": name, "worker_id": worker_id, "until": {"$gt": now}}, {"$set": {"until": until}}
        )
        return held.matched_count == 1

    @translated
    def release(self, name: str, *, worker_id: str) -> None:
        self._leases.delete_one({"_id": name, "worker_id": worker_id})

    @translated
    def release_all(self, worker_id: str) -> None:
        """Give up every lease of a worker that is gone."""
        self._leases.delete_many({"worker_id": worker_id})

    @translated
    def find(self, name: str, *, now: datetime) -> Lease | None:
        """The lease, if somebody holds it."""
        document = self._leases.find_one({"_id": name, "until": {"$gt": now}})
        return None if document is None else from_document(Lease, document)
