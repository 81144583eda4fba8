"""Finding a mongod."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from ebbtide.errors import MongodBinaryMissing
from ebbtide.mongod.binary import (
    find_mongod,
    find_mongod_of,
    mongod_version,
    without_unknown_parameters,
)


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


def versioned(path: Path, version: str) -> Path:
    return script(path, f"echo 'db version v{version}'")


def test_the_first_version_at_hand_is_chosen(tmp_path: Path) -> None:
    six, seven = versioned(tmp_path / "six", "6.0.5"), versioned(tmp_path / "seven", "7.0.2")
    binaries = {"6.0": str(six), "7.0": str(seven)}
    wanted = ("7.0", "6.0")
    assert seven == find_mongod_of(wanted, own=None, binaries=binaries, default=None)
    assert six == find_mongod_of(wanted, own=None, binaries={"6.0": str(six)}, default=str(six))
    assert six == find_mongod_of(wanted, own=str(six), binaries=binaries, default=None)


def test_no_other_version_takes_the_place_of_the_one_that_is_needed(tmp_path: Path) -> None:
    six = versioned(tmp_path / "six", "6.0.5")
    with pytest.raises(MongodBinaryMissing, match=r"a mongod 7\.0 is needed: .*six is 6\.0\.5") as caught:
        find_mongod_of(("7.0",), own=None, binaries={}, default=str(six))
    assert "EBBTIDE_MONGOD_BINARIES=7.0=PATH" in caught.value.hint
    with pytest.raises(MongodBinaryMissing, match="there is no mongod at"):
        find_mongod_of(("7.0",), own=str(tmp_path / "absent"), binaries={"7.0": str(six)}, default=None)


def test_a_parameter_that_a_version_does_not_know_is_left_out() -> None:
    unknown = "shutdownTimeoutMillisForSignaledShutdown=100"
    arguments = ["--setParameter", "ttlMonitorEnabled=false", "--setParameter", unknown, "--ipv6"]
    assert without_unknown_parameters(arguments, version="4.4.2") == [
        "--setParameter",
        "ttlMonitorEnabled=false",
        "--ipv6",
    ]
    assert arguments == without_unknown_parameters(arguments, version="5.0.4")
