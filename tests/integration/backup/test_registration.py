"""Registering real replica sets: what cannot work is refused, all of it at once, and nothing is changed."""

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ebbtide.backup import registration
from ebbtide.backup.registration import RegistrationReport
from ebbtide.backup.registration_checks import RegistrationRequest
from ebbtide.domain.cluster import HeadState
from ebbtide.errors import InvalidInput, RegistrationRefused
from ebbtide.mongod.options import MongodOptions, Tcp
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.process import MongodProcess
from ebbtide.testing.lab import ReplicaSetLab

WRONG_KEYFILE = "A" * 64
PASSWORD = "correct horse"


def problems(report: RegistrationReport) -> dict[str, tuple[str, str]]:
    """The failed checks: name → (what, fix)."""
    return {check.name: (check.what, check.fix) for check in report.checks if not check.ok}


def state_of(installation: Any, lab: ReplicaSetLab) -> tuple[Any, ...]:
    """Everything that a check might have changed."""
    with lab.client() as client:
        configuration = client.admin.command("replSetGetConfig")["config"]
        users = client.admin.command("usersInfo", {"forAllDBs": True})["users"]
        databases = sorted(client.list_database_names())
    names = [cluster.name for cluster in installation.catalog.clusters.list_live()]
    heads = [head.id for head in installation.catalog.heads.list_all()]
    events = installation.catalog.events.count(installation.group.id, cluster_id=None)
    files = sorted(path.name for path in installation.context.directory.heads.iterdir())
    return configuration, users, databases, names, heads, events, files


@pytest.fixture
def refused(installation: Any) -> Callable[..., dict[str, tuple[str, str]]]:
    """Checks a request that must be refused, and that nothing was changed by it; the problems found."""

    def check(lab: ReplicaSetLab, request: RegistrationRequest | None = None, **changes: Any) -> Any:
        before = state_of(installation, lab)
        report = installation.check(request or installation.request(lab, **changes))
        found = problems(report)
        with pytest.raises(RegistrationRefused) as error:
            report.raise_unless_ok()
        assert list(found.values()) == list(error.value.problems)
        assert before == state_of(installation, lab)
        return found

    return check


@contextmanager
def listening() -> Iterator[int]:
    """A port of loopback that is taken."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


# --- what can be reached ------------------------------------------------------------------------------------------


def test_a_set_without_login_passes_and_is_told_what_its_head_takes(
    installation: Any, lab: ReplicaSetLab
) -> None:
    report = installation.check(installation.request(lab))
    assert problems(report) == {}
    assert report.disk_bytes > report.facts.oplog_bytes > 0
    assert report.memory_bytes > 0.25 * 1024**3
    said = {check.name: check.what for check in report.checks}
    assert said["replica set"] == f"replica set {lab.replica_set_name}"
    assert "6.0.5" in said["version"]


def test_a_port_where_nothing_listens(installation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(registration, "ALONE_SECONDS", 0.5)
    request = RegistrationRequest(name="shop", uri=f"mongodb://127.0.0.1:{free_port()}/")
    found = problems(installation.check(request))
    assert list(found) == ["reachable"]
    assert "Connection refused" in found["reachable"][0]


def test_a_lone_server_is_told_how_to_become_a_set(
    installation: Any, mongod_binary: Path, tmp_path: Path, identity_path: Path
) -> None:
    port = free_port()
    options = MongodOptions(
        dbpath=tmp_path / "data",
        log_path=tmp_path / "log",
        listen=Tcp(host="127.0.0.1", port=port),
        cache_gb=0.25,
    )
    lone = MongodProcess.start(mongod_binary, options, identity_path=identity_path)
    try:
        request = RegistrationRequest(name="shop", uri=f"mongodb://127.0.0.1:{port}/")
        found = problems(installation.check(request))
    finally:
        lone.kill()
    assert list(found) == ["replica set"]
    assert "--replSet rs0" in found["replica set"][1]
    assert "rs.initiate()" in found["replica set"][1]


def test_a_member_that_is_down_is_named(installation: Any, lab: ReplicaSetLab) -> None:
    down = next(m for m in lab.members if m.index != lab.primary().index)
    lab.kill_member(down.index)

    def told() -> Any:
        found = problems(installation.check(installation.request(lab)))
        return found.get("members up")

    what, fix = installation.wait_until(told, what="the member's absence")
    assert what == f"not reachable from the primary: {down.address}"
    assert fix
    lab.restart_member(down.index)
    installation.wait_until_healthy(lab)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "two words"},
        {"uri": "postgres://127.0.0.1/"},
        {"uri": "mongodb://me:secret@127.0.0.1:1/"},
        {"username": "alone"},
        {"head_port": 70_000},
        {"keyfile": "short"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_malformed_request_is_refused_before_anybody_is_asked(installation: Any, changes: Any) -> None:
    values = {"name": "shop", "uri": "mongodb://127.0.0.1:1/"} | changes
    with pytest.raises(InvalidInput) as error:
        installation.check(RegistrationRequest(**values))
    assert "secret" not in str(error.value)


# --- who may ------------------------------------------------------------------------------------------------------


def test_a_wrong_password(refused: Any, keyfile_lab: ReplicaSetLab) -> None:
    found = refused(keyfile_lab, password="wrong")
    assert list(found) == ["login"]
    assert "Authentication failed" in found["login"][0]


def test_no_credentials_where_the_set_asks_for_some(refused: Any, keyfile_lab: ReplicaSetLab) -> None:
    found = refused(keyfile_lab, username=None, password=None)
    assert list(found) == ["login"]
    assert found["login"][0] == "the set asks for a login, and none was given"
    assert "createUser" in found["login"][1]


class Fix(NamedTuple):
    """A line for mongosh, taken apart: a database's method and its arguments."""

    database: str
    method: str
    arguments: list[Any]


