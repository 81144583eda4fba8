"""Finding a mongod."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from ebbtide.errors import MongodBinaryMissing
from ebbtide.mongod.binary import find_mongod, mongod_version


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def test_the_configured_path_is_taken_and_made_executable(tmp_path: Path) -> None:
    path = script(tmp_path / "mongod", "exit 0", mode=0o644)
    assert find_mongod(str(path)) == path
    assert os.access(path, os.X_OK)


def test_a_wrong_configured_path_is_an_error_even_where_another_mongod_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "mongod", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MongodBinaryMissing, match="EBBTIDE_MONGOD"):
        find_mongod(str(tmp_path / "absent"))


def test_without_the_package_the_error_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "mongod", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MongodBinaryMissing, match=r"ebbtide\[mongod\].*EBBTIDE_MONGOD"):
        find_mongod(None)


def test_the_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "fiftyone" / "db" / "bin"
    place.mkdir(parents=True)
    packaged = script(place / "mongod", "exit 0", mode=0o644)
    (tmp_path / "fiftyone" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_mongod(None) == packaged
    assert "fiftyone" not in sys.modules


def test_the_version_is_asked_once_for_each_file(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    path = script(tmp_path / "mongod", f"echo x >> {asked}; echo 'db version v6.0.5'")
    assert [mongod_version(path) for _ in range(3)] == ["6.0.5"] * 3
    assert asked.read_text() == "x\n"
    script(path, "echo 'db version v7.0.1-rc0'")
    os.utime(path, (1, 1))
    assert mongod_version(path) == "7.0.1-rc0"


@pytest.mark.parametrize(
    "text", ["echo 'libcurl.so.4: cannot open' >&2; exit 127", "echo 'libcurl.so.4 absent'"]
)
def test_a_mongod_that_cannot_run_is_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(MongodBinaryMissing, match=r"libcurl\.so\.4"):
        mongod_version(script(tmp_path / "mongod", text))


def test_a_file_that_is_no_program_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "mongod"
    path.write_bytes(b"\x7fELF nonsense")
    path.chmod(0o755)
    with pytest.raises(MongodBinaryMissing):
        mongod_version(path)
