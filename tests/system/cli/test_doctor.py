"""`ebbtide doctor` beside a real service with a real set: all is well, until it is not."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebbtide.testing.running_service import RunningService
from ebbtide.testing.service import Owner


def run_doctor(service: RunningService, tmp_path: Path, *arguments: str) -> tuple[int, list[Any], str]:
    """(exit code, findings, standard error)."""
    connection = service.connection
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("EBBTIDE_") or name == "EBBTIDE_MONGOD"
    }
    done = subprocess.run(
        [sys.executable, "-m", "ebbtide", "doctor", "--data", str(service.data), *arguments, "-o", "json"],
        env=environment
        | {
            "XDG_CONFIG_HOME": str(tmp_path),
            "EBBTIDE_URL": connection.base_url,
            "EBBTIDE_PUBLIC_KEY": connection.public_key,
            "EBBTIDE_PRIVATE_KEY": connection.private_key,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    findings = json.loads(done.stdout)["findings"] if done.stdout else []
    return done.returncode, findings, done.stderr


def failed(findings: list[Any]) -> list[tuple[str, str]]:
    return [(f["subject"], f["name"]) for f in findings if f["verdict"] == "FAILED"]


def test_it_looks_at_everything_and_finds_what_is_wrong(
    new_service: Callable[..., RunningService],
    new_owner: Callable[[RunningService], Owner],
    tmp_path: Path,
) -> None:
    service = new_service().start()
    owner = new_owner(service)
    owner.register()
    owner.wait_until_following()

    code, findings, stderr = run_doctor(service, tmp_path)
    assert (code, failed(findings)) == (0, []), stderr
    names = {finding["name"] for finding in findings if finding["subject"] == owner.name}
    for member in owner.lab.members:
        expected = {f"member {member.address}", f"clock of {member.address}", f"{member.address} to head"}
        assert expected <= names
    assert {"reachable", "head"} <= names
    assert "keys and secrets" in {finding["name"] for finding in findings}

    assert run_doctor(service, tmp_path, "absent")[0] == 4

    key_file = service.data / "secret.key"
    key_file.chmod(0o640)
    code, findings, stderr = run_doctor(service, tmp_path, owner.name)
    key_file.chmod(0o600)
    assert (code, failed(findings)) == (3, [("machine", "service key")])
    assert "1 of" in json.loads(stderr)["error"]["message"]

    victim = next(m for m in owner.lab.members if m.index != owner.lab.primary().index)
    owner.lab.kill_member(victim.index)
    try:
        code, findings, _ = run_doctor(service, tmp_path, owner.name)
    finally:
        owner.lab.restart_member(victim.index)
    assert code == 3
    assert (owner.name, f"member {victim.address}") in failed(findings)

    service.terminate()
    code, findings, _ = run_doctor(service, tmp_path)
    assert (code, failed(findings)) == (3, [("machine", "catalog"), ("machine", "profile and API")])
