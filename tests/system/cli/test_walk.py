"""The command line against a real `ebbtide serve` and a real replica set, as a person would use it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ebbtide.mongod.binary import find_mongod
from ebbtide.mongod.ports import free_port
from ebbtide.testing.lab import ReplicaSetLab

SERVE_SECONDS = 120.0


class Shell:
    """Runs `ebbtide` in a process of its own, with the connection in its environment."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def run(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", "ebbtide", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "-o", "json").stdout)


def _environment(tmp_path: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("EBBTIDE_") or name == "EBBTIDE_MONGOD"
    }
    return kept | {"XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell with a service of its own behind it."""
    environment, data = _environment(tmp_path), tmp_path / "data"
    command = ["serve", "--data", str(data), "--listen", f"127.0.0.1:{free_port()}"]
    log_path = tmp_path / "serve.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ebbtide", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        owner = _wait_for_owner(process, log_path, data)
        yield Shell(
            environment
            | {
                "EBBTIDE_URL": owner["base_url"],
                "EBBTIDE_PUBLIC_KEY": owner["public_key"],
                "EBBTIDE_PRIVATE_KEY": owner["private_key"],
            }
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def _wait_for_owner(process: "subprocess.Popen[bytes]", log_path: Path, data: Path) -> Any:
    deadline = time.monotonic() + SERVE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if b"Ebbtide is at" in log_path.read_bytes():
            return json.loads((data / "owner-key.json").read_text())
        time.sleep(0.05)
    raise AssertionError(log_path.read_text())


@pytest.fixture
def lab() -> Iterator[ReplicaSetLab]:
    with ReplicaSetLab(binary=find_mongod(None), members=1, keyfile=True) as running:
        yield running


def _registration(lab: ReplicaSetLab, tmp_path: Path) -> list[str]:
    password = tmp_path / "password"
    password.write_text(f"{lab.backup_password}\n")
    return [
        *["clusters", "add", "shop", "--uri", lab.uri, "--username", str(lab.backup_username)],
        *["--password-file", str(password), "--keyfile", str(lab.keyfile_path)],
    ]


def test_a_replica_set_is_registered_snapshotted_and_downloaded(
    shell: Shell, lab: ReplicaSetLab, tmp_path: Path
) -> None:
    with lab.client() as client:
        client.shop.things.insert_many([{"_id": number, "text": "x" * 100} for number in range(1000)])

    add = _registration(lab, tmp_path)
    assert shell.json(*add, "--dry-run")["ok"] is True
    assert shell.json("clusters", "list") == []
    cluster = shell.json(*add)
    assert cluster["name"] == "shop"
    assert "FAIL" in shell.run(*add, code=3).stderr
    shell.run("clusters", "watch", "shop")
    assert shell.json("clusters", "show", "shop")["head"]["state"] == "FOLLOWING"

    snapshot = shell.json("snapshots", "create", "shop")
    assert snapshot["state"] == "COMPLETE"
    assert [snapshot["id"]] == [found["id"] for found in shell.json("snapshots", "list", "shop")]

    job = shell.json("restores", "start", "shop", "--wait")["id"]
    downloaded = shell.json("restores", "download", job, "--to", f"{tmp_path}/")
    archive = Path(downloaded["file"])
    assert hashlib.sha1(archive.read_bytes()).hexdigest() == downloaded["sha1"]
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[-1] for name in tar.getnames()}
    assert {"restoreInfo.txt", "WiredTiger"} <= names
    assert "already there" in shell.run("restores", "download", job, "--to", f"{tmp_path}/", code=3).stderr

    _resume(shell, job, archive)
    assert shell.json("restores", "cancel", job)["statusName"] == "KILLED"
    shell.run("restores", "cancel", job, code=3)
    shell.run("restores", "download", job, "--to", str(tmp_path / "again"), code=11)

    kinds = {event["kind"] for event in shell.json("events", "list", "shop")}
    assert kinds
    assert shell.json("clusters", "remove", "shop", "--yes")["state"] in ("REMOVING", "REMOVED")
    _wait_until_left(lab)
    assert shell.json("snapshots", "list", "shop")[0]["id"] == snapshot["id"]


def _wait_until_left(lab: ReplicaSetLab) -> None:
    """Until the set lists its own member alone: a head leaves by itself while the set is there."""
    deadline = time.monotonic() + SERVE_SECONDS
    with lab.client() as client:
        while len(client.admin.command("replSetGetConfig")["config"]["members"]) > 1:
            assert time.monotonic() < deadline, "the head did not leave"
            time.sleep(0.1)


def _resume(shell: Shell, job: str, archive: Path) -> None:
    """Half of the archive is here, and the ETag that the server gives it: the rest is fetched by Range."""
    whole, other = archive.read_bytes(), archive.with_name("resumed.tar.gz")
    etag = _etag(shell, job)
    Path(f"{other}.part").write_bytes(whole[: len(whole) // 2])
    Path(f"{other}.part.etag").write_text(etag)
    resumed = shell.json("restores", "download", job, "--to", str(other))
    assert resumed["resumedAtByte"] == len(whole) // 2
    assert other.read_bytes() == whole


def _etag(shell: Shell, job: str) -> str:
    delivery = shell.json("restores", "show", job, "--link")["delivery"]
    response = httpx.head(delivery["url"], timeout=60)
    return str(response.headers["etag"])


def test_access_and_refusals_have_their_exit_codes(shell: Shell) -> None:
    key = shell.environment["EBBTIDE_PUBLIC_KEY"]
    assert shell.json("keys", "list")[0]["publicKey"] == key
    shell.run("keys", "allow", key, "192.0.2.0/24")
    assert "192.0.2.0/24" in shell.run("keys", "list").stdout
    shell.run("keys", "disallow", key, "192.0.2.0/24")
    assert "192.0.2.0/24" not in shell.run("keys", "list").stdout
    shell.run("keys", "disallow", key, "127.0.0.1", code=2)

    for arguments in (
        ["clusters", "show", "nope"],
        ["snapshots", "create", "nope"],
        ["restores", "show", "0" * 24],
        ["restores", "start", "nope", "--snapshot", "0" * 24],
    ):
        told = json.loads(shell.run(*arguments, "-o", "json", code=4).stderr)["error"]
        assert told["errorCode"], arguments
    wrong = Shell(shell.environment | {"EBBTIDE_PRIVATE_KEY": "wrong"})
    wrong.run("clusters", "list", code=5)


def test_a_lost_owner_key_is_replaced(shell: Shell, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    local = Shell({name: value for name, value in shell.environment.items() if name != "EBBTIDE_URL"})
    new = local.json("keys", "reset-owner", "--data", data)
    shell.run("keys", "list", code=5)
    Shell(
        shell.environment | {"EBBTIDE_PUBLIC_KEY": new["publicKey"], "EBBTIDE_PRIVATE_KEY": new["privateKey"]}
    ).run("keys", "list")
