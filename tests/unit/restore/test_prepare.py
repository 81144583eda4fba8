"""The rules of preparing: what restoreInfo.txt says, what stands in the way, what is prepared already."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ebbtide.cli.main import run
from ebbtide.cli.prepare import next_commands, plan_lines, result_lines
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import IntegrityError, InvalidInput, Refused
from ebbtide.restore.archive_directory import (
    FREE_BYTES_MIN,
    ArchiveInfo,
    DirectorySight,
    FilesState,
    find_problems,
    inspect_directory,
    parse_host,
    parse_restore_info,
)
from ebbtide.restore.new_set import cut_point, new_configuration
from ebbtide.restore.prepare import Prepared, PreparePlan, is_prepared, plan_prepare, remarks_about

STABLE, NEWEST = OplogTimestamp(1_700_000_000, 3), OplogTimestamp(1_700_000_007, 1)
INFO = ArchiveInfo(
    restore_job_id="e" * 24,
    cluster="shop (" + "c" * 24 + ")",
    replica_set_name="rs0",
    mongod_version="6.0.5",
    stable=STABLE,
    newest=NEWEST,
    directory_per_db=False,
)
SIGHT = DirectorySight(
    directory=Path("/restore/rs0"),
    info=INFO,
    files=FilesState.UNTOUCHED,
    is_in_use=False,
    is_ours=True,
    free_bytes=FREE_BYTES_MIN,
    our_version="6.0.27",
)
PLAN = PreparePlan(directory=SIGHT.directory, info=INFO, replica_set_name="new", host="db1:27017")
TEXT = f"""\
Ebbtide restore job {"e" * 24}

