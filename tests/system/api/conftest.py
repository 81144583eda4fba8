"""A real API: catalog on a real mongod, the application on a real port, an archive from a real repository."""

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
from requests.auth import HTTPDigestAuth

from ebbtide.api.openapi.description import describe
from ebbtide.api.server import build_server
from ebbtide.catalog.catalog import Catalog
from ebbtide.catalog.connection import DATABASE_NAME
from ebbtide.clock import SystemClock
from ebbtide.credentials import new_api_key
from ebbtide.domain.access import ApiKey, Grant, Role
from ebbtide.domain.access_list import AccessEntry
from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.group import Group
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId, new_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.progress import NoProgress
from ebbtide.domain.restore_job import RestoreEvent, RestoreJob
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.mongod.binary import find_mongod
from ebbtide.mongod.options import MongodOptions, UnixSocket
from ebbtide.mongod.process import MongodProcess
from ebbtide.repository.manifest import Manifest, ManifestKind
from ebbtide.repository.repository import Repository, never_cancelled
from ebbtide.repository.source import SourceFile, stat_file
from ebbtide.repository.writer import store_files
from ebbtide.restore.job_archive import JobArchives
from ebbtide.restore.links import open_download_key, seal_new_download_key
from ebbtide.restore.requesting import request_http_restore
from ebbtide.sealing import ServiceKey
from ebbtide.settings import resolve_settings
from ebbtide.storage.directory import DirectoryStorage

STABLE = OplogTimestamp(1516661094, 7)
LOOPBACK = ("127.0.0.1/32", "::1/128")