def parse_fix(text: str, method: str) -> Fix:
    """The line of `text` that calls `method`, as what mongosh would understand."""
    found = re.search(rf'db\.getSiblingDB\("(\w+)"\)\.{method}\((.*)\)$', text, re.MULTILINE)
    assert found is not None, text
    arguments = found[2].replace("passwordPrompt()", json.dumps(PASSWORD))
    return Fix(found[1], method, json.loads("[" + re.sub(r"(\w+): ", r'"\1": ', arguments) + "]"))


def create_user(lab: ReplicaSetLab, name: str, roles: list[Any], database: str = "admin") -> None:
    with lab.client(w="majority") as client:
        client[database].command("createUser", name, pwd=PASSWORD, roles=roles)


@pytest.mark.parametrize(
    ("roles", "missing"),
    [
        ([], ["backup", "clusterMonitor", "clusterManager", "hostManager", "readAnyDatabase"]),
        (["backup", "clusterMonitor"], ["clusterManager", "hostManager"]),
    ],
    ids=["none", "backup and clusterMonitor"],
)
def test_missing_roles_are_named_and_the_lines_given_mend_it(
    refused: Any, installation: Any, keyfile_lab: ReplicaSetLab, roles: list[str], missing: list[str]
) -> None:
    create_user(keyfile_lab, "weak", roles)
    weak = {"username": "weak", "password": PASSWORD}
    found = refused(keyfile_lab, **weak)
    assert list(found) == ["roles"]
    what, fix = found["roles"]
    assert what == f"weak lacks the roles {', '.join(missing)}"

    grant = parse_fix(fix, "grantRolesToUser")
    create = parse_fix(fix, "createUser")
    with keyfile_lab.client(w="majority") as client:
        user, roles_to_grant = grant.arguments
        client[grant.database].command("grantRolesToUser", user, roles=roles_to_grant)
        (document,) = create.arguments
        name = document.pop("user")
        client[create.database].command("createUser", name, **document)
    assert problems(installation.check(installation.request(keyfile_lab, **weak))) == {}
    made = {"username": name, "password": PASSWORD}
    assert problems(installation.check(installation.request(keyfile_lab, **made))) == {}


def test_a_user_of_another_database_is_granted_roles_there(
    refused: Any, installation: Any, keyfile_lab: ReplicaSetLab
) -> None:
    create_user(keyfile_lab, "weak", [], database="people")
    weak = {"username": "weak", "password": PASSWORD, "auth_source": "people"}
    _, fix = refused(keyfile_lab, **weak)["roles"]
    grant = parse_fix(fix, "grantRolesToUser")
    assert grant.database == "people"
    with keyfile_lab.client(w="majority") as client:
        client[grant.database].command("grantRolesToUser", grant.arguments[0], roles=grant.arguments[1])
    assert problems(installation.check(installation.request(keyfile_lab, **weak))) == {}


