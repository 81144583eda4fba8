"""Fixtures for tests that start mongods of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.mongod.options import MongodOptions, UnixSocket
from ebbtide.mongod.process import MongodProcess


@pytest.fixture
def mongod_options(tmp_path: Path, socket_directory: Path) -> Callable[..., MongodOptions]:
    """Makes options of a small mongod on a Unix socket; keyword arguments replace them."""

    def make(**changes: Any) -> MongodOptions:
        values: dict[str, Any] = {
            "dbpath": tmp_path / "data",
            "log_path": tmp_path / "mongod.log",
            "listen": UnixSocket(path=socket_directory / "m.sock"),
            "cache_gb": 0.25,
        }
        return MongodOptions(**(values | changes))

    return make


@pytest.fixture
def identity_path(tmp_path: Path) -> Iterator[Path]:
    """Where a test's mongod has its identity file; what still runs when the test ends is killed."""
    path = tmp_path / "identity.json"
    yield path
    process = MongodProcess.find_running(path)
    if process is not None:
        process.kill()