class MovableClock(SystemClock):
    """The machine's clock, which a test may put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


@dataclass
class Service:
    """A running API and what a test needs to talk to it and to arrange things behind it."""

    url: str
    catalog: Catalog
    service_key: ServiceKey
    clock: MovableClock
    repository_path: Path
    group: Group
    cluster: Cluster
    owner: tuple[str, str]
    archives: JobArchives = field(repr=False)
    stop: Callable[[], None] = field(repr=False)
    reload: Callable[[], None] = field(repr=False)

    @property
    def base(self) -> str:
        return f"{self.url}/api/atlas/v1.0/groups/{self.group.id}/clusters/{self.cluster.name}"

    @property
    def own_base(self) -> str:
        return f"{self.url}/api/ebbtide/v1/groups/{self.group.id}"

    def call(
        self, method: str, path: str, *, key: tuple[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """One call with digest, as the owner unless another key is given; `path` may be a whole address."""
        user, password = key or self.owner
        address = path if path.startswith("http") else f"{self.url}{path}"
        answer = requests.request(
            method, address, auth=HTTPDigestAuth(user, password), timeout=120, **options
        )
        check_described(answer)
        return answer

    def new_key(
        self,
        role: Role | None,
        *,
        group_id: GroupId | None = None,
        allow: tuple[str, ...] = LOOPBACK,
        owner: bool = False,
    ) -> tuple[str, str]:
        grants = () if role is None else (Grant(role=role, group_id=group_id),)
        entries = tuple(AccessEntry(cidr=cidr, created=self.clock.now()) for cidr in allow)
        key, private_key = new_api_key(
            description="test",
            grants=grants,
            access_list=entries,
            owner=owner,
            service_key=self.service_key,
            clock=self.clock,
        )
        self.catalog.api_keys.insert(key)
        return key.public_key, private_key

    def find_key(self, public_key: str) -> ApiKey:
        key = self.catalog.api_keys.find_by_public_key(public_key)
        if key is None:
            raise LookupError(public_key)
        return key

    def new_cluster(self, name: str, *, group_id: GroupId | None = None) -> Cluster:
        cluster = make_cluster(name, group_id or self.group.id, self.clock.now())
        self.catalog.clusters.insert(cluster)
        return cluster

    def new_snapshot(self, **changes: Any) -> Snapshot:
        """A complete snapshot of the cluster, in the catalog only."""
        snapshot = make_snapshot(self.cluster, self.clock.now(), **changes)
        self.catalog.snapshots.insert(snapshot)
        return snapshot

    def stored_snapshot(self, content: dict[str, bytes]) -> Snapshot:
        """A complete snapshot whose files are in the repository."""
        snapshot = self.new_snapshot()
        store_snapshot(self.repository_path, snapshot, self.group, content)
        return snapshot

    def new_job(self, snapshot: Snapshot, *, hours: int = 1, downloads: int = 1) -> RestoreJob:
        return request_http_restore(
            cluster=self.cluster,
            snapshot=snapshot,
            expiration_hours=hours,
            max_downloads=downloads,
            catalog=self.catalog,
            clock=self.clock,
            actor="test",
        )

    def ready_job(
        self, snapshot: Snapshot, *, hours: int = 1, downloads: int = 1, archive_bytes: int | None = None
    ) -> RestoreJob:
        """A job whose link is usable, as a worker leaves it."""
        job = self.new_job(snapshot, hours=hours, downloads=downloads)
        return self.make_ready(job, archive_bytes=archive_bytes)

    def make_ready(self, job: RestoreJob, *, archive_bytes: int | None = None) -> RestoreJob:
        length = self.archives.open(job).length_bytes if archive_bytes is None else archive_bytes
        now = self.clock.now()
        self.catalog.restore_jobs.apply(job.id, RestoreEvent.WORKER_BEGAN)
        ready = self.catalog.restore_jobs.apply(
            job.id,
            RestoreEvent.LINK_READY,
            archive_bytes=length,
            download_key=seal_new_download_key(job, self.service_key),
            ready=now,
            expires=now + timedelta(hours=job.expiration_hours),
        )
        if ready is None:
            raise LookupError(job.id)
        return ready

    def links(self, job: RestoreJob) -> tuple[str, str, dict[str, str]]:
        """(v2 link, v3 link, header of v3) as the API shows them to the owner."""
        delivery = self.call("GET", f"{self.base}/restoreJobs/{job.id}").json()["delivery"]
        header = {delivery["authHeader"]: f"{delivery['authBearer']} {delivery['authValue']}"}
        return delivery["url"], delivery["urlV2"], header

    def download_key(self, job: RestoreJob) -> str:
        return open_download_key(job, self.service_key)

    def archive_bytes(self, job: RestoreJob) -> bytes:
        archive = self.archives.open(job)
        return b"".join(archive.iter_range(0, archive.length_bytes))

    def wait_until(self, condition: Callable[[], Any]) -> Any:
        return wait_until(condition)

    def job(self, job_id: RestoreJobId) -> RestoreJob:
        job = self.catalog.restore_jobs.find(job_id)
        if job is None:
            raise LookupError(job_id)
        return job


@cache
def described_paths() -> list[tuple[re.Pattern[str], str]]:
    """Every path of the families, as a pattern and as it is described."""
    paths = [p for p in describe()["paths"] if p.startswith("/api/") and not p.startswith("/api/oauth/")]
    return [(re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), path) for path in paths]


@cache
def validator(status: str, method: str, path: str, media_type: str) -> Any:
    """Of an answer as it is described; None where such a status, or such a type of it, is not described."""
    responses = describe()["paths"][path][method]["responses"]
    response = responses.get(status, {})
    if "$ref" in response:
        response = describe()["components"]["responses"][status]
    schema = response.get("content", {}).get(media_type, {}).get("schema")
    if schema is None:
        return None
    return jsonschema.Draft202012Validator({**schema, "components": describe()["components"]})


def check_described(answer: requests.Response) -> None:
    """Whatever a test asks for, the answer is one that the API's own description knows."""
    method, sent = str(answer.request.method).lower(), str(answer.request.path_url).partition("?")[0]
    path = next((path for pattern, path in described_paths() if pattern.fullmatch(sent)), None)
    if path is None or method not in describe()["paths"][path] or not answer.content:
        return
    found = validator(str(answer.status_code), method, path, answer.headers["Content-Type"])
    assert found is not None, f"{method} {path}: {answer.status_code} is not described"
    found.validate(answer.json())


def make_cluster(name: str, group_id: GroupId, created: datetime) -> Cluster:
    return Cluster(
        id=ClusterId(new_id()),
        group_id=group_id,
        name=name,
        replica_set_name="rs0",
        uri="mongodb://127.0.0.1:27017",
        username=None,
        auth_source="admin",
        password=None,
        keyfile=None,
        mongod_version="6.0.5",
        fcv="6.0",
        head_host="127.0.0.1",
        head_port=27018,
        state=ClusterState.ACTIVE,
        created=created,
    )


def make_snapshot(cluster: Cluster, created: datetime, **changes: Any) -> Snapshot:
    snapshot = Snapshot(
        id=SnapshotId(new_id()),
        group_id=cluster.group_id,
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        replica_set_name=cluster.replica_set_name,
        created=created,
        state=SnapshotState.COMPLETE,
        completed=created,
        stable_timestamp=STABLE,
        applied_timestamp=STABLE,
        mongod_version="6.0.5",
        fcv="6.0",
        machine="127.0.0.1:27018",
        data_size_bytes=4502,
        storage_size_bytes=53248,
        file_size_bytes=324760,
        stored_bytes=1000,
        new_stored_bytes=1000,
    )
    return replace(snapshot, **changes)


