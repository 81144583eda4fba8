"""The lab and its workload on real mongods."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bson import Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from ebbtide.mongod.options import MongodOptions, Tcp, UnixSocket
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.process import MongodProcess
from ebbtide.processes import process_start_ticks
from ebbtide.testing import workload
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import BACKUP_ROLES, SERVER_DATABASES, ReplicaSetLab
from ebbtide.testing.lab_directory import sweep_dead_labs

SCALE = 0.1

OWNER = """
import sys, time
from pathlib import Path
from ebbtide.testing.lab import ReplicaSetLab
lab = ReplicaSetLab(binary=Path(sys.argv[1]), members=1).start()
print(lab.root, lab.members[0].process.pid, flush=True)
time.sleep(600)
"""

STANDALONE_PARAMETERS = {"ttlMonitorEnabled": False, "disableLogicalSessionCacheRefresh": True}


def all_hashes(lab: ReplicaSetLab) -> list[dict[str, dict[str, str]]]:
    hashes = []
    for member in lab.members:
        with lab.member_client(member.index) as client:
            hashes.append(database_hashes(client))
    return hashes


def test_all_members_of_a_fresh_lab_are_usable(lab: ReplicaSetLab) -> None:
    with lab.client() as client:
        members = client.admin.command("replSetGetStatus")["members"]
        assert {"PRIMARY", "SECONDARY"} == {m["stateStr"] for m in members}
        assert [m.address for m in lab.members] == [m["name"] for m in members]
    assert lab.root.stat().st_mode & 0o777 == 0o700


def test_reset_brings_everything_back(lab: ReplicaSetLab, mongod_binary: Path, tmp_path: Path) -> None:
    with lab.client() as client:
        client.left.over.insert_one({})
        client.left.command("createUser", "stranger", pwd="x", roles=[])
    options = MongodOptions(
        dbpath=tmp_path / "data",
        log_path=tmp_path / "log",
        listen=Tcp(host="127.0.0.1", port=free_port()),
        cache_gb=0.25,
        replica_set_name=lab.replica_set_name,
    )
    head = MongodProcess.start(mongod_binary, options, identity_path=tmp_path / "identity.json")
    try:
        with lab.client() as client:
            config = client.admin.command("replSetGetConfig")["config"]
            address = head.uri.removeprefix("mongodb://").partition("/")[0]
            config["members"].append({"_id": 9, "host": address, "priority": 0, "votes": 0, "hidden": True})
            config["version"] += 1
            client.admin.command("replSetReconfig", config)
        lab.kill_member(lab.primary().index)
        lab.reset()
    finally:
        head.kill()
    with lab.client() as client:
        assert set(client.list_database_names()) <= SERVER_DATABASES
        assert len(lab.members) == len(client.admin.command("replSetGetConfig")["config"]["members"])
        assert client.admin.command("usersInfo", {"forAllDBs": True})["users"] == []
    assert all(member.process.is_running() for member in lab.members)


def test_a_keyfile_lab_lets_nobody_in_without_a_password(keyfile_lab: ReplicaSetLab) -> None:
    with MongoClient(keyfile_lab.uri) as client, pytest.raises(OperationFailure, match="authentication"):
        client.list_database_names()
    if keyfile_lab.keyfile_path is None:
        raise TypeError("a keyfile lab has a keyfile")
    assert keyfile_lab.keyfile_path.stat().st_mode & 0o777 == 0o600


def test_the_backup_user_has_exactly_its_roles(keyfile_lab: ReplicaSetLab) -> None:
    with keyfile_lab.client() as client:
        users = client.admin.command("usersInfo", keyfile_lab.backup_username)["users"]
        assert {(role, "admin") for role in BACKUP_ROLES} == {(r["role"], r["db"]) for r in users[0]["roles"]}
    credentials = {"username": keyfile_lab.backup_username, "password": keyfile_lab.backup_password}
    with MongoClient(keyfile_lab.uri, **credentials) as client:
        assert "admin" in client.list_database_names()
        with pytest.raises(OperationFailure, match="not authorized"):
            client.shop.orders.insert_one({})


def test_no_secret_of_a_lab_is_in_a_process_list_or_a_log(keyfile_lab: ReplicaSetLab) -> None:
    secrets = [keyfile_lab.root_password, keyfile_lab.backup_password]
    if keyfile_lab.keyfile_path is not None:
        secrets.append(keyfile_lab.keyfile_path.read_text().strip())
    for member in keyfile_lab.members:
        text = Path(f"/proc/{member.process.pid}/cmdline").read_text()
        text += Path(f"/proc/{member.process.pid}/environ").read_text()
        text += member.process.options.log_path.read_text()
        assert [s for s in secrets if s is None or s in text] == []


def test_the_backup_user_may_compare_hashes(keyfile_lab: ReplicaSetLab) -> None:
    credentials = {"username": keyfile_lab.backup_username, "password": keyfile_lab.backup_password}
    with keyfile_lab.members[0].process.client(**credentials) as client:
        hashes = database_hashes(client)
    assert {"admin", "config"} == set(hashes)
    assert "system.users" in hashes["admin"]
    assert "system.indexBuilds" not in hashes["config"]


def test_the_labs_of_a_killed_owner_are_swept_and_others_left_alone(
    mongod_binary: Path, tmp_path: Path
) -> None:
    base = tmp_path / f"ebbtide-lab-{os.getuid()}"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(mongod_binary)], stdout=subprocess.PIPE, text=True, env=environment
    ) as owner:
        if owner.stdout is None:
            raise TypeError("no pipe")
        root, pid = owner.stdout.readline().split()
        (base / "something else").mkdir()
        try:
            assert sweep_dead_labs(base) == []
        finally:
            owner.send_signal(signal.SIGKILL)
    assert process_start_ticks(int(pid)) is not None
    assert sweep_dead_labs(base) == [Path(root)]
    assert process_start_ticks(int(pid)) is None
    assert [path.name for path in base.iterdir()] == ["something else"]


def test_members_agree_after_the_whole_workload(lab: ReplicaSetLab) -> None:
    with lab.client() as client:
        workload.load(client, seed=7, scale=SCALE)
        workload.churn(client, rng=random.Random(7), operations=300)
        assert set(workload.USER_DATABASES) <= set(client.list_database_names())
        odd = client.archive.odd.find_one({"_id": "empty time"})
        assert odd is not None
        assert (Timestamp(0, 0), Timestamp(0, 0)) == (odd["time"], odd["nested"]["time"])
        assert client.archive.odd.find_one({"a.b": 1}) is None  # the name has a dot, it is no path
        kinds = {c["name"]: c["type"] for c in client.telemetry.list_collections()}
        assert kinds["measurements"] == "timeseries"
    lab.wait_until_replicated()
    first, *others = all_hashes(lab)
    assert [first] * len(others) == others


def test_the_same_seed_loads_the_same_documents(lab: ReplicaSetLab) -> None:
    hashes = []
    for seed in (7, 7, 8):
        lab.drop_user_databases()
        with lab.client() as client:
            workload.load(client, seed=seed, scale=0.01)
            hashes.append(client.shop.command("dbHash")["collections"])
    assert hashes[0] == hashes[1]
    assert hashes[0]["orders"] != hashes[2]["orders"]


def test_the_background_workload_survives_elections(lab: ReplicaSetLab) -> None:
    with lab.client() as client:
        workload.load(client, seed=8, scale=SCALE)
    with workload.BackgroundWorkload(lab.client, seed=8) as running:
        lab.step_down()
        killed = lab.primary().index
        lab.kill_member(killed)
        lab.primary()
        lab.restart_member(killed)
        lab.step_down()
        running.wait_for_operations(running.operations + 20)
    lab.wait_until_replicated()
    first, *others = all_hashes(lab)
    assert [first] * len(others) == others


def test_an_unexpected_error_of_the_background_workload_is_raised_on_stop(keyfile_lab: ReplicaSetLab) -> None:
    running = workload.BackgroundWorkload(lambda: MongoClient(keyfile_lab.uri), operations_per_second=1000)
    running.start()
    with pytest.raises(OperationFailure, match="authentication"):
        running.wait_for_operations(1)
    with pytest.raises(OperationFailure, match="authentication"):
        running.stop()
    assert running.operations == 0


def test_a_copy_of_a_locked_member_has_its_hashes_once_advanced(
    lab: ReplicaSetLab, mongod_binary: Path, tmp_path: Path, socket_directory: Path
) -> None:
    with lab.client() as client:
        workload.load(client, seed=9, scale=SCALE)
    secondary = next(m for m in lab.members if m.index != lab.primary().index)
    with (
        workload.BackgroundWorkload(lab.client, seed=9) as running,
        lab.member_client(secondary.index) as client,
    ):
        running.wait_for_operations(100)
        client.admin.command({"fsync": 1, "lock": True})
        try:
            expected = database_hashes(client)
            shutil.copytree(
                secondary.dbpath, tmp_path / "copy", ignore=shutil.ignore_patterns("mongod.lock", "*Preplog*")
            )
        finally:
            client.admin.command("fsyncUnlock")
    options = MongodOptions(
        dbpath=tmp_path / "copy",
        log_path=tmp_path / "copy.log",
        listen=UnixSocket(path=socket_directory / "m.sock"),
        cache_gb=0.25,
        set_parameters=STANDALONE_PARAMETERS
        | {"recoverFromOplogAsStandalone": True, "takeUnstableCheckpointOnShutdown": True},
    )
    copy = MongodProcess.start(mongod_binary, options, identity_path=tmp_path / "identity.json")
    try:
        with copy.client() as client:
            assert expected == database_hashes(client)
    finally:
        copy.kill()
