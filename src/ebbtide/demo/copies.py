"""Starting the two extracted copies: one exactly as its restoreInfo.txt says, one advanced to its newest oplog entry."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import EbbtideError
from ebbtide.mongod.log_lines import find_recovery_timestamp
from ebbtide.mongod.options import MongodOptions, ParameterValue, UnixSocket
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.process import MongodProcess
from ebbtide.processes import dies_with_parent
from ebbtide.restore.restore_info import RESTORE_INFO_NAME

READY_SECONDS = 60.0


class CopyNotUsable(EbbtideError):
    """A restored copy did not start as it must."""


def plain_command(directory: Path) -> list[str]:
    """The command that `restoreInfo.txt` gives for a look, word by word."""
    for line in (directory / RESTORE_INFO_NAME).read_text().splitlines():
        words = shlex.split(line) if line.startswith("    mongod ") else []
        if words and words[-1] != "\\":
            return words
    raise CopyNotUsable(f"{RESTORE_INFO_NAME} in {directory} has no command")


def start_plainly(binary: Path, directory: Path) -> OplogTimestamp | None:
    """Start a copy by the very command of `restoreInfo.txt`, from the directory that holds it, and stop it.

    Only the port is replaced, by a free one. Returns the recovery timestamp that mongod itself logged. Raises
    CopyNotUsable where it does not answer in time.
    """
    words = plain_command(directory)
    port = free_port()
    words[words.index("--port") + 1] = str(port)
    log_path = directory.with_name(directory.name + ".log")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [str(binary), *words[1:]],
            cwd=directory.parent,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=dies_with_parent(os.getpid()),  # noqa: PLW1509 — it takes no lock
        )
        try:
            _wait_until_it_answers(process, port, log_path)
        finally:
            process.terminate()
            process.wait(30)
    return find_recovery_timestamp(log_path.read_text().splitlines())


def _wait_until_it_answers(process: "subprocess.Popen[bytes]", port: int, log_path: Path) -> None:
    client: MongoClient[dict[str, Any]] = MongoClient(
        "127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=int(READY_SECONDS * 1000)
    )
    with client:
        try:
            client.admin.command("ping")
        except PyMongoError as error:
            tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-5:])
            code = process.poll()
            raise CopyNotUsable(f"the restored copy did not start (exit code {code}): {tail}") from error


def hash_advanced(
    binary: Path, directory: Path, *, socket_directory: Path, hash_databases: Callable[[Any], Any]
) -> Any:
    """Advance a copy to the newest entry of the oplog inside it, and return what `hash_databases` says of it."""
    return _hash(
        binary,
        directory,
        socket_directory,
        hash_databases,
        {"recoverFromOplogAsStandalone": True, "takeUnstableCheckpointOnShutdown": True},
    )


def hash_plainly(
    binary: Path, directory: Path, *, socket_directory: Path, hash_databases: Callable[[Any], Any]
) -> Any:
    """What `hash_databases` says of a copy as it is."""
    return _hash(binary, directory, socket_directory, hash_databases, {})


def _hash(
    binary: Path,
    directory: Path,
    socket_directory: Path,
    hash_databases: Callable[[Any], Any],
    parameters: dict[str, ParameterValue],
) -> Any:
    options = MongodOptions(
        dbpath=directory,
        log_path=directory.with_name(directory.name + ".log"),
        listen=UnixSocket(path=socket_directory / "copy.sock"),
        cache_gb=0.25,
        set_parameters={
            "ttlMonitorEnabled": False,
            "disableLogicalSessionCacheRefresh": True,
            **parameters,
        },
    )
    process = MongodProcess.start(
        binary, options, identity_path=directory.with_name("mongod.json"), ready_seconds=READY_SECONDS
    )
    try:
        with process.client() as client:
            return hash_databases(client)
    finally:
        process.stop()
