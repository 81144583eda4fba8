"""Groups and API keys."""

from datetime import datetime

from pymongo import ASCENDING
from pymongo.database import Database

from ebbtide.catalog.callers import CallerCollection
from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.access import ApiKey
from ebbtide.domain.expiry import ExpiryStage
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
    def rename(self, group_id: GroupId, name: str) -> None:
        self._groups.update_one({"_id": group_id}, {"$set": {"name": name}})

    @translated
    def list_all(self) -> list[Group]:
        """Oldest first."""
        cursor = self._groups.find().sort([("created", ASCENDING), ("_id", ASCENDING)])
        return [from_document(Group, d) for d in cursor]


class ApiKeyCollection(CallerCollection[ApiKey]):
    """All API keys."""

    def __init__(self, database: Database[Document]) -> None:
        super().__init__(database.api_keys, ApiKey)

    @translated
    def find_by_public_key(self, public_key: str) -> ApiKey | None:
        return self._found({"public_key": public_key})

    @translated
    def list_ending(self, before: datetime) -> list[ApiKey]:
        """The keys that end, or have ended, until `before`; those whose end was told of are left out."""
        query = {"expires": {"$lte": before}, "expiry_told": {"$ne": ExpiryStage.ENDED.value}}
        return [from_document(ApiKey, d) for d in self._records.find(query)]

    @translated
    def note_expiry_told(self, key_id: str, stage: ExpiryStage) -> None:
        """Remember that an event told of it."""
        self._records.update_one({"_id": key_id}, {"$set": {"expiry_told": stage.value}})

    @translated
    def replace_secret(self, key_id: str, ha1: Sealed) -> None:
        """Give the key a new secret; the old one stops working at once."""
        self._records.update_one({"_id": key_id}, {"$set": {"ha1": to_value(ha1)}})
