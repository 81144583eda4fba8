"""What is read from /proc, identity files and logs, without a mongod."""

import json
import os
from pathlib import Path

import pytest

from ebbtide.mongod.identity import MongodIdentity
from ebbtide.mongod.options import MongodOptions, UnixSocket, options_to_document
from ebbtide.mongod.process import MongodProcess
from ebbtide.processes import current_boot_id, parse_stat, process_start_ticks


def identity_of_this_process(directory: Path, **changes: object) -> Path:
    """An identity file that says that the test itself is a mongod."""
    options = MongodOptions(
        dbpath=directory / "data",
        log_path=directory / "log",
        listen=UnixSocket(path=Path("/s/m.sock")),
        cache_gb=0.25,
    )
    document = {
        "format": 1,
        "pid": os.getpid(),
        "start_ticks": process_start_ticks(os.getpid()),
        "boot_id": current_boot_id(),
        "binary": "/bin/mongod",
        "version": "6.0.5",
        "options": options_to_document(options),
    }
    path = directory / "identity.json"
    path.write_text(json.dumps(document | changes))
    return path


@pytest.mark.parametrize("name", ["mongod", "a b", "a) R 1 2 (", ")"])
def test_stat_is_parsed_whatever_the_command_is_called(name: str) -> None:
    fields = " ".join(str(n) for n in range(4, 53))
    found = parse_stat(f"77 ({name}) S {fields}\n")
    assert (found.state, found.start_ticks) == ("S", 22)


@pytest.mark.parametrize(
    "changes",
    [
        {},  # the right pid and start, but no mongod with that dbpath
        {"start_ticks": 1},
        {"boot_id": "another boot"},
        {"pid": 2**22 + 5},
        {"pid": 0},
        {"format": 2},
        {"pid": "x"},
        {"options": {}},
    ],
)
def test_a_stale_identity_file_is_removed(tmp_path: Path, changes: dict[str, object]) -> None:
    path = identity_of_this_process(tmp_path, **changes)
    assert MongodProcess.find_running(path) is None
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_an_unreadable_identity_file_is_removed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "identity.json"
    path.write_text(text)
    assert MongodProcess.find_running(path) is None
    assert not path.exists()


def test_an_absent_identity_file_means_that_nothing_runs(tmp_path: Path) -> None:
    assert MongodProcess.find_running(tmp_path / "identity.json") is None


def with_log(directory: Path, text: str) -> MongodProcess:
    options = MongodOptions(
        dbpath=directory / "data",
        log_path=directory / "log",
        listen=UnixSocket(path=Path("/s/m.sock")),
        cache_gb=0.25,
    )
    options.log_path.write_text(text)
    identity = MongodIdentity(
        pid=1, start_ticks=1, boot_id="b", binary=Path("/b"), version="6.0.5", options=options
    )
    return MongodProcess(identity, identity_path=directory / "i.json", log_start_bytes=4)


def test_log_tail_is_of_this_run_with_long_lines_cut(tmp_path: Path) -> None:
    process = with_log(tmp_path, "old\none\n\ntwo\n" + "x" * 500 + "\n")
    assert process.log_tail(5) == ["one", "two", "x" * 400 + "…"]
    assert process.log_tail(2) == ["two", "x" * 400 + "…"]
    assert process.log_tail(0) == []


def test_log_tail_of_a_rotated_or_absent_log(tmp_path: Path) -> None:
    process = with_log(tmp_path, "n\n")
    assert process.log_tail() == ["n"]
    process.options.log_path.unlink()
    assert process.log_tail() == []


def test_the_text_of_a_keyfile_in_the_log_is_not_quoted(tmp_path: Path) -> None:
    process = with_log(tmp_path, '....{"errmsg":"invalid char in key file /d/keyfile: S3cr_et"}\n')
    assert process.log_tail() == ['{"errmsg":"invalid char in key file /d/keyfile: (hidden)']
