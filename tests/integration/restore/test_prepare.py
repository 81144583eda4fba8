"""A new replica set of an archive's files: three members, writes, restarts, and nothing that blocks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bson import Timestamp
from pymongo import MongoClient, WriteConcern
from pymongo.errors import PyMongoError

from ebbtide.cli.main import run
from ebbtide.domain.ids import RestoreJobId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import DeliveryStatus, RestoreJob, RestoreStatus
from ebbtide.errors import Refused
from ebbtide.mongod.options import MongodOptions, Tcp
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.process import MongodProcess
from ebbtide.restore.archive_directory import FilesState, inspect_directory
from ebbtide.restore.prepare import Prepared, PrepareStep, execute_prepare, plan_prepare
from ebbtide.restore.restore_info import render_restore_info
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.new_set import NEW_SET as NEW
from ebbtide.testing.new_set import NewSet, hello, start_member, top_of_oplog, wait_until
from ebbtide.testing.snapshots import make_manifest

Document = dict[str, Any]
Client = MongoClient[Document]

DOCUMENTS = 2000
LATE = 300
"""Entries that only the primary and the head have: above the timestamp of the files."""

_REBUILT = re.compile(r"WiredTiger\.(wt|turtle.*|lock)|WiredTigerPreplog.*|mongod\.lock")


@pytest.fixture(scope="module")
def lagging_files(mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a snapshot holds of a set in its third term, with a transaction prepared below the files' timestamp and
    another above it: its other members take nothing any more, so what comes last has no majority."""
    root = tmp_path_factory.mktemp("lagging")
    with (
        ReplicaSetLab(binary=mongod_binary, set_parameters={"enableTestCommands": True}) as lab,
        ExitStack() as stack,
    ):
        head = start_member(mongod_binary, root / "head", free_port(), "rs0")
        stack.callback(head.kill)
        add_head(lab, head)
        lab.step_down()
        with lab.client() as client:
            client.shop.orders.insert_many([{"_id": number, "v": "x" * 50} for number in range(DOCUMENTS)])
            stack.enter_context(prepared_transaction(client, document_id=1))
            client.shop.other.insert_one({"_id": "after"})
            lab.wait_until_replicated()
            wait_until(lambda: majority_timestamp(head) >= top_of_oplog(head), "a majority of everything")
            stop_replication_to_others(lab)
            late = client.shop.get_collection("orders", write_concern=WriteConcern(w=1))
            for number in range(LATE):
                late.insert_one({"_id": f"late-{number}"})
            stack.enter_context(prepared_transaction(client, document_id=2))
            late.insert_one({"_id": "last"})
            wait_until(lambda: has_document(head, "last"), "the head to have everything")
            yield copy_locked(head, root / "files")


def add_head(lab: ReplicaSetLab, head: MongodProcess) -> None:
    listen = head.options.listen
    assert isinstance(listen, Tcp)
    with lab.client() as client:
        configuration = client.admin.command("replSetGetConfig")["config"]
        configuration["version"] += 1
        # So that it copies from the primary, whatever the others do.
        configuration["settings"]["chainingAllowed"] = False
        configuration["members"].append(
            {"_id": 9, "host": f"127.0.0.1:{listen.port}", "priority": 0, "votes": 0, "hidden": True}
        )
        client.admin.command("replSetReconfig", configuration)
    wait_until(lambda: hello(head).get("secondary"), "the head to follow")


class prepared_transaction:  # noqa: N801 — used as a function
    """A transaction that stays prepared. Its command waits for a majority, which may never come: in a thread."""

    def __init__(self, client: Client, *, document_id: int) -> None:
        self._client = client
        self._document_id = document_id

    def __enter__(self) -> None:
        self._session = self._client.start_session()
        self._session.start_transaction(write_concern=WriteConcern(w=1))
        self._client.shop.orders.update_one(
            {"_id": self._document_id}, {"$set": {"v": "undecided"}}, session=self._session
        )
        self._thread = threading.Thread(target=self._prepare, daemon=True)
        self._thread.start()
        wait_until(self._is_in_oplog, "the prepare in the oplog")

    def _prepare(self) -> None:
        try:
            self._client.admin.command("prepareTransaction", session=self._session)
        except PyMongoError:
            pass  # the set ends before a majority has it

    def _is_in_oplog(self) -> bool:
        query = {"o.prepare": True, "lsid.id": self._session.session_id["id"]}
        return self._client.local["oplog.rs"].find_one(query) is not None

    def __exit__(self, *_: object) -> None:
        pass


