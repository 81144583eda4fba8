"""Hosts: standalone mongods that were declared mirrored config servers."""

from pymongo import ASCENDING
from pymongo.database import Database

from ebbtide.catalog.codec import from_document, to_document
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.host import Host, HostId, HostState
from ebbtide.domain.ids import ClusterId, GroupId

_ACTIVE = {"state": HostState.ACTIVE.value}


class HostCollection:
    """All hosts."""

    def __init__(self, database: Database[Document]) -> None:
        self._hosts = database.hosts

    @translated
    def put(self, host: Host) -> None:
        """Declare it, or declare it anew."""
        self._hosts.replace_one({"_id": host.id}, to_document(host), upsert=True)

    @translated
    def find(self, host_id: HostId) -> Host | None:
        return _host(self._hosts.find_one({"_id": host_id}))

    @translated
    def find_by_store(self, store_id: ClusterId) -> Host | None:
        """The host whose snapshots are kept under `store_id`, removed or not."""
        return _host(self._hosts.find_one({"store_id": store_id}))

    @translated
    def list_in_group(self, group_id: GroupId) -> list[Host]:
        """Those that are not removed, by address."""
        cursor = self._hosts.find({"group_id": group_id, **_ACTIVE}).sort("address", ASCENDING)
        return [from_document(Host, document) for document in cursor]

    @translated
    def list_store_ids(self) -> list[ClusterId]:
        """Of every host that is not removed."""
        return [ClusterId(found["store_id"]) for found in self._hosts.find(_ACTIVE, {"store_id": 1})]

    @translated
    def list_locked(self) -> list[Host]:
        """Those that may be locked by us."""
        return [from_document(Host, d) for d in self._hosts.find({"lock_job_id": {"$gt": ""}})]

    @translated
    def set_lock(self, host_id: HostId, job_id: str | None) -> None:
        """Say that the host is about to be locked for a job; None: it is not locked any more."""
        self._hosts.update_one({"_id": host_id}, {"$set": {"lock_job_id": job_id}})

    @translated
    def remove(self, host_id: HostId) -> None:
        """It is not asked any more, and its password is forgotten."""
        self._hosts.update_one(
            {"_id": host_id}, {"$set": {"state": HostState.REMOVED.value, "password": None}}
        )


def _host(document: Document | None) -> Host | None:
    return None if document is None else from_document(Host, document)