def test_root_may_do_it_too(installation: Any, keyfile_lab: ReplicaSetLab) -> None:
    root = {"username": keyfile_lab.root_username, "password": keyfile_lab.root_password}
    assert problems(installation.check(installation.request(keyfile_lab, **root))) == {}


def test_a_set_with_a_keyfile_needs_that_very_keyfile(
    refused: Any, installation: Any, keyfile_lab: ReplicaSetLab
) -> None:
    absent = refused(keyfile_lab, keyfile=None)
    assert absent == {
        "keyfile": (
            "the set's members authenticate with a keyfile",
            "give the set's keyfile (--keyfile FILE): without it the head may not join",
        )
    }
    wrong = refused(keyfile_lab, keyfile=WRONG_KEYFILE)
    assert list(wrong) == ["keyfile"]
    assert wrong["keyfile"][0] == "the set does not accept this keyfile"
    assert problems(installation.check(installation.request(keyfile_lab))) == {}


def test_a_keyfile_for_a_set_that_has_none(refused: Any, lab: ReplicaSetLab) -> None:
    assert list(refused(lab, keyfile=WRONG_KEYFILE)) == ["keyfile"]


# --- where the head would be --------------------------------------------------------------------------------------


def test_a_real_name_among_localhost_members(refused: Any, lab: ReplicaSetLab) -> None:
    found = refused(lab, head_host=socket.gethostname())
    assert "--head-host" in found["head's address"][1]


def test_a_port_that_is_taken(refused: Any, lab: ReplicaSetLab) -> None:
    with listening() as port:
        found = refused(lab, head_port=port)
    assert list(found) == ["head's port"]
    assert f"port {port} of 127.0.0.1 is taken" == found["head's port"][0]
    assert "--head-port" in found["head's port"][1]


def test_an_address_of_another_machine(refused: Any, lab: ReplicaSetLab) -> None:
    # 192.0.2.0/24 is reserved for documentation: no machine has it.
    found = refused(lab, head_host="192.0.2.1")
    assert list(found) == ["head's address", "head's port"]
    assert "no address of this machine" in found["head's port"][0]


def test_a_disk_that_is_too_small(refused: Any, lab: ReplicaSetLab, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1024**2)
    monkeypatch.setattr("ebbtide.backup.registration.shutil.disk_usage", lambda _: usage)
    found = refused(lab)
    assert list(found) == ["disk"]
    assert "0.0 GiB are free" in found["disk"][0]


# --- what is registered already -----------------------------------------------------------------------------------


def test_the_same_set_or_the_same_name_twice(refused: Any, installation: Any, lab: ReplicaSetLab) -> None:
    cluster = installation.register(lab, "first")
    # No worker has given it a head yet.
    found = refused(lab, name="second")
    assert list(found) == ["registered"]
    assert found["registered"][0] == "this set is registered as first"
    assert list(refused(lab, name="first")) == ["name", "registered"]
    with installation.working():
        installation.wait_for_head(cluster, HeadState.SYNCING, HeadState.FOLLOWING)
        # However it is spelt: the head is in the set's own configuration now.
        single = f"mongodb://localhost:{lab.primary().port}/"
        request = RegistrationRequest(name="second", uri=single)
        assert list(problems(installation.check(request))) == ["registered"]
        installation.remove(cluster)
    assert problems(installation.check(installation.request(lab, "first"))) == {}


def test_every_problem_is_told_at_once(
    refused: Any, installation: Any, keyfile_lab: ReplicaSetLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_user(keyfile_lab, "weak", ["clusterMonitor", "clusterManager"])
    installation.register(keyfile_lab, "shop")
    usage = shutil.disk_usage("/")._replace(free=1024**2)
    monkeypatch.setattr("ebbtide.backup.registration.shutil.disk_usage", lambda _: usage)
    with listening() as port:
        found = refused(
            keyfile_lab,
            name="shop",
            username="weak",
            password=PASSWORD,
            keyfile=WRONG_KEYFILE,
            head_port=port,
        )
    assert {"name", "roles", "head's port", "keyfile", "disk", "registered"} == set(found)
