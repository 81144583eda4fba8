"""Asking a machine: real directories, and nothing is left or changed in them."""

import fcntl
from pathlib import Path

import pytest

from ebbtide.catalog.catalog import Catalog
from ebbtide.data_directory import DataDirectory
from ebbtide.doctor import machine
from ebbtide.doctor.checks import MachineFacts
from ebbtide.repository.repository import Repository
from ebbtide.sealing import ServiceKey
from ebbtide.serve.supervisor import open_or_create_repository
from ebbtide.settings import Settings, resolve_settings


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    found = DataDirectory.at(tmp_path / "data")
    found.prepare()
    return found


@pytest.fixture
def settings(mongod_binary: Path) -> Settings:
    return resolve_settings(flags={"mongod": str(mongod_binary)}, environment={}, file=None)


def gather(directory: DataDirectory, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> MachineFacts:
    monkeypatch.setattr(machine, "CATALOG_SECONDS", 0.1)
    catalog = Catalog.connect(directory.catalog_uri(settings), timeout_seconds=0.1)
    try:
        return machine.gather_machine(
            directory, settings, catalog=catalog, api="", api_problem="", api_fix=""
        )
    finally:
        catalog.close()


def test_an_installation_that_does_not_run_has_one_problem(
    directory: DataDirectory, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ServiceKey.load_or_create(directory.service_key_file(settings))
    assert isinstance(open_or_create_repository(directory, settings), Repository)
    before = sorted(directory.root.rglob("*"))

    facts = gather(directory, settings, monkeypatch)
    assert [
        facts.data_problem,
        facts.repository_problem,
        facts.key_problem,
        facts.mongod_problem,
    ] == ["", "", "", ""]
    assert facts.catalog_problem
    assert not facts.is_serving
    assert facts.data_mode == 0o700
    assert facts.data_disk is not None
    assert facts.repository_disk is not None
    assert facts.data_disk.device == facts.repository_disk.device
    assert before == sorted(directory.root.rglob("*"))


def test_what_lacks_is_told_and_not_made(
    directory: DataDirectory, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = gather(directory, settings, monkeypatch)
    assert "there is no service key" in facts.key_problem
    assert "No such file" in facts.repository_problem
    assert not directory.service_key_file(settings).exists()


def test_a_key_that_others_may_read_and_a_damaged_header_are_told(
    directory: DataDirectory, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = directory.service_key_file(settings)
    ServiceKey.load_or_create(key_file)
    key_file.chmod(0o644)
    open_or_create_repository(directory, settings)
    (directory.repository(settings) / machine.HEADER_NAME).write_bytes(b"{}")

    facts = gather(directory, settings, monkeypatch)
    assert facts.key_fix == f"chmod 600 {key_file}"
    assert facts.repository_problem


def test_a_serve_is_known_by_its_lock(directory: DataDirectory) -> None:
    assert not machine._is_serving(directory)
    with (directory.run / "serve.lock").open("w") as lock:
        assert not machine._is_serving(directory)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert machine._is_serving(directory)


def test_a_binary_that_is_none_comes_with_its_fix(tmp_path: Path) -> None:
    settings = resolve_settings(flags={"mongod": str(tmp_path / "absent")}, environment={}, file=None)
    version, problem, fix = machine.ask_mongod(settings)
    assert version == ""
    assert "there is no mongod" in problem
    assert fix
