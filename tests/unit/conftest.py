"""A catalog for the tests of what stands on one: a private mongod, started once when first asked for.

Property tests have no time limit for each example: on a busy machine it would tell of the machine, not of the code.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from pymongo import MongoClient

from ebbtide.catalog.catalog import Catalog
from ebbtide.catalog.connection import DATABASE_NAME
from ebbtide.mongod.options import MongodOptions, UnixSocket
from ebbtide.mongod.process import MongodProcess

hypothesis.settings.register_profile(
    "ebbtide", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ebbtide")


@pytest.fixture(scope="session")
def _catalog_uri(mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("u")
    options = MongodOptions(
        dbpath=directory / "db",
        log_path=directory / "mongod.log",
        listen=UnixSocket(path=directory / "m.sock"),
        cache_gb=0.25,
    )
    process = MongodProcess.start(
        mongod_binary, options, identity_path=directory / "mongod.json", die_with_parent=True
    )
    yield process.uri
    process.stop()


@pytest.fixture
def catalog(_catalog_uri: str) -> Iterator[Catalog]:
    """An empty, prepared catalog."""
    client: MongoClient[dict[str, Any]] = MongoClient(_catalog_uri)
    with client:
        database = client[DATABASE_NAME]
        for name in database.list_collection_names():
            database[name].delete_many({})
    catalog = Catalog.connect(_catalog_uri)
    catalog.prepare()
    yield catalog
    catalog.close()