def stop_replication_to_others(lab: ReplicaSetLab) -> None:
    primary = lab.primary()
    others = [member for member in lab.members if member.index != primary.index]
    entered = {}
    for member in others:
        with member.process.client() as client:
            answer = client.admin.command("configureFailPoint", "stopReplProducer", mode="alwaysOn")
            entered[member.index] = answer["count"]
    for member in others:
        # What a member asked for before still arrives.
        with member.process.client() as client:
            client.admin.command(
                "waitForFailPoint",
                "stopReplProducer",
                timesEntered=entered[member.index] + 1,
                maxTimeMS=120_000,
            )


def copy_locked(head: MongodProcess, target: Path) -> Path:
    """The head's files under its lock, without what the server rebuilds, and a restoreInfo.txt about them."""
    with head.client() as client:
        client.admin.command("fsync", 1, lock=True)
        newest = OplogTimestamp.from_bson(top_of_oplog(head))
        shutil.copytree(
            head.dbpath, target, ignore=lambda _, names: [n for n in names if _REBUILT.fullmatch(n)]
        )
    target.chmod(0o700)
    found = re.search(
        r'checkpoint_timestamp="([0-9a-f]+)"', (target / "WiredTiger.backup").read_text(errors="replace")
    )
    assert found is not None
    stable = OplogTimestamp.from_packed(int(found[1], 16))
    assert newest > stable, "the files have nothing above their timestamp"
    (target / "restoreInfo.txt").write_text(info_text(stable=stable, newest=newest, version=head.version))
    return target


def info_text(*, stable: OplogTimestamp, newest: OplogTimestamp, version: str) -> str:
    manifest = replace(
        make_manifest(1, []), stable_timestamp=stable, applied_timestamp=newest, mongod_version=version
    )
    job = RestoreJob(
        id=RestoreJobId("e" * 24),
        group_id=manifest.group_id,
        cluster_id=manifest.cluster_id,
        cluster_name=manifest.cluster_name,
        replica_set_name=manifest.replica_set_name,
        snapshot_id=manifest.snapshot_id,
        created=manifest.created,
        status=RestoreStatus.FINISHED,
        delivery_status=DeliveryStatus.READY,
        timestamp=stable,
        expiration_hours=1,
        max_downloads=1,
        requested_by="test",
        file_name="files.tar.gz",
    )
    return render_restore_info(job, manifest)


def majority_timestamp(process: MongodProcess) -> Timestamp:
    found: Timestamp = hello(process)["lastWrite"]["majorityOpTime"]["ts"]
    return found


def has_document(process: MongodProcess, document_id: str) -> bool:
    with process.client() as client:
        return client.shop.orders.find_one({"_id": document_id}) is not None


@pytest.fixture
def files(lagging_files: Path, tmp_path: Path) -> Path:
    shutil.copytree(lagging_files, tmp_path / "files")
    return tmp_path / "files"


@pytest.fixture
def new_sets() -> Iterator[list[NewSet]]:
    """Sets that a test starts; killed when it ends."""
    started: list[NewSet] = []
    yield started
    for new_set in started:
        new_set.kill()


def prepare(directory: Path, binary: Path, port: int, **options: Any) -> Prepared:
    sight = inspect_directory(directory, binary=binary)
    plan = plan_prepare(sight, replica_set_name=NEW, host=f"127.0.0.1:{port}")
    return execute_prepare(plan, binary=binary, **options)


