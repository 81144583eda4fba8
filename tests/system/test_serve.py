"""`ebbtide serve` as an operator meets it: starts, stops, refusals, the owner's key, and a lost service key."""

import json
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ebbtide.errors import AccessDenied, EbbtideError
from ebbtide.mongod.ports import free_port
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.running_service import WAIT_SECONDS, RunningService
from ebbtide.testing.service import Owner


@pytest.fixture(scope="module")
def service(new_service: Callable[..., RunningService]) -> RunningService:
    return new_service(flags=["--allow", "192.0.2.0/24", "--allow", "2001:db8::7"]).start()


@pytest.fixture
def running(service: RunningService) -> RunningService:
    """The service, started again where the test before stopped it."""
    return service if service.is_running() else service.start()


@pytest.fixture
def owner(running: RunningService, keyfile_lab: ReplicaSetLab) -> Iterator[Owner]:
    """The owner of a registered set with authentication."""
    owner = Owner(running, keyfile_lab)
    owner.register()
    yield owner
    owner.close()
    running.stop()


def ebbtide(service: RunningService, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """One command of the command line, with the service's environment."""
    return subprocess.run(
        [sys.executable, "-m", "ebbtide", *arguments],
        env=service.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def reset_owner(service: RunningService) -> str:
    """`ebbtide keys reset-owner`; the new private key."""
    done = ebbtide(service, "keys", "reset-owner", "--data", str(service.data), "-o", "json")
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["privateKey"])


def test_files_are_private(running: RunningService) -> None:
    data = running.data

    assert [mode(path) for path in (data, data / "heads", data / "run", data / "catalog")] == [0o700] * 4
    assert [mode(data / name) for name in ("owner-key.json", "secret.key")] == [0o600] * 2


def test_the_owner_key_is_born_with_the_access_list_that_was_asked_for(running: RunningService) -> None:
    with running.client() as client:
        keys = client.list_keys()

    assert len(keys) == 1
    listed = {entry.get("cidrBlock") or entry["ipAddress"] for entry in keys[0]["accessList"]}
    assert {entry.removesuffix("/32").removesuffix("/128") for entry in listed} == {
        "127.0.0.1",
        "::1",
        "192.0.2.0/24",
        "2001:db8::7",
    }


def test_a_second_serve_on_the_same_data_is_refused_and_says_who_runs(running: RunningService) -> None:
    pid = running.process_id("serve")

    done = ebbtide(running, "serve", "--data", str(running.data), "--listen", f"127.0.0.1:{free_port()}")

    assert done.returncode == 3
    assert f"pid {pid}" in done.stderr
    assert "stop it first" in done.stderr
    with running.client() as client:
        client.get_status()


def test_plain_http_beyond_loopback_is_refused_unless_it_is_asked_for(
    running: RunningService, new_service: Callable[..., RunningService]
) -> None:
    port = free_port()
    open_service = new_service(listen=f"0.0.0.0:{port}", flags=["--insecure-http"])

    refused = ebbtide(running, "serve", "--data", str(open_service.data), "--listen", f"0.0.0.0:{port}")
    assert refused.returncode == 3
    assert "--insecure-http" in refused.stderr
    assert "--tls-certificate" in refused.stderr
    assert not open_service.data.exists()

    with open_service:
        here = replace(open_service.connection, base_url=f"http://127.0.0.1:{port}")
        with open_service.client(here) as client:
            client.get_status()
        assert "PLAIN HTTP" in open_service.log_text()


def test_an_owner_key_is_replaced_beside_a_running_service_and_the_old_one_is_dead(
    running: RunningService,
) -> None:
    with running.client() as old_client:
        old_client.get_status()
        private_key = reset_owner(running)
        with pytest.raises(EbbtideError) as refusal:
            old_client.list_keys()
    assert refusal.value.exit_code == AccessDenied.exit_code

    connection = replace(running.connection, private_key=private_key)
    with running.client(connection) as new_client:
        assert len(new_client.list_keys()) == 1
    # For the tests that follow.
    path = running.data / "owner-key.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"private_key": private_key}))


def test_an_owner_key_is_replaced_while_nothing_runs(running: RunningService) -> None:
    running.terminate()
    before = running.connection

    private_key = reset_owner(running)
    assert not any(running.process_ids().values())
    running.start()

    with running.client(before) as old_client, pytest.raises(EbbtideError):
        old_client.list_keys()
    with running.client(replace(before, private_key=private_key)) as new_client:
        assert len(new_client.list_keys()) == 1
    path = running.data / "owner-key.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"private_key": private_key}))


def test_a_catalog_of_another_major_version_is_refused_with_what_to_do(running: RunningService) -> None:
    running.terminate()
    mark = running.data / "catalog" / "mongod-version"
    version = mark.read_text()

    mark.write_text("5.0.14\n")
    try:
        done = ebbtide(running, *running.command[3:])
    finally:
        mark.write_text(version)

    assert done.returncode == 3
    assert "5.0.14" in done.stderr
    assert "EBBTIDE_MONGOD" in done.stderr
    assert not any(running.process_ids().values())


def test_a_stop_ends_every_process_and_a_lost_service_key_costs_no_snapshot(owner: Owner) -> None:
    service = owner.service
    snapshot = owner.take_snapshot()
    assert mode(next((service.data / "heads").glob("*/keyfile"))) == 0o600

    service.terminate()
    assert not any(service.process_ids().values())

    (service.data / "secret.key").unlink()
    service.start()
    private_key = reset_owner(service)
    owner.client.close()
    owner.client = service.client(replace(service.connection, private_key=private_key))
    job = owner.wait_until_ready(owner.start_restore(snapshot["id"]))
    archive = owner.download(job)
    assert len(archive) == owner.restore_progress(job["id"])["archiveBytes"]

    def says_what_is_lost() -> bool:
        return "sealed with service key" in str(owner.cluster()["head"].get("message", ""))

    service.wait_until(says_what_is_lost, "the head to say that its credentials cannot be read")
