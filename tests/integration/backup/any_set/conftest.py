"""Sets of every kind: what is asked of each, and how it is registered."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ebbtide.domain.cluster import Cluster
from ebbtide.mongod.options import MongodOptions, UnixSocket
from ebbtide.mongod.process import MongodProcess
from ebbtide.testing import workload
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab


def access_to(lab: ReplicaSetLab, *, head_host: str = "127.0.0.1") -> dict[str, Any]:
    """The fields of a request that let a head into the lab."""
    fields: dict[str, Any] = {"head_host": head_host}
    if lab.backup_username is not None:
        fields |= {"username": lab.backup_username, "password": lab.backup_password}
    if lab.authority is not None:
        fields |= {"tls_ca": lab.authority.ca, "tls_certificate": lab.authority.issue(head_host)}
    return fields


@pytest.fixture
def at_work(installation: Any, mongod_binary: Path) -> Callable[..., Any]:
    """`at_work(**options)`: a lab of that kind and a worker; its clusters are removed while it is still there."""

    @contextmanager
    def start(**options: Any) -> Any:
        with ReplicaSetLab(binary=mongod_binary, **options) as lab, installation.working():
            try:
                yield lab
            finally:
                for cluster in installation.catalog.clusters.list_live():
                    installation.remove(cluster)

    return start


@pytest.fixture
def prove(
    installation: Any, mongod_binary: Path, tmp_path: Path, socket_directory: Path
) -> Callable[[ReplicaSetLab, Cluster], None]:
    """Writes to the lab, takes a snapshot, starts a mongod on it, and compares every collection with the lab's."""

    @contextmanager
    def restored(snapshot: Any) -> Any:
        installation.materialise(snapshot, tmp_path / "restored")
        options = MongodOptions(
            dbpath=tmp_path / "restored",
            log_path=tmp_path / "restored.log",
            listen=UnixSocket(path=socket_directory / "r.sock"),
            cache_gb=0.25,
            set_parameters={"ttlMonitorEnabled": False},
        )
        process = MongodProcess.start(mongod_binary, options, identity_path=tmp_path / "restored.json")
        try:
            with process.client() as client:
                yield client
        finally:
            process.kill()

    def prove_it(lab: ReplicaSetLab, cluster: Cluster) -> None:
        with lab.client(w="majority") as client:
            workload.load(client, seed=5, scale=0.02)
            expected = database_hashes(client, exclude=("local", "config"))
        snapshot = installation.take_snapshot(cluster)
        with restored(snapshot) as client:
            assert expected == database_hashes(client, exclude=("local", "config"))

    return prove_it