cluster          shop ({"c" * 24})
replica set      rs0
timestamp        2023-11-14T22:13:20+00:00, oplog timestamp (1700000000, 3)
newest oplog     2023-11-14T22:13:27+00:00, oplog timestamp (1700000007, 1)
mongod           6.0.5
"""


def test_what_the_text_says_is_read_back() -> None:
    assert parse_restore_info(TEXT) == INFO
    per_db = parse_restore_info(TEXT + "\n    mongod --dbpath d --directoryperdb\n")
    assert per_db == replace(INFO, directory_per_db=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "Some other file\n",
        TEXT.replace("Ebbtide restore job", "Ebb restore job"),
        TEXT.replace("mongod   ", "mongos   "),
        TEXT.replace("newest oplog", "newest entry"),
        TEXT.replace("1700000000", "9999999999"),
        TEXT.replace("timestamp ", "time "),
    ],
)
def test_a_text_that_is_not_one_of_ours_is_none(text: str) -> None:
    assert parse_restore_info(text) is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"info": None}, "no restoreInfo.txt"),
        ({"our_version": "7.0.1"}, "of mongod 6.0.5, and the mongod at hand is 7.0.1"),
        ({"files": FilesState.INCOMPLETE}, "lacks files"),
        ({"is_in_use": True}, "a mongod runs on it"),
        ({"is_ours": False}, "another user"),
        ({"free_bytes": FREE_BYTES_MIN - 1}, "512 MiB"),
    ],
)
def test_each_thing_in_the_way_is_told_with_its_fix(changes: dict[str, Any], what: str) -> None:
    sight = replace(SIGHT, **changes)
    ((found, fix),) = find_problems(sight)
    assert what in found
    assert fix
    with pytest.raises(Refused) as error:
        plan_prepare(sight, replica_set_name="new", host="db1:27017")
    assert what in error.value.message
    assert fix == error.value.hint


def test_everything_in_the_way_is_told_together() -> None:
    with pytest.raises(Refused, match=r"restoreInfo\.txt.*a mongod runs on it"):
        plan_prepare(replace(SIGHT, info=None, is_in_use=True), replica_set_name="new", host="db1:27017")


def test_started_files_can_be_prepared_too() -> None:
    assert plan_prepare(replace(SIGHT, files=FilesState.STARTED), replica_set_name="new", host="db1") == PLAN


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("db1", "db1:27017"),
        ("db1.example:5", "db1.example:5"),
        ("[::1]:7", "[::1]:7"),
        ("10.0.0.1:1", "10.0.0.1:1"),
    ],
)
def test_a_host_is_written_as_configurations_do(text: str, host: str) -> None:
    assert host == parse_host(text)


@pytest.mark.parametrize(
    "text", ["", ":27017", "db1:0", "db1:65536", "a b:1", "0.0.0.0:27017", "[::]:1", "a/b:1"]
)
def test_other_hosts_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_host(text)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a,b", "a&b"])
def test_a_set_needs_a_name_that_a_connection_string_can_hold(name: str) -> None:
    with pytest.raises(InvalidInput):
        plan_prepare(SIGHT, replica_set_name=name, host="db1")


def test_the_oplog_is_cut_where_the_files_open() -> None:
    assert cut_point(STABLE, INFO) == STABLE
    assert cut_point(None, INFO) is None
    with pytest.raises(IntegrityError):
        cut_point(NEWEST, INFO)


def test_what_a_plan_leads_to_is_known_again() -> None:
    configuration = new_configuration(replica_set_name="new", host="db1:27017", term=4)
    assert is_prepared(configuration, PLAN)
    assert is_prepared(configuration | {"term": 9}, PLAN), "an election changes the term alone"
    assert (
        configuration["settings"]
        != new_configuration(replica_set_name="new", host="db1:27017", term=4)["settings"]
    )


@pytest.mark.parametrize(
    "configuration",
    [
        None,
        new_configuration(replica_set_name="old", host="db1:27017", term=4),
        new_configuration(replica_set_name="new", host="db2:27017", term=4),
        # The old set under the same name: a head never was its only member.
        {"_id": "new", "version": 3, "members": [{"host": "db1:27017"}, {"host": "head:1"}]},
        {"_id": "new", "version": 4, "members": [{"host": "db1:27017"}]},
    ],
)
def test_another_configuration_is_not_taken_for_it(configuration: dict[str, Any] | None) -> None:
    assert not is_prepared(configuration, PLAN)


def test_a_likeness_to_the_old_set_is_remarked() -> None:
    old = {"members": [{"host": "db1:27017"}, {"host": "head:1"}]}
    assert remarks_about(replace(PLAN, host="db9:1"), old) == ()
    assert [text[:24] for text in remarks_about(PLAN, old)] == ["db1:27017 is the address"]
    (remark,) = remarks_about(replace(PLAN, replica_set_name="rs0"), None)
    assert "named rs0 too" in remark


def test_a_directory_is_only_looked_at(tmp_path: Path, mongod_binary: Path) -> None:
    for name in ("WiredTiger", "_mdb_catalog.wt", "storage.bson", "WiredTiger.backup"):
        (tmp_path / name).touch()
    (tmp_path / "restoreInfo.txt").write_text(TEXT)
    before = sorted(tmp_path.iterdir())
    sight = inspect_directory(tmp_path, binary=mongod_binary)
    assert before == sorted(tmp_path.iterdir())
    assert (sight.info, sight.files, sight.is_in_use, sight.is_ours) == (
        INFO,
        FilesState.UNTOUCHED,
        False,
        True,
    )
    (tmp_path / "WiredTiger.backup").unlink()
    assert inspect_directory(tmp_path, binary=mongod_binary).files is FilesState.INCOMPLETE
    (tmp_path / "WiredTiger.turtle").touch()
    assert inspect_directory(tmp_path, binary=mongod_binary).files is FilesState.STARTED
    with pytest.raises(InvalidInput):
        inspect_directory(tmp_path / "absent", binary=mongod_binary)


def test_what_comes_next_can_be_pasted() -> None:
    plan = replace(PLAN, directory=Path("/a b"), info=replace(INFO, directory_per_db=True))
    commands = next_commands(plan)
    assert commands["start"] == (
        "mongod --replSet new --dbpath '/a b' --port 27017 --bind_ip localhost,db1 --directoryperdb"
    )
    prepared = Prepared(plan=plan, was_prepared=False, data_at=STABLE, users_count=2, remarks=("mind this",))
    lines = result_lines(prepared, commands)
    assert "note: mind this" in lines
    assert f"  {commands['start']}" in lines
    assert any("2 users" in line for line in lines)
    assert not any("users" in line for line in result_lines(replace(prepared, users_count=0), commands))
    assert any(str(STABLE) in line for line in plan_lines(plan))


def test_the_command_refuses_before_it_asks(
    tmp_path: Path, mongod_binary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["restores", "prepare", str(tmp_path), "--replset", "new", "--host", "db1:27017"]
    assert run([*arguments, "--mongod", str(mongod_binary)]) == 3
    assert "restoreInfo.txt" in capfd.readouterr().err