def write_everywhere(process: MongodProcess) -> None:
    """What a transaction that nobody can decide would block: writes to its documents, and dropping its collection."""
    with process.client() as client:
        for document_id in (1, 2):
            client.shop.command(
                "update",
                "orders",
                updates=[{"q": {"_id": document_id}, "u": {"$inc": {"touched": 1}}}],
                maxTimeMS=60_000,
            )


def primary_of(new_set: NewSet) -> MongodProcess:
    return next(process for process in new_set.members if hello(process).get("isWritablePrimary"))


def test_three_members_of_one_download_hold_the_same_and_take_writes(
    files: Path, mongod_binary: Path, new_sets: list[NewSet]
) -> None:
    port = free_port()
    prepared = prepare(files, mongod_binary, port)
    new_set = NewSet(mongod_binary, files, port)
    new_sets.append(new_set)
    with new_set.first.client() as client:
        ids = {document["_id"] for document in client.shop.orders.find({}, {"_id": 1})}
        configuration = client.admin.command("replSetGetConfig")["config"]
    assert set(range(DOCUMENTS)) == ids, "the set begins where the archive says, not above it"
    assert not prepared.was_prepared
    assert (NEW, [f"127.0.0.1:{port}"]) == (
        configuration["_id"],
        [member["host"] for member in configuration["members"]],
    )

    write_everywhere(new_set.first)
    new_set.add_empty_member()
    new_set.add_empty_member()
    with new_set.first.client(w=3, wTimeoutMS=120_000) as client:
        client.shop.orders.insert_one({"_id": "written by all three"})
    first, *others = new_set.hashes()
    assert [first, first] == others

    new_set.restart_first()
    primary = primary_of(new_set)
    write_everywhere(primary)
    with primary.client(w=3, wTimeoutMS=120_000) as client:
        assert client.shop.orders.find_one({"_id": 1})["touched"] == 2  # type: ignore[index]
        client.shop.command("drop", "orders", maxTimeMS=60_000)
    first, *others = new_set.hashes()
    assert [first, first] == others


