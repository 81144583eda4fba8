"""A sharded cluster that is brought up from its parts' archives: on new ports, whole, and at work."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ebbtide.cli.main import run
from ebbtide.mongod.ports import free_port
from ebbtide.restore.archive_directory import inspect_directory
from ebbtide.restore.sharded_prepare.execute import PartStep
from ebbtide.testing.bank import COLLECTION, DATABASE, Bank
from ebbtide.testing.prepared_cluster import PreparedCluster, move_some_chunk
from ebbtide.testing.sharded_lab import CONFIG

from .conftest import WAIT_SECONDS, owned_balances

NEW_CONFIG = "new-config"
SET_NAMES = {CONFIG: NEW_CONFIG, "shard0": "shard0", "shard1": "shard1"}


@pytest.fixture
def parts(restored: Any, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Path]:
    """A copy of the directories that the test names."""
    directories = restored[request.param].directories
    return {name: Path(shutil.copytree(path, tmp_path / path.name)) for name, path in directories.items()}


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """A port for each, and the next one is nobody's."""
    ports: list[int] = []
    while len(ports) < len(names):
        port = free_port()
        if not {port - 1, port, port + 1} & set(ports):
            ports.append(port)
    return dict(zip(names, ports, strict=True))


def command(directories: Mapping[str, Path], ports: Mapping[str, int], *, left_out: str = "") -> list[str]:
    """Each part is to have one more member, which nobody has started."""
    words = ["restores", "prepare", *map(str, directories.values()), "-o", "json", "--yes"]
    for name, port in ports.items():
        set_name = f"{NEW_CONFIG}/" if name == CONFIG else ""
        hosts = f"127.0.0.1:{port},127.0.0.1:{port + 1}"
        words += ["--part", f"{name}={set_name}{hosts}"] if name != left_out else []
    return words


def require_whole(cluster: PreparedCluster, restored: Any) -> None:
    """What the archives hold, no more and no less: the server's own sum over both shards too."""
    assert restored.balances == owned_balances(cluster)
    assert sum(restored.balances.values()) == restored.total
    bank = Bank(cluster)
    try:
        assert bank.total() == restored.total
    finally:
        bank.close()


def require_at_work(cluster: PreparedCluster, restored: Any) -> None:
    """No document of an undecided transaction is blocked, chunks move there and back, and transfers cross the shards."""
    for account in restored.undecided:
        update = {"q": {"_id": account}, "u": {"$inc": {"touched": 1}}}
        changed = [
            cluster.admin_client(shard)[DATABASE].command(
                "update", COLLECTION, updates=[update], maxTimeMS=int(WAIT_SECONDS * 1000)
            )["n"]
            for shard in cluster.shards
        ]
        assert sorted(changed) == [0, 1]
    bank = Bank(cluster)
    try:
        for _ in range(2):
            owned = bank.owned_accounts()
            assert move_some_chunk(bank)
            assert owned != bank.owned_accounts()
            bank.transfer()
        assert bank.total() == restored.total
    finally:
        bank.close()


@pytest.mark.parametrize("parts", ["transfers"], indirect=True)
def test_the_parts_start_as_a_whole_cluster_on_new_ports(
    restored: Any,
    parts: dict[str, Path],
    new_clusters: Any,
    mongod_binary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EBBTIDE_MONGOD", str(mongod_binary))
    ports = free_ports(list(parts))
    assert run(command(parts, ports, left_out="shard1")) == 3
    assert "add --part shard1=HOST:PORT" in capfd.readouterr().err

    assert run(command(parts, ports)) == 0
    told = json.loads(capfd.readouterr().out)
    assert [part["name"] for part in told["parts"]] == [CONFIG, "shard0", "shard1"]
    config_address = f"{NEW_CONFIG}/127.0.0.1:{ports[CONFIG]},127.0.0.1:{ports[CONFIG] + 1}"
    assert config_address == told["addresses"][CONFIG]
    for part in told["parts"]:
        role = "--configsvr" if part["name"] == CONFIG else "--shardsvr"
        assert f"mongod {role} --replSet {SET_NAMES[part['name']]} " in part["next"]["start"]

    cluster = new_clusters(parts, ports, restored["transfers"].keyfile_text)
    require_whole(cluster, restored["transfers"])
    require_at_work(cluster, restored["transfers"])
    # A transaction that would come back does so at a restart.
    cluster.restart()
    changed = owned_balances(cluster)
    assert sum(changed.values()) == restored["transfers"].total
    cluster.shut_down()

    assert run(command(parts, ports)) == 0
    assert all(part["wasPrepared"] for part in json.loads(capfd.readouterr().out)["parts"])


KILLED_AT = """
import os, signal, sys
from ebbtide.cli.main import run
from ebbtide.restore.sharded_prepare import execute
name, step = sys.argv[1:3]
def reached(part, done):
    if (part, done) == (name, step):
        os.kill(os.getpid(), signal.SIGKILL)
real = execute.execute_sharded_prepare
execute.execute_sharded_prepare = lambda plan, *, binary, on_step: real(plan, binary=binary, on_step=reached)
run(sys.argv[3:])
"""


@pytest.mark.parametrize("parts", ["migration"], indirect=True)
def test_killed_on_the_way_and_run_again_it_is_whole_and_the_migration_is_undone(
    restored: Any,
    parts: dict[str, Path],
    new_clusters: Any,
    mongod_binary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EBBTIDE_MONGOD", str(mongod_binary))
    ports = free_ports(list(parts))
    moments = [
        ("shard0", PartStep.CONFIGURED),
        (CONFIG, PartStep.ADDRESSED),
    ]
    for name, step in moments:
        words = [sys.executable, "-c", KILLED_AT, name, step.value, *command(parts, ports)]
        # Not pytest's own directory: a Unix socket's path has at most 107 bytes.
        with tempfile.TemporaryDirectory(prefix="ebb-", ignore_cleanup_errors=True) as short:
            killed = subprocess.run(words, env=os.environ | {"TMPDIR": short}, capture_output=True)
            assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
            wait_until_free(parts, mongod_binary)
    assert run(command(parts, ports)) == 0
    prepared_before = {
        part["name"]: part["wasPrepared"] for part in json.loads(capfd.readouterr().out)["parts"]
    }
    assert prepared_before == {CONFIG: False, "shard0": True, "shard1": True}

    cluster = new_clusters(parts, ports, restored["migration"].keyfile_text)
    require_whole(cluster, restored["migration"])


def wait_until_free(parts: Mapping[str, Path], binary: Path) -> None:
    """The killed run's mongods are told by the kernel, and shut down in order."""
    deadline = time.monotonic() + WAIT_SECONDS
    while any(inspect_directory(directory, binary=binary).is_in_use for directory in parts.values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
