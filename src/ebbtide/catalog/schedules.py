"""Snapshot schedules. A cluster without a document has the default one."""

from pymongo.database import Database

from ebbtide.catalog.codec import from_document, to_document
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.schedule import SnapshotSchedule, default_schedule


class ScheduleCollection:
    """All schedules that somebody set."""

    def __init__(self, database: Database[Document]) -> None:
        self._schedules = database.schedules

    @translated
    def get(self, cluster: Cluster) -> SnapshotSchedule:
        """The cluster's schedule, or the default one. A part of a sharded cluster has that cluster's."""
        cluster_id = cluster.parent_id or cluster.id
        document = self._schedules.find_one({"_id": cluster_id})
        if document is None:
            return default_schedule(
                cluster_id=cluster_id, group_id=cluster.group_id, registered=cluster.created
            )
        return from_document(SnapshotSchedule, document)

    @translated
    def put(self, schedule: SnapshotSchedule) -> None:
        self._schedules.replace_one({"_id": schedule.id}, to_document(schedule), upsert=True)
