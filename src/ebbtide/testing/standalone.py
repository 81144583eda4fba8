"""A mongod by itself, with users and passwords: what a mirrored config server looks like to Ebbtide.

    <root>/db, mongod.log, mongod.json

It ends with the thread that made it, or by `close`.
"""

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pymongo import MongoClient

from ebbtide.domain.replica_set import join_host_port
from ebbtide.mongod.options import MongodOptions, Tcp
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.process import MongodProcess

Document = dict[str, Any]

COPY_ROLES = ("backup", "clusterMonitor", "hostManager", "readAnyDatabase")
"""What the account needs that a host is declared with."""

LOOPBACK = "127.0.0.1"


class StandaloneLab:
    """One mongod on loopback, empty but for two users: `root`, and `copier` with COPY_ROLES."""

    password = "a password with spaces"

    def __init__(self, binary: Path) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="ebb-alone-"))
        self._binary = binary
        self._options = MongodOptions(
            dbpath=self._root / "db",
            log_path=self._root / "mongod.log",
            listen=Tcp(host=LOOPBACK, port=free_port()),
            cache_gb=0.25,
            authorization=True,
            set_parameters={"ttlMonitorSleepSecs": 3600},
        )
        self.start()
        with self._process.client() as client:
            client.admin.command("createUser", "root", pwd=self.password, roles=["root", "__system"])
        with self.client() as client:
            client.admin.command("createUser", "copier", pwd=self.password, roles=list(COPY_ROLES))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._root, ignore_errors=True)

    def start(self) -> None:
        """Start it (again) on its files."""
        self._process = MongodProcess.start(
            self._binary, self._options, identity_path=self._root / "mongod.json", die_with_parent=True
        )

    def kill(self) -> None:
        self._process.kill()

    @property
    def address(self) -> str:
        listen = self._options.listen
        if not isinstance(listen, Tcp):
            raise TypeError("it listens on TCP")
        return join_host_port(listen.host, listen.port)

    def client(self, username: str = "root", **options: Any) -> "MongoClient[Document]":
        """A new client; the caller closes it."""
        return self._process.client(username=username, password=self.password, **options)

    def is_locked(self) -> bool:
        with self.client() as client:
            return bool(client.admin.command("currentOp").get("fsyncLock", False))
