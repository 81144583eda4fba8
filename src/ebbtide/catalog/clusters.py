"""Clusters and their heads.

A head belongs to one worker at a time: `claim` takes its lease, `update` is refused (None) once the lease is lost.
`live` on a cluster's document is true until it is removed: a unique index over it keeps names apart.
"""

from datetime import datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState, Head, HeadState
from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.domain.sealed import Sealed


class NameTaken(Exception):
    """Another cluster of the group has this name."""


class ClusterCollection:
    """All clusters."""

    def __init__(self, database: Database[Document]) -> None:
        self._clusters = database.clusters

    @translated
    def insert(self, cluster: Cluster) -> None:
        """Raises NameTaken where a cluster of this name is not removed yet."""
        try:
            self._clusters.insert_one({**to_document(cluster), "live": True})
        except DuplicateKeyError:
            raise NameTaken(cluster.name) from None

    @translated
    def find(self, cluster_id: ClusterId) -> Cluster | None:
        return _cluster(self._clusters.find_one({"_id": cluster_id}))

    @translated
    def find_by_name(self, group_id: GroupId, name: str) -> Cluster | None:
        """The live cluster of that name, else the one removed last: its snapshots stay reachable."""
        return _cluster(
            self._clusters.find_one(
                {"group_id": group_id, "name": name}, sort=[("live", DESCENDING), ("created", DESCENDING)]
            )
        )

    @translated
    def list_in_group(self, group_id: GroupId) -> list[Cluster]:
        """Live clusters of a group, by name."""
        cursor = self._clusters.find({"group_id": group_id, "live": True}).sort("name", ASCENDING)
        return [c for c in map(_cluster, cursor) if c is not None]

    @translated
    def list_live(self) -> list[Cluster]:
        """Every cluster that has, or should have, a head."""
        # Records made before there were kinds have none.
        found = self._clusters.find({"live": True, "kind": {"$ne": ClusterKind.SHARDED.value}})
        return [c for c in map(_cluster, found) if c is not None]

    @translated
    def list_sharded(self) -> list[Cluster]:
        """Every live sharded cluster; each is a record without a head."""
        found = self._clusters.find({"live": True, "kind": ClusterKind.SHARDED.value})
        return [c for c in map(_cluster, found) if c is not None]

    @translated
    def list_parts(self, parent_id: ClusterId) -> list[Cluster]:
        """Live parts of a sharded cluster, by name."""
        cursor = self._clusters.find({"live": True, "parent_id": parent_id}).sort("name", ASCENDING)
        return [c for c in map(_cluster, cursor) if c is not None]

    @translated
    def list_part_ids(self, parent_id: ClusterId) -> list[ClusterId]:
        """Of all parts that a sharded cluster has or had."""
        cursor = self._clusters.find({"parent_id": parent_id}, {"_id": 1}).sort("_id", ASCENDING)
        return [ClusterId(found["_id"]) for found in cursor]

    @translated
    def count_in_group(self, group_id: GroupId) -> int:
        return self._clusters.count_documents({"group_id": group_id, "live": True})

    @translated
    def set_state(self, cluster_id: ClusterId, state: ClusterState) -> None:
        """REMOVED also frees the name, and forgets the secrets: nothing logs in there any more."""
        changes: Document = {"state": state.value, "live": state is not ClusterState.REMOVED}
        if state is ClusterState.REMOVED:
            changes |= {"password": None, "keyfile": None, "tls_certificate": None}
            changes |= {"restore_target": False, "restore_username": None, "restore_password": None}
        self._clusters.update_one({"_id": cluster_id}, {"$set": changes})

    @translated
    def revive(self, cluster_id: ClusterId) -> None:
        """Make a removed cluster one that has, or should have, a head. Raises NameTaken where another has its name."""
        changes = {"state": ClusterState.ACTIVE.value, "live": True, "is_paused": False, "is_detached": False}
        try:
            self._clusters.update_one(
                {"_id": cluster_id, "state": ClusterState.REMOVED.value}, {"$set": changes}
            )
        except DuplicateKeyError:
            raise NameTaken(cluster_id) from None

    @translated
    def detach(self, cluster_id: ClusterId) -> None:
        """Begin, or go on, to remove a cluster, without its set being asked."""
        self._clusters.update_one(
            {"_id": cluster_id, "live": True},
            {"$set": {"state": ClusterState.REMOVING.value, "is_detached": True}},
        )

    @translated
    def set_paused(self, cluster_id: ClusterId, is_paused: bool) -> None:
        self._clusters.update_one({"_id": cluster_id}, {"$set": {"is_paused": is_paused}})

    @translated
    def set_certificate(
        self, cluster_id: ClusterId, *, tls_ca: str, tls_certificate: Sealed, tls_expires: datetime
    ) -> None:
        """Replace what the head shows; nothing is changed in a cluster that is removed."""
        changes = {"tls_ca": tls_ca, "tls_certificate": tls_certificate, "tls_expires": tls_expires}
        self._clusters.update_one(
            {"_id": cluster_id, "live": True},
            {"$set": {name: to_value(value) for name, value in changes.items()}},
        )

    @translated
    def set_credentials(
        self,
        cluster_id: ClusterId,
        *,
        username: str | None,
        auth_source: str,
        password: Sealed | None,
        keyfile: Sealed | None,
        tls_ca: str | None,
        tls_certificate: Sealed | None,
        tls_expires: datetime | None,
    ) -> None:
        """Replace all that opens a set, at once; nothing is changed in a cluster that is removed."""
        changes: Document = {"username": username, "auth_source": auth_source, "tls_ca": tls_ca}
        changes |= {"password": password, "keyfile": keyfile, "tls_certificate": tls_certificate}
        changes["tls_expires"] = tls_expires
        self._clusters.update_one(
            {"_id": cluster_id, "live": True},
            {"$set": {name: to_value(value) for name, value in changes.items()}},
        )

    @translated
    def set_mongod(self, cluster_id: ClusterId, path: str | None) -> None:
        """The mongod for this cluster's head alone; None: the one that the settings say."""
        self._clusters.update_one({"_id": cluster_id}, {"$set": {"mongod": path}})

    @translated
    def set_restore_target(
        self,
        cluster_id: ClusterId,
        *,
        restore_target: bool,
        username: str | None,
        auth_source: str,
        password: Sealed | None,
    ) -> None:
        """Whether restores may replace its data, and as whom; nothing is changed in a cluster that is removed."""
        self._clusters.update_one(
            {"_id": cluster_id, "live": True},
            {
                "$set": {
                    "restore_target": restore_target,
                    "restore_username": username,
                    "restore_auth_source": auth_source,
                    "restore_password": None if password is None else to_value(password),
                }
            },
        )

    @translated
    def set_version(self, cluster_id: ClusterId, *, mongod_version: str, fcv: str) -> None:
        self._clusters.update_one(
            {"_id": cluster_id}, {"$set": {"mongod_version": mongod_version, "fcv": fcv}}
        )


