"""Fixtures for all tests: the mongod to test with, and labs that are started once per run, when first asked for.

What runs against real processes is tried a second time where it failed, and what failed then is printed in full: a
machine that stands still for a moment must not hide what else a run found. More than `SECOND_TRIES_MAX` such tests fail
the run (docs/decisions/0019).
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebbtide.mongod.binary import find_mongod, mongod_version
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.sharded_lab import ShardedLab

REAL_PROCESSES = ("conformance", "integration", "system")
"""Directories of tests that may have to do with a machine's moods."""
SECOND_TRIES_MAX = 2
OUTPUT_SHOWN = 4000
"""Characters, from the end."""

_second_tries: list[pytest.TestReport] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(Path(__file__).parent).parts[0] in REAL_PROCESSES:
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.outcome == "rerun":
        _second_tries.append(report)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and len(_second_tries) > SECOND_TRIES_MAX:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _second_tries:
        return
    terminalreporter.section(f"tried a second time: {len(_second_tries)}, at most {SECOND_TRIES_MAX} may be")
    for report in _second_tries:
        terminalreporter.line(f"{report.nodeid} failed at first ({report.when}):", bold=True)
        terminalreporter.line(report.longreprtext)
        terminalreporter.line(report.capstdout[-OUTPUT_SHOWN:])


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


@pytest.fixture(scope="session")
def shared_sharded_lab(mongod_binary: Path) -> Iterator[ShardedLab]:
    with ShardedLab(mongod_binary) as lab:
        yield lab


@pytest.fixture
def sharded_lab(shared_sharded_lab: ShardedLab) -> ShardedLab:
    """A config server and two shards of one member each with a keyfile, empty, the balancer on."""
    shared_sharded_lab.reset()
    return shared_sharded_lab


@pytest.fixture
def socket_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory, 0700, with a path short enough for Unix sockets."""
    return tmp_path_factory.mktemp("s")
