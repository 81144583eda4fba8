"""Fixtures of the command line: a scripted API, and a command run against it in this process."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ebbtide.cli import session
from ebbtide.cli.main import run

# The modules beside a test are not a package (pytest's importlib mode): load the scripted API by its path, once.
_NAME = "scripted_api"
if _NAME not in sys.modules:
    _SPEC = importlib.util.spec_from_file_location(_NAME, Path(__file__).with_name("scripted_api.py"))
    if _SPEC is None or _SPEC.loader is None:
        raise ImportError(_NAME)
    _MODULE = importlib.util.module_from_spec(_SPEC)
    sys.modules[_NAME] = _MODULE
    _SPEC.loader.exec_module(_MODULE)

import scripted_api  # noqa: E402


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def api() -> Iterator[Any]:
    with scripted_api.running_api() as running:
        yield running


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("EBBTIDE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(session, "POLL_SECONDS", 0.01)


@pytest.fixture
def connected(api: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripted API, with the environment that leads to it and one project."""
    monkeypatch.setenv("EBBTIDE_URL", api.base_url)
    monkeypatch.setenv("EBBTIDE_PUBLIC_KEY", scripted_api.PUBLIC_KEY)
    monkeypatch.setenv("EBBTIDE_PRIVATE_KEY", scripted_api.PRIVATE_KEY)
    api.answer("GET", "/api/atlas/v1.0/groups", scripted_api.listing({"id": "a" * 24, "name": "main"}))
    return api


@pytest.fixture
def ebbtide(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process."""

    def call(*arguments: str) -> Outcome:
        capfd.readouterr()
        code = run(list(arguments))
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