def test_a_look_with_a_plain_mongod_before_it_changes_nothing(
    files: Path,
    mongod_binary: Path,
    tmp_path: Path,
    new_sets: list[NewSet],
    capfd: pytest.CaptureFixture[str],
) -> None:
    plain = MongodProcess.start(
        mongod_binary,
        MongodOptions(
            dbpath=files,
            log_path=tmp_path / "look.log",
            listen=Tcp(host="127.0.0.1", port=free_port()),
            cache_gb=0.25,
            set_parameters={"ttlMonitorEnabled": False, "disableLogicalSessionCacheRefresh": True},
        ),
        identity_path=tmp_path / "look.json",
    )
    try:
        with pytest.raises(Refused, match="a mongod runs on it"):
            prepare(files, mongod_binary, free_port())
    finally:
        plain.stop()
    assert inspect_directory(files, binary=mongod_binary).files is FilesState.STARTED

    port = free_port()
    command = ["restores", "prepare", str(files), "--replset", NEW, "--host", f"127.0.0.1:{port}"]
    command += ["--mongod", str(mongod_binary), "-o", "json"]
    assert run(command) == 2, "there is no terminal to ask on"
    capfd.readouterr()
    assert run([*command, "--yes"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (False, f"127.0.0.1:{port}", NEW) == (told["wasPrepared"], told["host"], told["replicaSetName"])
    assert f"--replSet {NEW} --dbpath {files} --port {port}" in told["next"]["start"]
    assert prepare(files, mongod_binary, port).was_prepared
    new_set = NewSet(mongod_binary, files, port)
    new_sets.append(new_set)
    write_everywhere(new_set.first)
    with new_set.first.client() as client:
        assert client.shop.orders.count_documents({}) == DOCUMENTS
    new_set.first.stop()

    assert prepare(files, mongod_binary, port).was_prepared, "a set that lives is left alone"
    with pytest.raises(Refused, match="lived on"):
        prepare(files, mongod_binary, free_port())


def test_files_that_were_advanced_keep_their_whole_oplog(
    files: Path, mongod_binary: Path, tmp_path: Path, new_sets: list[NewSet]
) -> None:
    """As restoreInfo.txt's second command advances them: data and oplog end together, and no transaction stays."""
    advanced = MongodProcess.start(
        mongod_binary,
        MongodOptions(
            dbpath=files,
            log_path=tmp_path / "advance.log",
            listen=Tcp(host="127.0.0.1", port=free_port()),
            cache_gb=0.25,
            set_parameters={
                "ttlMonitorEnabled": False,
                "disableLogicalSessionCacheRefresh": True,
                "recoverFromOplogAsStandalone": True,
                "takeUnstableCheckpointOnShutdown": True,
            },
        ),
        identity_path=tmp_path / "advance.json",
    )
    advanced.stop()
    port = free_port()
    steps: list[PrepareStep] = []
    prepare(files, mongod_binary, port, on_step=steps.append)
    assert PrepareStep.OPLOG_CUT not in steps
    new_set = NewSet(mongod_binary, files, port)
    new_sets.append(new_set)
    for _ in range(2):
        write_everywhere(new_set.first)
        with new_set.first.client() as client:
            assert client.shop.orders.count_documents({}) == DOCUMENTS + LATE + 1
        new_set.restart_first()


def test_a_part_of_a_sharded_cluster_is_refused_and_stays_as_it_is(
    files: Path, mongod_binary: Path, tmp_path: Path
) -> None:
    def look(change: bool) -> list[str]:
        """The set that the files belong to; with `change`, they say that it is a shard."""
        options = MongodOptions(
            dbpath=files,
            log_path=tmp_path / "shard.log",
            listen=Tcp(host="127.0.0.1", port=free_port()),
            cache_gb=0.25,
            set_parameters={"ttlMonitorEnabled": False, "disableLogicalSessionCacheRefresh": True},
        )
        process = MongodProcess.start(mongod_binary, options, identity_path=tmp_path / "shard.json")
        try:
            with process.client() as client:
                if change:
                    client.admin["system.version"].insert_one({"_id": "shardIdentity", "shardName": "s0"})
                return [found["_id"] for found in client.local["system.replset"].find()]
        finally:
            process.stop()

    before = look(change=True)
    with pytest.raises(Refused, match="sharded"):
        prepare(files, mongod_binary, free_port())
    assert ["rs0"] == before == look(change=False)


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from ebbtide.restore.archive_directory import inspect_directory
from ebbtide.restore.prepare import execute_prepare, plan_prepare
directory, binary, host, step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
plan = plan_prepare(inspect_directory(directory, binary=binary), replica_set_name="new", host=host)
execute_prepare(
    plan, binary=binary, on_step=lambda done: os.kill(os.getpid(), signal.SIGKILL) if done == step else None
)
"""


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Not pytest's own: a Unix socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ebb-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def test_killed_after_each_step_and_run_again_it_ends_the_same(
    files: Path, mongod_binary: Path, short_directory: Path, new_sets: list[NewSet]
) -> None:
    """On the same files, one kill after the other: each run finds what the last one left."""
    port = free_port()
    environment = os.environ | {"TMPDIR": str(short_directory)}
    for step in PrepareStep:
        if step is PrepareStep.STOPPED:
            continue
        killed = subprocess.run(
            [
                sys.executable,
                "-c",
                KILLED_AT,
                str(files),
                str(mongod_binary),
                f"127.0.0.1:{port}",
                step.value,
            ],
            env=environment,
        )
        assert killed.returncode == -signal.SIGKILL, step
        # Its mongod is told by the kernel, and shuts down in order.
        wait_until(lambda: not inspect_directory(files, binary=mongod_binary).is_in_use, "its mongod to end")
    assert prepare(files, mongod_binary, port).was_prepared, "the last kill came after the last write"
    new_set = NewSet(mongod_binary, files, port)
    new_sets.append(new_set)
    for _ in range(2):
        write_everywhere(new_set.first)
        with new_set.first.client() as client:
            assert client.shop.orders.count_documents({}) == DOCUMENTS
        new_set.restart_first()
