"""The data directory is its owner's alone, and its sockets have paths that the kernel takes."""

import os
import tempfile
from pathlib import Path
from urllib.parse import unquote

import pytest

from ebbtide.data_directory import SOCKET_PATH_BYTES_MAX, DataDirectory
from ebbtide.errors import Refused
from ebbtide.settings import resolve_settings

DEFAULTS = resolve_settings(flags={}, environment={}, file=None)


def test_preparing_makes_private_directories_and_can_be_repeated(tmp_path: Path) -> None:
    directory = DataDirectory.at(tmp_path / "deep" / "data")
    directory.prepare()
    directory.root.chmod(0o755)
    directory.prepare()
    for path in (directory.root, directory.heads, directory.run, directory.catalog):
        assert path.stat().st_mode & 0o777 == 0o700


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(Refused, match="cannot use"):
        DataDirectory.at(tmp_path / "data").prepare()


def test_another_users_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(Refused, match="another user"):
        DataDirectory.at(tmp_path).prepare()


def test_paths_may_be_set(tmp_path: Path) -> None:
    directory = DataDirectory.at(tmp_path)
    assert tmp_path / "repository" == directory.repository(DEFAULTS)
    assert tmp_path / "secret.key" == directory.service_key_file(DEFAULTS)
    flags = {"repository.path": "/srv/r", "service.key_file": "/etc/k", "catalog.uri": "mongodb://c/"}
    named = resolve_settings(flags=flags, environment={}, file=None)
    assert Path("/srv/r") == directory.repository(named)
    assert Path("/etc/k") == directory.service_key_file(named)
    assert directory.catalog_uri(named) == "mongodb://c/"


def test_the_catalogs_socket_is_beside_the_data_where_its_path_is_short() -> None:
    directory = DataDirectory(Path("/srv/ebbtide"))
    assert Path("/srv/ebbtide/run/catalog.sock") == directory.catalog_socket()
    uri = DataDirectory(Path("/srv/100%25")).catalog_uri(DEFAULTS)
    assert unquote(uri.removeprefix("mongodb://")) == "/srv/100%25/run/catalog.sock"


@pytest.fixture
def _own_temporary_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("t")))


@pytest.mark.usefixtures("_own_temporary_directory")
def test_a_long_path_has_its_socket_in_a_private_directory_of_its_own() -> None:
    one, two = (DataDirectory(Path("/" + "d" * 100 + name)) for name in "ab")
    socket = one.catalog_socket()
    assert len(os.fsencode(socket)) <= SOCKET_PATH_BYTES_MAX
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert socket == one.catalog_socket()
    assert socket != two.catalog_socket()


@pytest.mark.usefixtures("_own_temporary_directory")
def test_a_socket_directory_that_others_may_enter_is_refused() -> None:
    directory = DataDirectory(Path("/" + "d" * 120))
    directory.catalog_socket().parent.chmod(0o755)
    with pytest.raises(Refused, match="not private"):
        directory.catalog_socket()


@pytest.mark.usefixtures("_own_temporary_directory")
def test_a_link_in_place_of_the_socket_directory_is_refused(tmp_path: Path) -> None:
    directory = DataDirectory(Path("/" + "d" * 120))
    parent = directory.catalog_socket().parent
    parent.rmdir()
    tmp_path.chmod(0o700)
    parent.symlink_to(tmp_path)
    with pytest.raises(Refused, match="not private"):
        directory.catalog_socket()
