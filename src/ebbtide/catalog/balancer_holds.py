"""Holds on balancers of sharded clusters: at most one for each cluster."""

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ebbtide.catalog.codec import from_document, to_document
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.balancer_hold import BalancerHold
from ebbtide.domain.ids import ClusterId


class BalancerHoldCollection:
    """All holds. The id is the cluster's."""

    def __init__(self, database: Database[Document]) -> None:
        self._holds = database.balancer_holds

    @translated
    def take(self, hold: BalancerHold) -> bool:
        """Write a hold down; False where the cluster has one, whosever it is: that one stays as it is."""
        try:
            self._holds.insert_one(to_document(hold))
        except DuplicateKeyError:
            return False
        return True

    @translated
    def find(self, cluster_id: ClusterId) -> BalancerHold | None:
        document = self._holds.find_one({"_id": cluster_id})
        return None if document is None else from_document(BalancerHold, document)

    @translated
    def list_all(self) -> list[BalancerHold]:
        return [from_document(BalancerHold, document) for document in self._holds.find()]

    @translated
    def forget(self, cluster_id: ClusterId, *, holder: str) -> None:
        """After the balancer was put back. Harmless where the hold is another's, or gone."""
        self._holds.delete_one({"_id": cluster_id, "holder": holder})
