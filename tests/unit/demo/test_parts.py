"""The demo's parts that need no mongod: its place, its needs, what it reads of restored copies, its verdict."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from ebbtide.demo import requirements
from ebbtide.demo.any_second import AnySecondResult
from ebbtide.demo.copies import CopyNotUsable, plain_command
from ebbtide.demo.place import DemoPlace
from ebbtide.demo.requirements import available_memory_bytes, check_machine
from ebbtide.demo.walk import WalkResult
from ebbtide.errors import Refused
from ebbtide.processes import current_boot_id, process_start_ticks
from ebbtide.restore.restore_info import RESTORE_INFO_NAME


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DemoPlace:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return DemoPlace.of_this_user()


def test_the_demo_lives_in_a_private_directory_of_its_user(place: DemoPlace, tmp_path: Path) -> None:
    assert tmp_path / f"ebbtide-demo-{os.getuid()}" == place.root
    assert place.root.stat().st_mode & 0o777 == 0o700
    assert place == DemoPlace.of_this_user()


def test_a_directory_that_others_may_enter_is_refused(place: DemoPlace) -> None:
    place.root.chmod(0o755)
    with pytest.raises(Refused, match="not private"):
        DemoPlace.of_this_user()


def test_a_link_in_its_place_is_refused(place: DemoPlace, tmp_path: Path) -> None:
    place.root.rmdir()
    place.root.symlink_to(tmp_path)
    with pytest.raises(Refused, match="not private"):
        DemoPlace.of_this_user()


def test_a_second_demo_is_told_where_the_first_one_runs(place: DemoPlace) -> None:
    with place.lock():
        place.write_record({"base_url": "http://127.0.0.1:27080"})
        with pytest.raises(Refused, match=r"http://127\.0\.0\.1:27080"):
            place.lock()
    place.lock().close()


def test_a_demo_that_is_just_starting_is_named_by_its_process(place: DemoPlace) -> None:
    with place.lock():
        place.write_record({})
        with pytest.raises(Refused, match=f"pid {os.getpid()}"):
            place.lock()


def test_the_record_proves_which_process_it_is_of_and_is_private(place: DemoPlace) -> None:
    assert place.read_record() == {}
    place.write_record({"private_key": "s3cret"})
    assert place.read_record() == {
        "pid": os.getpid(),
        "start_ticks": process_start_ticks(os.getpid()),
        "boot_id": current_boot_id(),
        "private_key": "s3cret",
    }
    assert place.record.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", "5"])
def test_a_damaged_record_counts_as_none(place: DemoPlace, content: str) -> None:
    place.record.write_text(content)
    assert place.read_record() == {}


@pytest.mark.parametrize(
    ("meminfo", "expected"),
    [
        ("MemTotal:  9 kB\nMemAvailable:    2048 kB\nSwapFree: 7 kB\n", 2048 * 1024),
        ("MemTotal: 9 kB\n", 0),
        ("", 0),
    ],
)
def test_available_memory_is_read(meminfo: str, expected: int) -> None:
    assert expected == available_memory_bytes(meminfo)


def test_all_that_the_machine_lacks_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "DISK_BYTES", 0)
    monkeypatch.setattr(requirements, "MEMORY_BYTES", 0)
    check_machine(tmp_path)
    monkeypatch.setattr(requirements, "DISK_BYTES", 2**70)
    monkeypatch.setattr(requirements, "MEMORY_BYTES", 2**70)
    with pytest.raises(Refused, match=r"free disk in .*; and .*free memory"):
        check_machine(tmp_path)


def test_the_command_is_read_word_by_word(tmp_path: Path) -> None:
    text = "To look at it:\n\n    mongod --dbpath 'a b' --port 27117\n\nor\n\n    mongod --dbpath x \\\n    --more\n"
    (tmp_path / RESTORE_INFO_NAME).write_text(text)
    assert plain_command(tmp_path) == ["mongod", "--dbpath", "a b", "--port", "27117"]


def test_a_text_without_a_command_is_no_copy(tmp_path: Path) -> None:
    (tmp_path / RESTORE_INFO_NAME).write_text("mongod is a program\n    mongodump --all\n")
    with pytest.raises(CopyNotUsable):
        plain_command(tmp_path)


RESULT = WalkResult(
    snapshot_seconds=1.23456,
    snapshot_bytes=1000,
    stored_bytes=400,
    second_snapshot_stored_bytes=99,
    job_ready_seconds=0.5,
    download_bytes=500,
    download_seconds=0.1,
    sha1_ok=True,
    plain_start_at_timestamp=True,
    dbhash_equal=True,
    any_second=AnySecondResult(
        pit_exact=True,
        replay_ops_per_second=1234.5,
        automated_restore_ok=True,
        automated_restore_seconds=2.5,
    ),
    snapshot_ids=("a", "b"),
)


@pytest.mark.parametrize(
    ("result", "ok"),
    [
        (RESULT, True),
        (replace(RESULT, second_snapshot_stored_bytes=100), False),  # a quarter is too much
        (replace(RESULT, sha1_ok=False), False),
        (replace(RESULT, plain_start_at_timestamp=False), False),
        (replace(RESULT, dbhash_equal=False), False),
        (replace(RESULT, any_second=replace(RESULT.any_second, pit_exact=False)), False),
        (replace(RESULT, any_second=replace(RESULT.any_second, automated_restore_ok=False)), False),
    ],
)
def test_the_demo_is_well_only_if_everything_held(result: WalkResult, ok: bool) -> None:
    assert ok is result.ok
    document = result.document()
    assert ok is document["ok"]
    assert {
        "ok", "snapshot_seconds", "snapshot_bytes", "stored_bytes", "second_snapshot_stored_bytes",
        "job_ready_seconds", "download_bytes", "download_seconds", "sha1_ok", "plain_start_at_timestamp",
        "dbhash_equal", "pit_exact", "replay_ops_per_second", "automated_restore_ok",
        "automated_restore_seconds",
    } == set(document)  # fmt: skip
