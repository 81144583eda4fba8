"""A sharded cluster of restored parts: mongods on the files that `ebbtide restores prepare` made a cluster of.

Each part is a set of one, started as its owner would start it. Crash: the mongods stay; their identity files are beside
the directories.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from pymongo import MongoClient
from pymongo.errors import OperationFailure

from ebbtide.errors import MongodError
from ebbtide.mongod.options import ClusterRole, MongodOptions, Tcp
from ebbtide.mongod.process import MongodProcess
from ebbtide.testing.bank import Bank
from ebbtide.testing.lab_directory import write_private
from ebbtide.testing.sharded_lab import CONFIG, ShardedLab

Document = dict[str, Any]

WAIT_SECONDS = 120.0
_LOOK_SECONDS = 0.05
_BALANCER_INTERRUPTED = 194


class StartedPart:
    """One mongod on prepared files, as its owner would start it: a set of one."""

    def __init__(
        self, binary: Path, name: str, directory: Path, port: int, *, set_name: str, keyfile: Path
    ) -> None:
        self.address = f"127.0.0.1:{port}"
        self.keyfile_text = keyfile.read_text().strip()
        self._set_name = set_name
        self._binary = binary
        is_config = name == CONFIG
        self._options = MongodOptions(
            dbpath=directory,
            log_path=directory.with_name(f"{name}.log"),
            listen=Tcp(host="127.0.0.1", port=port),
            cache_gb=0.25,
            replica_set_name=set_name,
            cluster_role=ClusterRole.CONFIG if is_config else ClusterRole.SHARD,
            keyfile=keyfile,
            set_parameters={} if is_config else {"orphanCleanupDelaySecs": 0},
        )
        self._identity_path = directory.with_name(f"{name}.json")
        self._process: MongodProcess | None = None

    def start(self) -> None:
        self._process = MongodProcess.start(
            self._binary, self._options, identity_path=self._identity_path, ready_seconds=WAIT_SECONDS
        )

    @property
    def process(self) -> MongodProcess:
        if self._process is None:
            raise MongodError(f"{self.address} was not started")
        return self._process

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def primary(self) -> "StartedPart":
        deadline = time.monotonic() + WAIT_SECONDS
        with self.process.client() as client:
            while not client.admin.command("hello").get("isWritablePrimary"):
                if time.monotonic() > deadline:
                    raise MongodError(f"{self.address} does not become primary")
                time.sleep(_LOOK_SECONDS)
        return self

    def client(self, **options: Any) -> "MongoClient[Document]":
        self.primary()
        uri = f"mongodb://{self.address}/?replicaSet={self._set_name}"
        return MongoClient(uri, serverSelectionTimeoutMS=int(WAIT_SECONDS * 1000), **options)


class PreparedCluster(ShardedLab):
    """A lab's commands, on parts that were prepared; `config_set` is the name of the config server's set."""

    def __init__(
        self,
        binary: Path,
        directories: Mapping[str, Path],
        ports: Mapping[str, int],
        *,
        keyfile_text: str,
        config_set: str = CONFIG,
    ) -> None:
        self._clients: dict[str, Any] = {}
        keyfile = next(iter(directories.values())).with_name("keyfile")
        write_private(keyfile, keyfile_text + "\n")
        started: dict[str, Any] = {}
        for name, directory in directories.items():
            set_name = config_set if name == CONFIG else name
            started[name] = StartedPart(
                binary, name, directory, ports[name], set_name=set_name, keyfile=keyfile
            )
        self.config = started[CONFIG]
        self.shards = {name: part for name, part in sorted(started.items()) if name != CONFIG}

    def start(self) -> Self:
        """All at once: a shard does not answer before the config server does. Who made it stops it."""
        with ThreadPoolExecutor() as executor:
            list(executor.map(StartedPart.start, self._started()))
        self._connect()
        return self

    def _connect(self) -> None:
        for name in self.parts:
            self._clients[name] = self._open_client(name)

    def restart(self) -> None:
        """All stop, and then all start."""
        self.shut_down()
        self.start()

    def shut_down(self) -> None:
        self._disconnect()
        for part in self._started():
            part.process.stop()

    def stop(self) -> None:
        self._disconnect()
        for part in self._started():
            part.kill()

    def _disconnect(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _started(self) -> list[Any]:
        return list(self.parts.values())


def move_some_chunk(bank: Bank) -> bool:
    """Move a chunk of a bank on a cluster that was started this moment; whether one did.

    A config server takes a while after its election until it moves chunks. Raises OperationFailure after that.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return bank.move_some_chunk()
        except OperationFailure as error:
            if error.code != _BALANCER_INTERRUPTED or time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_SECONDS)
