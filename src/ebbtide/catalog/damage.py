"""When damage was last found in what is stored of a cluster.

A snapshot shares the blocks of its parent, so it inherits damage that nobody has read yet. After damage was found, the
next snapshot is therefore built on nothing (`domain.snapshot.is_trusted_parent`).
"""

from dataclasses import dataclass
from datetime import datetime

from pymongo.database import Database

from ebbtide.catalog.codec import from_document, to_document
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.ids import ClusterId


@dataclass(frozen=True, kw_only=True)
class Damage:
    """The newest damage found in a cluster's snapshots; `id` is the cluster's."""

    id: ClusterId
    found: datetime
    problem: str


class DamageCollection:
    """The newest damage of each cluster that ever had any."""

    def __init__(self, database: Database[Document]) -> None:
        self._damage = database.damage

    @translated
    def note(self, damage: Damage) -> None:
        """Remember it in place of an older one."""
        self._damage.replace_one({"_id": damage.id}, to_document(damage), upsert=True)

    @translated
    def find(self, cluster_id: ClusterId) -> Damage | None:
        document = self._damage.find_one({"_id": cluster_id})
        return None if document is None else from_document(Damage, document)
