"""Crash points: a registry that the code and its tests agree upon."""

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ebbtide
from ebbtide import crash_points
from ebbtide.crash_points import CRASH_POINTS, arm, reach


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm(None)


def _reached_in_source() -> dict[str, int]:
    """Every name that `reach` is called with, and in how many places."""
    found: dict[str, int] = {}
    for path in Path(ebbtide.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            function = (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
            if function == "reach":
                (argument,) = node.args
                assert isinstance(argument, ast.Constant), f"{path.name}: the name is written out"
                assert isinstance(argument.value, str)
                found[argument.value] = found.get(argument.value, 0) + 1
    return found


def test_the_code_reaches_every_registered_point_in_one_place_and_no_other() -> None:
    assert dict.fromkeys(CRASH_POINTS, 1) == _reached_in_source()


def test_every_point_says_what_is_durable() -> None:
    assert all(CRASH_POINTS.values())


def test_nothing_happens_unless_armed() -> None:
    reach("snapshot.locked")
    reach("not even a name")


def test_an_armed_hook_is_called_with_the_name() -> None:
    seen: list[str] = []
    arm(seen.append)
    reach("snapshot.locked")
    assert seen == ["snapshot.locked"]
    arm(None)
    reach("snapshot.unlocked")
    assert seen == ["snapshot.locked"]


def test_a_hook_may_raise() -> None:
    def fail(_: str) -> None:
        raise KeyboardInterrupt

    arm(fail)
    with pytest.raises(KeyboardInterrupt):
        reach("snapshot.locked")


def test_an_unlisted_name_is_refused_while_armed() -> None:
    arm(lambda _: None)
    with pytest.raises(ValueError, match="not in the registry"):
        reach("snapshot.thought_about")


def _run(code: str, file: Path) -> int:
    environment = {**os.environ, "EBBTIDE_CRASH_FILE": str(file)}
    return subprocess.run([sys.executable, "-c", code], env=environment, timeout=120).returncode


def test_the_named_point_kills_the_process_and_takes_the_file_away(tmp_path: Path) -> None:
    file = tmp_path / "crash"
    file.write_text("snapshot.locked\n")
    code = (
        f"from {crash_points.__name__} import reach\n"
        "reach('snapshot.recorded')\nreach('snapshot.locked')\nraise SystemExit(3)"
    )
    assert _run(code, file) == -signal.SIGKILL
    assert not file.exists()
    assert _run(code, file) == 3


def test_several_points_are_visited_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "crash"
    file.write_text("snapshot.locked\nsnapshot.recorded")
    code = (
        f"from {crash_points.__name__} import reach\n"
        "reach('snapshot.recorded')\nreach('snapshot.locked')\nraise SystemExit(3)"
    )
    assert _run(code, file) == -signal.SIGKILL
    assert file.read_text() == "snapshot.recorded"
    assert _run(code, file) == -signal.SIGKILL
    assert not file.exists()


def test_a_point_may_freeze_the_process_until_it_is_let_go_on(tmp_path: Path) -> None:
    file = tmp_path / "crash"
    file.write_text("freeze snapshot.locked")
    code = f"from {crash_points.__name__} import reach\nreach('snapshot.locked')\nraise SystemExit(3)"
    environment = {**os.environ, "EBBTIDE_CRASH_FILE": str(file)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert not file.exists()
        process.send_signal(signal.SIGCONT)
        assert process.wait() == 3
