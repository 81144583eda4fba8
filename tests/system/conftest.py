"""Fixtures for tests that run the real `ebbtide serve`: every service is stopped, and must leave no process."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.running_service import RunningService
from ebbtide.testing.service import Owner


@pytest.fixture(scope="module")
def new_service(mongod_binary: Path) -> Iterator[Callable[..., RunningService]]:
    """Makes services, not started yet, each with a data directory of its own; arguments are RunningService's."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> RunningService:
            # Not pytest's own directory: a Unix socket's path has at most 107 bytes.
            root = Path(tempfile.mkdtemp(prefix="ebb-")).resolve()
            stack.callback(shutil.rmtree, root, ignore_errors=True)
            service = RunningService(**({"data": root / "data", "binary": mongod_binary} | arguments))
            stack.callback(service.stop)
            return service

        yield make


@pytest.fixture(scope="module")
def new_owner(
    shared_lab: ReplicaSetLab,
) -> Iterator[Callable[[RunningService], Owner]]:
    """Makes the owner of a running service, with the shared lab as the replica set, reset before."""
    with ExitStack() as stack:

        def make(service: RunningService) -> Owner:
            shared_lab.reset()
            owner = Owner(service, shared_lab)
            stack.callback(shared_lab.reset)
            stack.callback(service.stop)
            stack.callback(owner.close)
            return owner

        yield make
