"""A real mongod is started, known again, and stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ebbtide.errors import InvalidInput, MongodStartFailed
from ebbtide.mongod.options import MongodOptions, Tcp, UnixSocket
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.process import MongodProcess, StopOutcome

MakeOptions = Callable[..., MongodOptions]

PARENT = """
import sys, time
from pathlib import Path
from ebbtide.mongod.options import MongodOptions, UnixSocket
from ebbtide.mongod.process import MongodProcess
binary, directory, socket_path, die_with_parent = sys.argv[1:]
directory = Path(directory)
options = MongodOptions(
    dbpath=directory / "data", log_path=directory / "mongod.log",
    listen=UnixSocket(path=Path(socket_path)), cache_gb=0.25,
)
process = MongodProcess.start(
    Path(binary), options, identity_path=directory / "identity.json", die_with_parent=die_with_parent == "yes"
)
print(process.pid, flush=True)
time.sleep(600)
"""


def start_in_another_process(
    binary: Path, directory: Path, socket_path: Path, *, die_with_parent: bool
) -> "subprocess.Popen[str]":
    """A process that starts a mongod, prints its pid, and waits."""
    flag = "yes" if die_with_parent else "no"
    arguments = [sys.executable, "-c", PARENT, str(binary), str(directory), str(socket_path), flag]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def kill_after_first_line(parent: "subprocess.Popen[str]") -> int:
    """Read the pid that the parent prints, then kill the parent with -9."""
    with parent:
        if parent.stdout is None:
            raise TypeError("no pipe")
        pid = int(parent.stdout.readline())
        parent.kill()
    return pid


def wait_until_gone(identity_path: Path, *, timeout_seconds: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while MongodProcess.find_running(identity_path) is not None:
        if time.monotonic() > deadline:
            pytest.fail(f"the mongod of {identity_path} is still there")
        time.sleep(0.02)


def test_start_answers_on_its_socket_alone_and_stops_cleanly(
    mongod_binary: Path, mongod_options: MakeOptions, identity_path: Path, socket_directory: Path
) -> None:
    options = mongod_options()
    process = MongodProcess.start(mongod_binary, options, identity_path=identity_path)
    with process.client() as client:
        assert process.pid == client.admin.command("serverStatus")["pid"]
        assert process.version == client.server_info()["version"]
        listening = client.admin.command("getCmdLineOpts")["parsed"]["net"]
    assert {"bindIp": str(socket_directory / "m.sock"), "unixDomainSocket": {"enabled": False}} == listening
    assert identity_path.stat().st_mode & 0o777 == 0o600
    assert process.dbpath.stat().st_mode & 0o777 == 0o700

    assert process.stop() is StopOutcome.STOPPED
    assert process.exit_code == 0
    assert not process.is_running()
    assert not identity_path.exists()
    assert process.stop() is StopOutcome.NOT_RUNNING


def test_its_environment_holds_no_setting_of_ours(
    mongod_binary: Path, mongod_options: MakeOptions, identity_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EBBTIDE_PRIVATE_KEY", "not for mongod")
    process = MongodProcess.start(mongod_binary, mongod_options(), identity_path=identity_path, nice=3)
    assert b"EBBTIDE_" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)
    assert os.getsid(process.pid) == process.pid
    process.kill()


def test_a_member_that_is_told_to_stop_does_not_wait_15_seconds(
    mongod_binary: Path, mongod_options: MakeOptions, identity_path: Path
) -> None:
    options = mongod_options(listen=Tcp(host="127.0.0.1", port=free_port()), replica_set_name="rs0")
    process = MongodProcess.start(mongod_binary, options, identity_path=identity_path)
    with process.client() as client:
        client.admin.command("replSetInitiate")
        deadline = time.monotonic() + 90
        while not client.admin.command("hello")["isWritablePrimary"] and time.monotonic() < deadline:
            time.sleep(0.05)
    # As long as the server would take by itself.
    began = time.monotonic()
    assert process.stop() is StopOutcome.STOPPED
    assert time.monotonic() - began < 15


def test_a_mongod_whose_parent_was_killed_is_adopted(
    mongod_binary: Path, tmp_path: Path, socket_directory: Path, identity_path: Path
) -> None:
    parent = start_in_another_process(
        mongod_binary, tmp_path, socket_directory / "m.sock", die_with_parent=False
    )
    pid = kill_after_first_line(parent)
    adopted = MongodProcess.find_running(identity_path)
    assert adopted is not None
    assert adopted.pid == pid
    assert adopted.is_running()
    assert adopted.wait_until_ready()["isWritablePrimary"]
    with pytest.raises(MongodStartFailed, match="already running"):
        MongodProcess.spawn(mongod_binary, adopted.options, identity_path=identity_path)
    assert adopted.stop() is StopOutcome.STOPPED
    assert not adopted.is_running()
    assert adopted.exit_code is None


def test_a_mongod_may_die_with_its_parent(
    mongod_binary: Path, tmp_path: Path, socket_directory: Path, identity_path: Path
) -> None:
    parent = start_in_another_process(
        mongod_binary, tmp_path, socket_directory / "m.sock", die_with_parent=True
    )
    kill_after_first_line(parent)
    wait_until_gone(identity_path)
    assert not identity_path.exists()


def test_a_crash_before_the_pid_is_known_leaves_a_mongod_that_can_be_found(
    mongod_binary: Path, mongod_options: MakeOptions, identity_path: Path
) -> None:
    process = MongodProcess.start(mongod_binary, mongod_options(), identity_path=identity_path)
    document = json.loads(identity_path.read_text())
    identity_path.write_text(json.dumps(document | {"pid": 0, "start_ticks": 0}))
    found = MongodProcess.find_running(identity_path)
    assert found is not None
    assert found.identity == process.identity
    assert json.loads(identity_path.read_text()) == document
    process.kill()


def test_a_pid_that_was_used_again_is_not_signalled(
    mongod_binary: Path, mongod_options: MakeOptions, identity_path: Path
) -> None:
    process = MongodProcess.start(mongod_binary, mongod_options(), identity_path=identity_path)
    stale = MongodProcess.find_running(identity_path)
    assert stale is not None
    process.kill()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        object.__setattr__(stale.identity, "pid", stranger.pid)
        assert not stale.is_running()
        assert stale.stop() is StopOutcome.NOT_RUNNING
        assert stranger.poll() is None
        stranger.kill()


def test_a_killed_child_is_not_running_and_leaves_no_zombie(
    mongod_binary: Path, mongod_options: MakeOptions, identity_path: Path
) -> None:
    process = MongodProcess.start(mongod_binary, mongod_options(), identity_path=identity_path)
    watcher = MongodProcess.find_running(identity_path)
    assert watcher is not None
    os.kill(process.pid, signal.SIGKILL)
    # The watcher is not the parent: to it the process is a zombie until the parent looks.
    assert watcher.wait(timeout_seconds=60)
    assert not watcher.is_running()
    assert not process.is_running()
    assert process.exit_code == -signal.SIGKILL
    assert not Path(f"/proc/{process.pid}").exists()
    assert MongodProcess.find_running(identity_path) is None


def test_one_that_ends_early_is_noticed_at_once_and_its_log_quoted(
    mongod_binary: Path, mongod_options: MakeOptions, identity_path: Path
) -> None:
    with pytest.raises(
        MongodStartFailed, match=r"exit code \d+; the last lines(?s:.*)noSuchParameter"
    ) as caught:
        MongodProcess.start(
            mongod_binary, mongod_options(set_parameters={"noSuchParameter": 1}), identity_path=identity_path
        )
    assert str(mongod_options().dbpath) in str(caught.value)
    assert not identity_path.exists()


def test_the_contents_of_a_bad_keyfile_are_not_quoted(
    mongod_binary: Path, mongod_options: MakeOptions, identity_path: Path, tmp_path: Path
) -> None:
    keyfile = tmp_path / "keyfile"
    keyfile.write_text("almost_a_keyfile_but_with_underscores")
    keyfile.chmod(0o600)
    with pytest.raises(MongodStartFailed, match="invalid char in key file") as caught:
        MongodProcess.start(mongod_binary, mongod_options(keyfile=keyfile), identity_path=identity_path)
    assert "almost_a_keyfile" not in str(caught.value)


def test_a_data_directory_in_use_is_refused_and_its_owner_left_alone(
    mongod_binary: Path,
    mongod_options: MakeOptions,
    identity_path: Path,
    tmp_path: Path,
    socket_directory: Path,
) -> None:
    first = MongodProcess.start(mongod_binary, mongod_options(), identity_path=identity_path)
    second = mongod_options(
        listen=UnixSocket(path=socket_directory / "other.sock"), log_path=tmp_path / "other.log"
    )
    with pytest.raises(MongodStartFailed, match="lock"):
        MongodProcess.start(mongod_binary, second, identity_path=tmp_path / "other.json")
    assert first.is_running()
    first.kill()


def test_a_hung_mongod_hangs_neither_start_nor_stop(
    mongod_binary: Path, mongod_options: MakeOptions, identity_path: Path
) -> None:
    process = MongodProcess.spawn(mongod_binary, mongod_options(), identity_path=identity_path)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(MongodStartFailed, match=r"did not answer within 0\.5 s"):
        process.wait_until_ready(ready_seconds=0.5)
    assert not process.wait(timeout_seconds=0.1)
    assert process.stop(timeout_seconds=0.5) is StopOutcome.KILLED
    assert process.exit_code == -signal.SIGKILL


def test_a_taken_port_is_refused_before_anything_is_started(
    mongod_binary: Path, mongod_options: MakeOptions, identity_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = Tcp(host="127.0.0.1", port=server.getsockname()[1])
        with pytest.raises(MongodStartFailed, match="cannot listen"):
            MongodProcess.start(mongod_binary, mongod_options(listen=listen), identity_path=identity_path)
    assert not identity_path.exists()


def test_a_socket_directory_that_others_may_enter_is_refused(
    mongod_binary: Path, mongod_options: MakeOptions, identity_path: Path, socket_directory: Path
) -> None:
    socket_directory.chmod(0o755)
    with pytest.raises(InvalidInput, match="0700"):
        MongodProcess.start(mongod_binary, mongod_options(), identity_path=identity_path)
    socket_directory.chmod(0o700)
    assert not identity_path.exists()
