"""Runs of prune: asked for by anybody, carried out one at a time by the worker that keeps house."""

from typing import Any

from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.database import Database

from ebbtide.catalog.codec import from_document, to_document, to_value
from ebbtide.catalog.connection import Document, translated
from ebbtide.domain.prune_run import PruneRun, PruneState

_UNFINISHED = [PruneState.QUEUED.value, PruneState.RUNNING.value]


class PruneRunCollection:
    """All runs; ids sort by age."""

    def __init__(self, database: Database[Document]) -> None:
        self._runs = database.prune_runs

    @translated
    def insert(self, run: PruneRun) -> None:
        self._runs.insert_one(to_document(run))

    @translated
    def find(self, run_id: str) -> PruneRun | None:
        document = self._runs.find_one({"_id": run_id})
        return None if document is None else from_document(PruneRun, document)

    @translated
    def newest(self) -> PruneRun | None:
        """The last run that was asked for."""
        document = self._runs.find_one({}, sort=[("_id", DESCENDING)])
        return None if document is None else from_document(PruneRun, document)

    @translated
    def newest_done(self) -> PruneRun | None:
        """The last run, no dry one, that came to its end, whatever that was."""
        query = {"dry_run": False, "state": {"$nin": _UNFINISHED}}
        document = self._runs.find_one(query, sort=[("_id", DESCENDING)])
        return None if document is None else from_document(PruneRun, document)

    @translated
    def next_unfinished(self) -> PruneRun | None:
        """The oldest run that waits, or that a worker left in the middle."""
        document = self._runs.find_one({"state": {"$in": _UNFINISHED}}, sort=[("_id", ASCENDING)])
        return None if document is None else from_document(PruneRun, document)

    @translated
    def update(self, run_id: str, **changes: Any) -> PruneRun | None:
        """Change fields of a run that has not ended; None where it has."""
        document = self._runs.find_one_and_update(
            {"_id": run_id, "state": {"$in": _UNFINISHED}},
            {"$set": {name: to_value(value) for name, value in changes.items()}},
            return_document=ReturnDocument.AFTER,
        )
        return None if document is None else from_document(PruneRun, document)
