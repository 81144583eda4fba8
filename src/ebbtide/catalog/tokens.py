"""Tokens that live, and the keys that they are signed with.

The tokens of one account are one document, so that counting and adding are one step. A token itself is not kept, only
its random id: what is here logs nobody in. Signing keys are sealed under the service key.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import DESCENDING, ReturnDocument
from pymongo.database import Database

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.sealed import Sealed
from ebbtide.domain.service_account import LIVE_TOKENS_MAX, LiveToken


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A key for tokens; its id is in the header of each token that it signed."""

    id: str
    key: Sealed
    created: datetime


class TokenCollection:
    """Live tokens by account."""

    def __init__(self, database: Database[Document]) -> None:
        self._accounts = database.tokens

    @translated
    def add(self, account_id: str, token: LiveToken, *, now: datetime) -> bool:
        """List a token, and forget the expired ones; False where LIVE_TOKENS_MAX live already."""
        live = {"$filter": {"input": {"$ifNull": ["$tokens", []]}, "cond": {"$gt": ["$$this.expires", now]}}}
        with_new: dict[str, Any] = {"$concatArrays": ["$$live", [to_value(token)]]}
        has_room = {"$lt": [{"$size": "$$live"}, LIVE_TOKENS_MAX]}
        tokens = {"$let": {"vars": {"live": live}, "in": {"$cond": [has_room, with_new, "$$live"]}}}
        document = self._accounts.find_one_and_update(
            {"_id": account_id},
            [{"$set": {"tokens": tokens}}],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        return any(listed["id"] == token.id for listed in (document or {"tokens": []})["tokens"])

    @translated
    def is_live(self, account_id: str, token_id: str, *, now: datetime) -> bool:
        """Whether the token is listed and not expired."""
        document = self._accounts.find_one({"_id": account_id}) or {"tokens": []}
        return any(t["id"] == token_id and t["expires"] > now for t in document["tokens"])

    @translated
    def revoke(self, account_id: str, token_id: str) -> None:
        """The token stops working at once."""
        self._accounts.update_one({"_id": account_id}, {"$pull": {"tokens": {"id": token_id}}})

    @translated
    def revoke_all(self, account_id: str) -> None:
        """Every token of the account stops working at once."""
        self._accounts.delete_one({"_id": account_id})


class SigningKeyCollection:
    """All keys that tokens were signed with."""

    def __init__(self, database: Database[Document]) -> None:
        self._keys = database.signing_keys

    @translated
    def insert(self, key: SigningKey) -> None:
        self._keys.insert_one(to_document(key))

    @translated
    def find(self, key_id: str) -> SigningKey | None:
        document = self._keys.find_one({"_id": key_id})
        return None if document is None else from_document(SigningKey, document)

    @translated
    def newest(self) -> SigningKey | None:
        """The one to sign with."""
        document = self._keys.find_one(sort=[("created", DESCENDING), ("_id", DESCENDING)])
        return None if document is None else from_document(SigningKey, document)
