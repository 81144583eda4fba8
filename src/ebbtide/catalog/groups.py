"""Groups and API keys."""

from datetime import datetime

from pymongo import ASCENDING
from pymongo.database import Database

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.access import AccessEntry, ApiKey
from ebbtide.domain.group import Group
from ebbtide.domain.ids import GroupId
from ebbtide.domain.sealed import Sealed


class GroupCollection:
    """All groups."""

    def __init__(self, database: Database[Document]) -> None:
        self._groups = database.groups

    @translated
    def insert(self, group: Group) -> None:
        self._groups.insert_one(to_document(group))

    @translated
    def find(self, group_id: GroupId) -> Group | None:
        document = self._groups.find_one({"_id": group_id})
        return None if document is None else from_document(Group, document)

    @translated
    def list_all(self) -> list[Group]:
        """Oldest first."""
        cursor = self._groups.find().sort([("created", ASCENDING), ("_id", ASCENDING)])
        return [from_document(Group, d) for d in cursor]


class ApiKeyCollection:
    """All API keys."""

    def __init__(self, database: Database[Document]) -> None:
        self._keys = database.api_keys

    @translated
    def insert(self, key: ApiKey) -> None:
        self._keys.insert_one(to_document(key))

    @translated
    def find_by_public_key(self, public_key: str) -> ApiKey | None:
        document = self._keys.find_one({"public_key": public_key})
        return None if document is None else from_document(ApiKey, document)

    @translated
    def list_all(self) -> list[ApiKey]:
        """Oldest first."""
        return [from_document(ApiKey, d) for d in self._keys.find().sort("_id", ASCENDING)]

    @translated
    def replace_secret(self, key_id: str, ha1: Sealed) -> None:
        """Give the key a new secret; the old one stops working at once."""
        self._keys.update_one({"_id": key_id}, {"$set": {"ha1": to_value(ha1)}})

    @translated
    def allow(self, key_id: str, entry: AccessEntry) -> ApiKey | None:
        """Add an entry unless its network is listed; returns the key as it is now."""
        self._keys.update_one(
            {"_id": key_id, "access_list.cidr": {"$ne": entry.cidr}},
            {"$push": {"access_list": to_value(entry)}},
        )
        return self._find(key_id)

    @translated
    def disallow(self, key_id: str, cidr: str) -> ApiKey | None:
        """Remove a network from the list; returns the key as it is now."""
        self._keys.update_one({"_id": key_id}, {"$pull": {"access_list": {"cidr": cidr}}})
        return self._find(key_id)

    @translated
    def record_use(self, key_id: str, cidr: str, *, address: str, now: datetime) -> None:
        """Note on the entry `cidr` that the key was used from `address`."""
        self._keys.update_one(
            {"_id": key_id, "access_list.cidr": cidr},
            {
                "$set": {"access_list.$.last_used": now, "access_list.$.last_used_address": address},
                "$inc": {"access_list.$.count": 1},
            },
        )

    def _find(self, key_id: str) -> ApiKey | None:
        document = self._keys.find_one({"_id": key_id})
        return None if document is None else from_document(ApiKey, document)
