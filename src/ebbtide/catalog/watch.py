"""What watching leaves in the catalog: how full the repository is, and how far the webhook has come."""

from dataclasses import dataclass
from datetime import datetime

from pymongo import ReturnDocument
from pymongo.database import Database

from ebbtide.catalog.codec import from_document, to_document
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.bounds import REPOSITORY_SPACE_ID, RepositorySpace

_COUNTED = ("used_bytes", "used_counted")


class RepositorySpaceCollection:
    """The one record of the repository's place; workers write it, the API shows it."""

    def __init__(self, database: Database[Document]) -> None:
        self._space = database.repository_space

    @translated
    def find(self) -> RepositorySpace | None:
        document = self._space.find_one({"_id": REPOSITORY_SPACE_ID})
        return None if document is None else from_document(RepositorySpace, document)

    @translated
    def observe(self, seen: RepositorySpace) -> RepositorySpace | None:
        """Record all of `seen` but what its objects take; returns what was there before.

        Of several workers that see the same change one alone gets the old record.
        """
        changes = {k: v for k, v in to_document(seen).items() if k not in ("_id", *_COUNTED)}
        before = self._space.find_one_and_update(
            {"_id": seen.id}, {"$set": changes}, upsert=True, return_document=ReturnDocument.BEFORE
        )
        return None if before is None else from_document(RepositorySpace, before)

    @translated
    def record_used(self, used_bytes: int, *, now: datetime) -> None:
        """What the repository's objects take; nothing before the first `observe`."""
        self._space.update_one(
            {"_id": REPOSITORY_SPACE_ID}, {"$set": {"used_bytes": used_bytes, "used_counted": now}}
        )


@dataclass(frozen=True, kw_only=True)
class WebhookCursor:
    """The newest event that was sent, or passed over: all later ones are still to be looked at."""

    id: str
    time: datetime
    event_id: str


class WebhookCursorCollection:
    """One cursor a webhook; there is one webhook."""

    def __init__(self, database: Database[Document]) -> None:
        self._cursors = database.webhook_cursors

    @translated
    def find(self, cursor_id: str) -> WebhookCursor | None:
        document = self._cursors.find_one({"_id": cursor_id})
        return None if document is None else from_document(WebhookCursor, document)

    @translated
    def put(self, cursor: WebhookCursor) -> None:
        self._cursors.replace_one({"_id": cursor.id}, to_document(cursor), upsert=True)
