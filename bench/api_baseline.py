"""What the API's list is compared with: a FastAPI route that fetches the same documents and returns them as JSON.

As short as such a route is written: no login, no links, no rules. Run as a process of its own:

    python -m bench.api_baseline CATALOG_URI CLUSTER_ID PORT
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pymongo import DESCENDING, MongoClient

from ebbtide.catalog.connection import DATABASE_NAME

JOBS = 100


def build_app(uri: str, cluster_id: str) -> FastAPI:
    """One route, `/jobs`."""
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    jobs = client[DATABASE_NAME].restore_jobs
    app = FastAPI()

    @app.get("/jobs")
    def list_jobs() -> list[dict[str, Any]]:
        # A sealed key is bytes, which are no JSON.
        found = jobs.find({"cluster_id": cluster_id}, {"download_key": 0})
        return list(found.sort([("created", DESCENDING), ("_id", DESCENDING)]).limit(JOBS))

    return app


if __name__ == "__main__":
    catalog_uri, cluster, port = sys.argv[1:]
    uvicorn.run(build_app(catalog_uri, cluster), port=int(port), log_level="warning", access_log=False)
