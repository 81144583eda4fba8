"""The catalog's collections and indexes on one MongoDB database.

The catalog uses nothing that a standalone lacks: every change is one document. It acknowledges with the journal
(majority on a set), so what was answered survives a crash. All methods of the collections here raise Unreachable
when the catalog does not answer; whether a write arrived is then not known.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from pymongo import ASCENDING, DESCENDING, MongoClient
from pymongo.database import Database
from pymongo.errors import ConnectionFailure, PyMongoError

from ebbtide.errors import EbbtideError, Unreachable
from ebbtide.mongod.client import PromptClient

Document = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")

DATABASE_NAME = "ebbtide"
CATALOG_FORMAT = 1


class CatalogError(EbbtideError):
    """The catalog refused an operation."""


def translated(method: Callable[P, T]) -> Callable[P, T]:
    """Turn PyMongo's errors into ours, once, at the boundary."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except ConnectionFailure as error:
            raise Unreachable(f"the catalog does not answer: {error}") from error
        except PyMongoError as error:
            raise CatalogError(f"the catalog refused: {error}") from error

    return call


def connect(uri: str, *, timeout_seconds: float = 10.0) -> MongoClient[Document]:
    """A client whose writes are journalled and, on a set, held by a majority."""
    return PromptClient(
        uri,
        tz_aware=True,
        w="majority",
        journal=True,
        readConcernLevel="majority",
        retryWrites=False,  # a standalone has none
        serverSelectionTimeoutMS=int(timeout_seconds * 1000),
        connectTimeoutMS=int(timeout_seconds * 1000),
        socketTimeoutMS=60_000,
        appname="ebbtide",
    )


def ensure_indexes(database: Database[Document]) -> None:
    """An index for every query that the catalog makes. Running it again changes nothing."""
    newest_first = [("created", DESCENDING), ("_id", DESCENDING)]
    database.groups.create_index([("created", ASCENDING), ("_id", ASCENDING)])
    database.api_keys.create_index("public_key", unique=True)
    database.api_keys.create_index("expires")
    database.signing_keys.create_index(newest_first)
    database.clusters.create_index([("group_id", ASCENDING), ("name", ASCENDING)])
    # A name is taken only while its cluster is not removed; then it is free again.
    database.clusters.create_index(
        [("group_id", ASCENDING), ("name", ASCENDING), ("live", ASCENDING)],
        unique=True,
        partialFilterExpression={"live": True},
    )
    database.clusters.create_index([("live", ASCENDING)])
    database.heads.create_index([("lease_worker_id", ASCENDING)])
    database.hosts.create_index([("group_id", ASCENDING), ("state", ASCENDING), ("address", ASCENDING)])
    database.hosts.create_index("store_id", unique=True)
    database.hosts.create_index("state")
    database.hosts.create_index("lock_job_id")
    database.snapshots.create_index([("cluster_id", ASCENDING), ("state", ASCENDING), *newest_first])
    database.snapshots.create_index([("cluster_id", ASCENDING), *newest_first])
    database.snapshots.create_index([("state", ASCENDING)])
    database.snapshots.create_index([("cluster_id", ASCENDING), ("scheduled_for", DESCENDING)])
    # Two snapshots of one sharded cluster never run at once: each would stop the balancer.
    database.cluster_snapshots.create_index(
        "cluster_id", unique=True, partialFilterExpression={"state": "IN_PROGRESS"}
    )
    database.cluster_snapshots.create_index([("cluster_id", ASCENDING), ("state", ASCENDING), *newest_first])
    database.cluster_snapshots.create_index([("cluster_id", ASCENDING), *newest_first])
    database.cluster_snapshots.create_index([("state", ASCENDING)])
    database.cluster_snapshots.create_index([("cluster_id", ASCENDING), ("scheduled_for", DESCENDING)])
    database.checkpoints.create_index([("cluster_id", ASCENDING), ("state", ASCENDING), *newest_first])
    database.checkpoints.create_index([("cluster_id", ASCENDING), *newest_first])
    database.checkpoints.create_index([("cluster_id", ASCENDING), ("scheduled_for", DESCENDING)])
    database.restore_jobs.create_index([("cluster_id", ASCENDING), *newest_first])
    # Workers look for unfinished jobs every few seconds, and jobs are kept for ever.
    database.restore_jobs.create_index([("status", ASCENDING)])
    database.restore_jobs.create_index([("delivery_status", ASCENDING), ("expires", ASCENDING)])
    database.restore_jobs.create_index([("snapshot_id", ASCENDING)])
    database.restore_jobs.create_index([("batch_id", ASCENDING)])
    # Two restores never write into one cluster.
    database.automated_restores.create_index(
        [("target_cluster_id", ASCENDING)], unique=True, partialFilterExpression={"is_active": True}
    )
    database.automated_restores.create_index(
        [("is_active", ASCENDING)], partialFilterExpression={"is_active": True}
    )
    database.automated_restores.create_index([("target_cluster_id", ASCENDING), ("undo_until", ASCENDING)])
    database.finished_collections.create_index("job_id")
    database.prune_runs.create_index([("state", ASCENDING)])
    database.leases.create_index("worker_id")
    database.jobs.create_index([("state", ASCENDING), ("not_before", ASCENDING), ("created", ASCENDING)])
    database.jobs.create_index([("kind", ASCENDING), ("state", ASCENDING)])
    database.transfers.create_index([("job_id", ASCENDING), ("started", ASCENDING)])
    database.transfers.create_index([("ended", ASCENDING), ("updated", ASCENDING)])
    database.events.create_index([("time", ASCENDING), ("_id", ASCENDING)])
    database.events.create_index([("group_id", ASCENDING), ("time", DESCENDING), ("_id", DESCENDING)])
