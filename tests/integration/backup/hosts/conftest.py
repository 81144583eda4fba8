"""A standalone mongod that is declared a mirrored config server, and what tests ask of it."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from ebbtide.backup.host_requests import HostDeclaration, declare_host, request_host_snapshot
from ebbtide.domain.host import Host
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.snapshot import Snapshot
from ebbtide.repository.repository import never_cancelled
from ebbtide.restore.job_archive import open_archive
from ebbtide.restore.requesting import request_http_restore
from ebbtide.restore.scratch_mongod import ScratchFiles, running
from ebbtide.testing.standalone import StandaloneLab

Document = dict[str, Any]


@dataclass
class Hosting:
    """A host, and the installation that copies it."""

    installation: Any  # `Installation` of the conftest above
    lab: StandaloneLab
    binary: Path

    @property
    def arguments(self) -> Document:
        context = self.installation.context
        return {"catalog": context.catalog, "clock": context.clock, "actor": "test"}

    def declare(self, **changes: Any) -> Host:
        values = {"address": self.lab.address, "username": "copier", "password": self.lab.password} | changes
        return declare_host(
            HostDeclaration(**values),
            service_key=self.installation.context.service_key,
            group_id=self.installation.group.id,
            **self.arguments,
        )

    def host(self, host: Host) -> Host:
        found = self.installation.catalog.hosts.find(host.id)
        if found is None:
            raise LookupError(host.address)
        return found

    def request(self, host: Host) -> Snapshot:
        return request_host_snapshot(self.host(host), **self.arguments)

    def take(self, host: Host) -> Snapshot:
        """Needs a worker."""
        done: Snapshot = self.installation.wait_for_snapshot(self.request(host))
        return done

    def restore(self, snapshot: Snapshot) -> RestoreJob:
        """The job of a download, once its link is ready. Needs a worker."""
        catalog = self.installation.catalog
        job = request_http_restore(
            cluster=None,
            snapshot=snapshot,
            expiration_hours=1,
            max_downloads=1,
            **self.arguments,
        )
        self.installation.wait_until(lambda: catalog.restore_jobs.find(job.id).sha1, what="the download")
        found: RestoreJob = catalog.restore_jobs.find(job.id)
        return found

    def unpack(self, job: RestoreJob, directory: Path) -> Path:
        """The directory in the download."""
        archive = open_archive(self.installation.context.repository, job)
        packed = directory / "archive.tar.gz"
        with packed.open("wb") as file:
            for piece in archive.iter_range(0, archive.length_bytes):
                file.write(piece)
        with tarfile.open(packed) as opened:
            opened.extractall(directory, filter="data")
        return directory / job.file_name.removesuffix(".tar.gz")

    @contextmanager
    def opened(self, dbpath: Path, directory: Path) -> Iterator["MongoClient[Document]"]:
        """A mongod on a download, without access control."""
        directory.mkdir(mode=0o700)
        files = ScratchFiles(directory=directory, binary=self.binary, cache_gb=0.25)
        dbpath.rename(files.dbpath)
        with running(files, "open", check=never_cancelled) as client:
            yield client


@pytest.fixture(scope="module")
def standalone(mongod_binary: Path) -> Iterator[StandaloneLab]:
    with StandaloneLab(mongod_binary) as lab:
        yield lab


@pytest.fixture
def hosting(installation: Any, standalone: StandaloneLab, mongod_binary: Path) -> Iterator[Hosting]:
    """A host whose users' data was dropped."""
    with standalone.client() as client:
        for name in set(client.list_database_names()) - {"admin", "local"}:
            client.drop_database(name)
    yield Hosting(installation=installation, lab=standalone, binary=mongod_binary)
    for host in installation.catalog.hosts.list_in_group(installation.group.id):
        installation.catalog.hosts.remove(host.id)
