"""What the records of API keys and of service accounts have in common: an access list, changed one entry at a time."""

from datetime import datetime
from typing import Any, Generic, TypeVar

from pymongo import ASCENDING
from pymongo.collection import Collection

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.access import Grant
from ebbtide.domain.access_list import AccessEntry

R = TypeVar("R")


class CallerCollection(Generic[R]):
    """All records of one kind of caller."""

    def __init__(self, collection: Collection[Document], record_type: type[R]) -> None:
        self._records = collection
        self._record_type = record_type

    @translated
    def insert(self, record: R) -> None:
        self._records.insert_one(to_document(record))

    @translated
    def find(self, record_id: str) -> R | None:
        return self._found({"_id": record_id})

    @translated
    def list_all(self) -> list[R]:
        """Oldest first."""
        return [from_document(self._record_type, d) for d in self._records.find().sort("_id", ASCENDING)]

    @translated
    def delete(self, record_id: str) -> None:
        """Whoever logged in with it is shut out at once."""
        self._records.delete_one({"_id": record_id})

    @translated
    def change(
        self,
        record_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        grants: tuple[Grant, ...] | None = None,
    ) -> R | None:
        """Set what is given; returns the record as it is now."""
        given: dict[str, Any] = {"name": name, "description": description, "grants": grants}
        changes = {field: to_value(value) for field, value in given.items() if value is not None}
        if changes:
            self._records.update_one({"_id": record_id}, {"$set": changes})
        return self._found({"_id": record_id})

    @translated
    def allow(self, record_id: str, entry: AccessEntry) -> R | None:
        """Add an entry unless its network is listed; returns the record as it is now."""
        self._records.update_one(
            {"_id": record_id, "access_list.cidr": {"$ne": entry.cidr}},
            {"$push": {"access_list": to_value(entry)}},
        )
        return self._found({"_id": record_id})

    @translated
    def disallow(self, record_id: str, cidr: str) -> R | None:
        """Remove a network from the list; returns the record as it is now."""
        self._records.update_one({"_id": record_id}, {"$pull": {"access_list": {"cidr": cidr}}})
        return self._found({"_id": record_id})

    @translated
    def record_use(self, record_id: str, cidr: str, *, address: str, now: datetime, count: int = 1) -> None:
        """Note on the entry `cidr` that `count` calls came through it, the last one now and from `address`."""
        self._records.update_one(
            {"_id": record_id, "access_list.cidr": cidr},
            {
                "$set": {"access_list.$.last_used": now, "access_list.$.last_used_address": address},
                "$inc": {"access_list.$.count": count},
            },
        )

    def _found(self, query: Document) -> R | None:
        document = self._records.find_one(query)
        return None if document is None else from_document(self._record_type, document)
