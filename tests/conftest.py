"""Fixtures for all tests: the mongod to test with, and two labs that are started once per run, when first asked for."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebbtide.mongod.binary import find_mongod, mongod_version
from ebbtide.testing.lab import ReplicaSetLab


@pytest.fixture(scope="session")
def mongod_binary() -> Path:
    """EBBTIDE_MONGOD or the packaged mongod; a run without one fails, with what to do about it."""
    binary = find_mongod(os.environ.get("EBBTIDE_MONGOD"))
    mongod_version(binary)
    return binary


@pytest.fixture(scope="session")
def shared_lab(mongod_binary: Path) -> Iterator[ReplicaSetLab]:
    with ReplicaSetLab(binary=mongod_binary) as lab:
        yield lab


@pytest.fixture(scope="session")
def shared_keyfile_lab(mongod_binary: Path) -> Iterator[ReplicaSetLab]:
    with ReplicaSetLab(binary=mongod_binary, keyfile=True) as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: ReplicaSetLab) -> ReplicaSetLab:
    """Three members without authentication, empty."""
    shared_lab.reset()
    return shared_lab


@pytest.fixture
def keyfile_lab(shared_keyfile_lab: ReplicaSetLab) -> ReplicaSetLab:
    """Three members with a keyfile and two users, empty."""
    shared_keyfile_lab.reset()
    return shared_keyfile_lab


@pytest.fixture
def socket_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory, 0700, with a path short enough for Unix sockets."""
    return tmp_path_factory.mktemp("s")
