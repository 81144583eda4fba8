"""The log of events that people read."""

from datetime import datetime

from pymongo import ASCENDING, DESCENDING
from pymongo.database import Database

from ebbtide.catalog.codec import from_document, to_document
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.event import Event
from ebbtide.domain.ids import ClusterId, GroupId


class EventCollection:
    """All events; lists are newest first."""

    def __init__(self, database: Database[Document]) -> None:
        self._events = database.events

    @translated
    def insert(self, event: Event) -> None:
        self._events.insert_one(to_document(event))

    @translated
    def page_of_all(self, *, skip: int, limit: int) -> list[Event]:
        """Events of all groups, and of the service itself."""
        cursor = self._events.find().sort([("time", DESCENDING), ("_id", DESCENDING)]).skip(skip).limit(limit)
        return [from_document(Event, d) for d in cursor]

    @translated
    def count_all(self) -> int:
        return self._events.estimated_document_count()

    @translated
    def page(self, group_id: GroupId, *, cluster_id: ClusterId | None, skip: int, limit: int) -> list[Event]:
        query: Document = {"group_id": group_id}
        if cluster_id is not None:
            query["cluster_id"] = cluster_id
        cursor = (
            self._events.find(query).sort([("time", DESCENDING), ("_id", DESCENDING)]).skip(skip).limit(limit)
        )
        return [from_document(Event, d) for d in cursor]

    @translated
    def list_after(self, time: datetime, event_id: str, *, until: datetime, limit: int) -> list[Event]:
        """Events of all groups, oldest first: those after the one that has that time and id, up to `until`."""
        query: Document = {
            "time": {"$gte": time, "$lte": until},
            "$or": [{"time": {"$gt": time}}, {"_id": {"$gt": event_id}}],
        }
        cursor = self._events.find(query).sort([("time", ASCENDING), ("_id", ASCENDING)]).limit(limit)
        return [from_document(Event, d) for d in cursor]

    @translated
    def delete_before(self, time: datetime) -> int:
        """Forget the events of all groups from before `time`; how many there were."""
        return self._events.delete_many({"time": {"$lt": time}}).deleted_count

    @translated
    def count(self, group_id: GroupId, *, cluster_id: ClusterId | None) -> int:
        query: Document = {"group_id": group_id}
        if cluster_id is not None:
            query["cluster_id"] = cluster_id
        return self._events.count_documents(query)