def store_snapshot(
    repository_path: Path, snapshot: Snapshot, group: Group, content: dict[str, bytes]
) -> None:
    """Store files as a committed snapshot."""
    repository = Repository.open(DirectoryStorage(repository_path))
    store = repository.replica_set(snapshot.cluster_id, snapshot.replica_set_name)
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory(dir=repository_path.parent) as directory:
        sources = []
        for name, data in content.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            sources.append(SourceFile(path=name, absolute=path, stat=stat_file(path)))
        stored = store_files(
            store,
            sources,
            snapshot_id=snapshot.id,
            attempt=1,
            parent=None,
            full_read=True,
            threads=2,
            progress=NoProgress(),
            check_cancelled=never_cancelled,
        )
    store.commit(
        Manifest(
            kind=ManifestKind.SNAPSHOT,
            snapshot_id=snapshot.id,
            parent_id=None,
            group_id=group.id,
            group_name=group.name,
            cluster_id=snapshot.cluster_id,
            cluster_name=snapshot.cluster_name,
            replica_set_name=snapshot.replica_set_name,
            created=snapshot.created,
            completed=now,
            stable_timestamp=STABLE,
            applied_timestamp=STABLE,
            mongod_version="6.0.5",
            fcv="6.0",
            head_address="127.0.0.1:27018",
            oplog_file="collection-oplog.wt",
            storage={},
            data_size_bytes=4502,
            storage_size_bytes=53248,
            new_stored_bytes=stored.new_stored_bytes,
            last_full_read=now,
            files=stored.entries,
        )
    )


@pytest.fixture(scope="session")
def catalog_mongod() -> Iterator[MongodProcess]:
    # Not pytest's own directory: a Unix socket's path has at most 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="ebb-"))
    try:
        options = MongodOptions(
            dbpath=root / "db",
            log_path=root / "log",
            listen=UnixSocket(path=root / "s.sock"),
            cache_gb=0.25,
        )
        binary = find_mongod(os.environ.get("EBBTIDE_MONGOD"))
        process = MongodProcess.start(
            binary, options, identity_path=root / "identity.json", die_with_parent=True
        )
        try:
            yield process
        finally:
            process.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def start_service(
    catalog_mongod: MongodProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Service]]:
    """Starts APIs on an empty catalog, with settings as flags; all are stopped at the module's end."""
    services: list[Service] = []

    def start(**flags: Any) -> Service:
        services.append(
            run_service(
                catalog_mongod.uri,
                tmp_path_factory.mktemp("service"),
                {name.replace("__", "."): value for name, value in flags.items()},
            )
        )
        return services[-1]

    try:
        yield start
    finally:
        for service in reversed(services):
            service.stop()
            service.catalog.close()


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service]) -> Service:
    return start_service()


def run_service(catalog_uri: str, directory: Path, flags: dict[str, Any]) -> Service:
    """An API in a thread."""
    catalog = Catalog.connect(catalog_uri)
    catalog._client.drop_database(DATABASE_NAME)
    catalog.prepare()
    service_key = ServiceKey.load_or_create(directory / "secret.key")
    clock = MovableClock()
    repository_path = directory / "repository"
    repository_path.mkdir()
    Repository.create(DirectoryStorage(repository_path), now=clock.now())
    settings = resolve_settings(flags={"api.listen": "127.0.0.1:0", **flags}, environment={}, file=None)
    server, listener, _ = build_server(
        settings=settings,
        catalog=catalog,
        service_key=service_key,
        clock=clock,
        repository_path=repository_path,
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)

    def stop() -> None:
        server.stop()
        thread.join(timeout=60)
        listener.close()
        if thread.is_alive():
            raise TimeoutError("the server did not stop")

    group = Group(id=GroupId(new_id()), name="Project", created=clock.now())
    catalog.groups.insert(group)
    cluster = make_cluster("Cluster0", group.id, clock.now())
    catalog.clusters.insert(cluster)
    # Where it really is: links may say otherwise.
    scheme = "http" if settings.text("api.tls_certificate_file") is None else "https"
    service = Service(
        url=f"{scheme}://127.0.0.1:{listener.getsockname()[1]}",
        catalog=catalog,
        service_key=service_key,
        clock=clock,
        repository_path=repository_path,
        group=group,
        cluster=cluster,
        owner=("", ""),
        archives=JobArchives(repository_path),
        stop=stop,
        reload=server.reload,
    )
    service.owner = service.new_key(Role.GLOBAL_OWNER, owner=True)
    return service


def wait_until(condition: Callable[[], Any], *, seconds: float = 90.0) -> Any:
    """The first true value of `condition`; TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not become true")
        time.sleep(0.02)
    return value
