"""Service accounts, their secrets among them. What is kept of a secret is its hash."""

from datetime import datetime

from pymongo.database import Database

from ebbtide.catalog.callers import CallerCollection
from ebbtide.catalog.codec import to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.service_account import SECRETS_MAX, ServiceAccount, ServiceAccountSecret


class ServiceAccountCollection(CallerCollection[ServiceAccount]):
    """All service accounts."""

    def __init__(self, database: Database[Document]) -> None:
        super().__init__(database.service_accounts, ServiceAccount)

    @translated
    def add_secret(self, account_id: str, secret: ServiceAccountSecret) -> ServiceAccount | None:
        """Add a secret unless there are SECRETS_MAX; None where there are, or no account."""
        room = {"_id": account_id, f"secrets.{SECRETS_MAX - 1}": {"$exists": False}}
        done = self._records.update_one(room, {"$push": {"secrets": to_value(secret)}})
        return self._found({"_id": account_id}) if done.modified_count else None

    @translated
    def remove_secret(self, account_id: str, secret_id: str) -> ServiceAccount | None:
        """Remove a secret, which stops working at once; returns the account as it is now."""
        self._records.update_one({"_id": account_id}, {"$pull": {"secrets": {"id": secret_id}}})
        return self._found({"_id": account_id})

    @translated
    def record_secret_use(self, account_id: str, secret_id: str, *, now: datetime) -> None:
        """Note when a secret was last used."""
        self._records.update_one(
            {"_id": account_id, "secrets.id": secret_id}, {"$set": {"secrets.$.last_used": now}}
        )