def _cluster(document: Document | None) -> Cluster | None:
    if document is None:
        return None
    document.pop("live", None)
    return from_document(Cluster, document)


class HeadCollection:
    """All heads."""

    def __init__(self, database: Database[Document]) -> None:
        self._heads = database.heads

    @translated
    def insert(self, head: Head) -> None:
        """Harmless where the cluster has its head already."""
        try:
            self._heads.insert_one(to_document(head))
        except DuplicateKeyError:
            pass

    @translated
    def find(self, cluster_id: ClusterId) -> Head | None:
        document = self._heads.find_one({"_id": cluster_id})
        return None if document is None else from_document(Head, document)

    @translated
    def forget_gone(self, cluster_id: ClusterId) -> None:
        """Drop the record of a head that left its set."""
        self._heads.delete_one({"_id": cluster_id, "state": HeadState.GONE.value})

    @translated
    def list_all(self) -> list[Head]:
        return [from_document(Head, d) for d in self._heads.find()]

    @translated
    def claim(self, cluster_id: ClusterId, *, worker_id: str, now: datetime, until: datetime) -> Head | None:
        """Take or renew the head's lease; None while another worker holds it."""
        document = self._heads.find_one_and_update(
            {
                "_id": cluster_id,
                "$or": [
                    {"lease_worker_id": None},
                    {"lease_worker_id": worker_id},
                    {"lease_until": {"$lt": now}},
                ],
            },
            {"$set": {"lease_worker_id": worker_id, "lease_until": until}},
            return_document=ReturnDocument.AFTER,
        )
        return None if document is None else from_document(Head, document)

    @translated
    def update(self, cluster_id: ClusterId, *, worker_id: str, now: datetime, **changes: Any) -> Head | None:
        """Change fields of a head that `worker_id` holds; None once the lease is lost."""
        values = {name: to_value(value) for name, value in changes.items()}
        document = self._heads.find_one_and_update(
            {"_id": cluster_id, "lease_worker_id": worker_id},
            {"$set": {**values, "updated": now}},
            return_document=ReturnDocument.AFTER,
        )
        return None if document is None else from_document(Head, document)

    @translated
    def want_rejoin(self, cluster_id: ClusterId) -> None:
        """Ask whichever worker holds the head to put it back into its set."""
        self._heads.update_one({"_id": cluster_id}, {"$set": {"rejoin_wanted": True}})

    @translated
    def release_all(self, worker_id: str) -> None:
        """Give up every lease of a worker that is gone."""
        self._heads.update_many(
            {"lease_worker_id": worker_id}, {"$set": {"lease_worker_id": None, "lease_until": None}}
        )
