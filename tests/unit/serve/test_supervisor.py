"""The supervisor's rules: when a child starts again, what it is told, and what memory all of it takes."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ebbtide.serve.supervisor import (
    RESTART_DELAY_MAX_SECONDS,
    Supervisor,
    child_environment,
    memory_bytes,
    restart_delay_seconds,
    warn_of_memory,
)
from ebbtide.settings import Settings, resolve_settings

GIB = 1024**3


def settings(**flags: Any) -> Settings:
    return resolve_settings(
        flags={name.replace("__", "."): value for name, value in flags.items()}, environment={}, file=None
    )


@pytest.mark.parametrize(
    ("deaths", "seconds"),
    [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, RESTART_DELAY_MAX_SECONDS)],
)
def test_a_child_that_dies_again_and_again_waits_longer(deaths: int, seconds: float) -> None:
    assert seconds == restart_delay_seconds(deaths)


def test_a_child_that_died_very_often_waits_no_longer_than_the_limit() -> None:
    assert restart_delay_seconds(1000) == RESTART_DELAY_MAX_SECONDS


def test_children_are_told_the_flags_and_read_them_as_they_were_given() -> None:
    given = settings(
        head__cache_gb=1.5, api__insecure_http=True, api__allow=["10.0.0.0/8", "::1"], worker__threads=0
    )
    environment = child_environment({"PATH": "/bin", "EBBTIDE_HEAD_CACHE_GB": "9"}, given)
    assert environment == {
        "PATH": "/bin",
        "EBBTIDE_HEAD_CACHE_GB": "1.5",
        "EBBTIDE_API_INSECURE_HTTP": "True",
        "EBBTIDE_API_ALLOW": "10.0.0.0/8,::1",
        "EBBTIDE_WORKER_THREADS": "0",
    }
    read = resolve_settings(flags={}, environment=environment, file=None)
    assert dict(given.values) == dict(read.values)


def test_what_was_not_a_flag_is_left_to_the_children_to_read() -> None:
    ours = {"EBBTIDE_LOG_LEVEL": "debug"}
    resolved = resolve_settings(flags={}, environment=ours, file=None)
    assert ours == child_environment(ours, resolved)


def _sleeping() -> "subprocess.Popen[bytes]":
    """A process that ends by SIGHUP, also where whoever runs the tests ignores that signal (`nohup`)."""
    return subprocess.Popen(
        ["sleep", "600"],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509 — it takes no lock
    )


def test_only_the_api_is_told_to_read_its_certificate_again(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, settings(), config_file=None)
    supervisor.reload()
    processes = {child.name: _sleeping() for child in supervisor._children}
    try:
        for child in supervisor._children:
            child.process = processes[child.name]
        supervisor.reload()
        # `sleep` does not handle the signal, so what gets it ends by it.
        assert processes["api"].wait(60) == -signal.SIGHUP
        assert processes["worker"].poll() is None
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def test_every_head_adds_its_cache_and_its_process() -> None:
    given = settings(head__cache_gb=2.0)
    assert memory_bytes(given, clusters=3) - memory_bytes(given, clusters=2) == 2 * GIB + 250 * 1024**2
    assert memory_bytes(given, clusters=0) > 0.25 * GIB


@pytest.mark.parametrize(("machine_gib", "is_warned"), [(64, False), (4, True)])
def test_more_than_half_of_the_memory_is_said(
    machine_gib: int, is_warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": machine_gib * GIB // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    warning = warn_of_memory(settings(head__cache_gb=2.0), clusters=1)
    assert is_warned is (warning is not None)
    assert warning is None or "4.0 GiB" in warning
