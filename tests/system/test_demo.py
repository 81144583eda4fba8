"""The README's first command, as a user runs it: the real processes, the real story."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ebbtide.processes import process_start_ticks

ONCE_FIELDS = {
    "ok": bool,
    "snapshot_seconds": float,
    "snapshot_bytes": int,
    "stored_bytes": int,
    "second_snapshot_stored_bytes": int,
    "job_ready_seconds": float,
    "download_bytes": int,
    "download_seconds": float,
    "sha1_ok": bool,
    "plain_start_at_timestamp": bool,
    "dbhash_equal": bool,
    "pit_exact": bool,
    "replay_ops_per_second": float,
    "automated_restore_ok": bool,
    "automated_restore_seconds": float,
}
DETACH_FIELDS = [
    "base_url",
    "public_key",
    "private_key",
    "group_id",
    "cluster_id",
    "cluster_name",
    "snapshot_ids",
    "mongodb_uri",
    "data_dir",
]


class Demo:
    """Runs `ebbtide demo` in a temporary directory of its own, so that no other demo is in the way."""

    def __init__(self, temporary: Path, binary: Path) -> None:
        self.environment = {**os.environ, "TMPDIR": str(temporary), "EBBTIDE_MONGOD": str(binary)}
        self.root = temporary / f"ebbtide-demo-{os.getuid()}"

    def run(self, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "ebbtide", "demo", *options],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
        )

    def processes(self) -> set[int]:
        """Every process that has this demo's directory, or a lab in it, on its command line."""
        base = str(self.root.parent).encode()
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    arguments = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if base in arguments and process_start_ticks(int(entry.name)) is not None:
                    found.add(int(entry.name))
        return found


@pytest.fixture
def demo(tmp_path_factory: pytest.TempPathFactory, mongod_binary: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"), mongod_binary)
    yield demo
    demo.run("--stop")


def last_object(text: str) -> dict[str, Any]:
    """The JSON object that the output ends with."""
    found: dict[str, Any] = json.loads(text[text.rindex("\n{\n") + 1 if "\n{\n" in text else 0 :])
    return found


def test_the_story_of_a_sharded_cluster_conserves_the_total_and_leaves_nothing(demo: Demo) -> None:
    done = demo.run("--once", "--json", "--sharded")
    assert done.returncode == 0, done.stderr
    assert last_object(done.stdout) == {
        "ok": True,
        "bank_total_conserved": True,
        "parts": 3,
        "batch_jobs": 3,
        "checkpoint_restorable": True,
        "automated_restore_ok": True,
    }
    assert demo.processes() == set()


def test_once_shows_the_whole_story_and_leaves_nothing(demo: Demo) -> None:
    done = demo.run("--once", "--json")

    assert done.returncode == 0, done.stderr
    result = last_object(done.stdout)
    assert list(ONCE_FIELDS) == list(result)
    for name, kind in ONCE_FIELDS.items():
        assert isinstance(result[name], kind), name
    assert result["ok"] is True
    assert result["second_snapshot_stored_bytes"] < result["stored_bytes"] / 4
    assert set() == demo.processes()
    assert not (demo.root / "work").exists()


def test_a_detached_demo_can_be_used_and_one_that_was_killed_is_cleaned_up(demo: Demo) -> None:
    done = demo.run("--detach", "--json")
    assert done.returncode == 0, done.stderr
    facts = last_object(done.stdout)
    assert list(facts) == DETACH_FIELDS

    second = demo.run("--once", "--json")
    assert second.returncode == 3
    assert facts["base_url"] in second.stderr

    jobs = f"{facts['base_url']}/api/atlas/v1.0/groups/{facts['group_id']}/clusters/{facts['cluster_name']}/restoreJobs"
    with httpx.Client(auth=httpx.DigestAuth(facts["public_key"], facts["private_key"])) as client:
        body = {"delivery": {"methodName": "HTTP"}, "snapshotId": facts["snapshot_ids"][0]}
        created = client.post(jobs, json=body)
        assert created.status_code == 200, created.text
        # The demo itself made three: a snapshot, a moment, and a collection into the running set.
        assert client.get(jobs).json()["totalCount"] == 4

    pid = json.loads((demo.root / "demo.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while process_start_ticks(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped = demo.run("--stop")

    assert stopped.returncode == 0, stopped.stderr
    assert set() == demo.processes()
    assert not (demo.root / "work").exists()
    assert not (demo.root / "demo.json").exists()
