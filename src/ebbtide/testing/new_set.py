"""A replica set made of prepared files, as its owner would run it: started, grown by empty members, restarted, compared.

Crash: its mongods are left; `kill` ends those that were started.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from bson import Timestamp
from pymongo.errors import OperationFailure, PyMongoError

from ebbtide.mongod.options import MongodOptions, Tcp
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.process import MongodProcess
from ebbtide.testing.dbhash import database_hashes

Document = dict[str, Any]

NEW_SET = "new"
"""What these sets are called."""

INCOMPATIBLE, IN_PROGRESS = 103, 109
"""Codes of the server: the configuration is not newer than the set's own; another change is under way."""


class NewSet:
    """A set that is made of prepared files, as its owner would run it."""

    def __init__(self, binary: Path, directory: Path, port: int, *, name: str = NEW_SET) -> None:
        self._binary = binary
        self._directory = directory
        self._name = name
        self.members = [start_member(binary, directory, port, name)]
        self.wait_for_primary()

    @property
    def first(self) -> MongodProcess:
        return self.members[0]

    def wait_for_primary(self) -> None:
        wait_until(lambda: hello(self.first).get("isWritablePrimary"), "the first member to be primary")

    def add_empty_member(self) -> None:
        number, port = len(self.members), free_port()
        directory = self._directory.with_name(f"{self._directory.name}-{number}")
        added = start_member(self._binary, directory, port, self._name)
        self.members.append(added)
        wait_until(lambda: self._configure(number, port), "the set to take another member")
        wait_until(lambda: hello(added).get("secondary"), "the empty member to be synced")

    def _configure(self, number: int, port: int) -> bool:
        """Whether the set has the member now; not where it changed its configuration by itself meanwhile: it does so
        once for each member, when that has its data."""
        with self.first.client() as client:
            configuration = client.admin.command("replSetGetConfig")["config"]
            configuration["version"] += 1
            configuration["members"].append({"_id": number, "host": f"127.0.0.1:{port}"})
            try:
                client.admin.command("replSetReconfig", configuration, maxTimeMS=120_000)
            except OperationFailure as error:
                if error.code not in (INCOMPATIBLE, IN_PROGRESS):
                    raise
                return False
        return True

    def restart_first(self) -> None:
        """By itself: the others are stopped, as after a power cut of everything; then all come back."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(MongodProcess.stop, self.members))
            self.members = list(pool.map(self._start_again, self.members))
        wait_until(self._has_primary, "a primary")

    def _start_again(self, process: MongodProcess) -> MongodProcess:
        return MongodProcess.start(self._binary, process.options, identity_path=process.identity_path)

    def _has_primary(self) -> bool:
        """One is asked to stand, as the election timeout is long."""
        if any(hello(p).get("isWritablePrimary") for p in self.members):
            return True
        with self.first.client() as client, suppress(PyMongoError):
            client.admin.command("replSetStepUp")
        return False

    def hashes(self) -> list[dict[str, dict[str, str]]]:
        wait_until(lambda: len({top_of_oplog(p) for p in self.members}) == 1, "all members to be even")
        found = []
        for process in self.members:
            with process.client() as client:
                found.append(database_hashes(client))
        return found

    def kill(self) -> None:
        for process in self.members:
            process.kill()


def start_member(binary: Path, directory: Path, port: int, set_name: str, **changes: Any) -> MongodProcess:
    """A member of a set on loopback, without authentication; `changes` are further options."""
    options = MongodOptions(
        dbpath=directory,
        log_path=directory.with_name(f"{directory.name}.{port}.log"),
        listen=Tcp(host="127.0.0.1", port=port),
        cache_gb=0.25,
        replica_set_name=set_name,
        **changes,
    )
    return MongodProcess.start(
        binary, options, identity_path=directory.with_name(f"{directory.name}.{port}.json")
    )


def top_of_oplog(process: MongodProcess) -> Timestamp:
    with process.client() as client:
        found: Timestamp = client.local["oplog.rs"].find().sort("$natural", -1).limit(1).next()["ts"]
        return found


def hello(process: MongodProcess) -> Document:
    with process.client() as client:
        return dict(client.admin.command("hello"))


def wait_until(condition: Callable[[], Any], what: str, *, seconds: float = 120.0) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)
