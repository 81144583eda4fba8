"""The walk: a replica set with writes on it, two snapshots, a download, and two copies of it started again; then any
second of it, and a dropped collection that comes back (`demo.any_second`).

Everything that Ebbtide does here it does as a product: `ebbtide serve` is its own process, and the walk talks to it
over HTTP. Only the hashes to compare with are taken behind its back: `dbHash` on the head, under a lock of our own
around the second snapshot (locks are counted, so the snapshot's own nests in it).
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from ebbtide.cli.client import EbbtideClient
from ebbtide.cli.download import Downloaded, download_to_file
from ebbtide.cli.download_fetch import link_of
from ebbtide.cli.profile import Connection
from ebbtide.cli.render.documents import archive_sha1
from ebbtide.cli.render.output import Output
from ebbtide.cli.render.progress import ProgressView
from ebbtide.cli.render.quantities import human_bytes, human_seconds
from ebbtide.demo.any_second import AnySecond, AnySecondResult, recorded_hashes
from ebbtide.demo.copies import hash_advanced, hash_plainly, start_plainly
from ebbtide.demo.place import DemoPlace
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import EbbtideError, JobFailed
from ebbtide.mongod.ports import free_port
from ebbtide.processes import dies_with_parent
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.workload import BackgroundWorkload, load

Document = dict[str, Any]

CLUSTER_NAME = "demo"
WORKLOAD_SCALE = 3.0
MIN_FREE_BYTES = 256 * 1024**2
WRITES_PER_SECOND = 10.0
SERVE_READY_SECONDS = 90.0
SERVE_STOP_SECONDS = 25.0
WAIT_SECONDS = 300.0
POLL_SECONDS = 0.1
SECOND_SNAPSHOT_SHARE_MAX = 0.25
"""The second snapshot must store less than this share of what the first one stored."""


class DemoFailed(EbbtideError):
    """Something that the demo shows did not hold."""


@dataclass(frozen=True, kw_only=True)
class WalkResult:
    """What the walk measured. Sizes in bytes; `job_ready_seconds` from POST to a link that works."""

    snapshot_seconds: float
    snapshot_bytes: int
    stored_bytes: int
    second_snapshot_stored_bytes: int
    job_ready_seconds: float
    download_bytes: int
    download_seconds: float
    sha1_ok: bool
    plain_start_at_timestamp: bool
    dbhash_equal: bool
    any_second: AnySecondResult
    snapshot_ids: tuple[str, ...]

    @property
    def ok(self) -> bool:
        stored_little = self.second_snapshot_stored_bytes < SECOND_SNAPSHOT_SHARE_MAX * self.stored_bytes
        is_exact = self.any_second.pit_exact and self.any_second.automated_restore_ok
        return (
            self.sha1_ok
            and self.plain_start_at_timestamp
            and self.dbhash_equal
            and stored_little
            and is_exact
        )

    def document(self) -> Document:
        """What `--once --json` prints."""
        return {
            "ok": self.ok,
            "snapshot_seconds": round(self.snapshot_seconds, 3),
            "snapshot_bytes": self.snapshot_bytes,
            "stored_bytes": self.stored_bytes,
            "second_snapshot_stored_bytes": self.second_snapshot_stored_bytes,
            "job_ready_seconds": round(self.job_ready_seconds, 3),
            "download_bytes": self.download_bytes,
            "download_seconds": round(self.download_seconds, 3),
            "sha1_ok": self.sha1_ok,
            "plain_start_at_timestamp": self.plain_start_at_timestamp,
            "dbhash_equal": self.dbhash_equal,
            **self.any_second.document(),
        }


class Walk:
    """One demo. Use it in a `with`: leaving it stops whatever it started."""

    def __init__(self, place: DemoPlace, binary: Path, output: Output, say: Callable[[str], None]) -> None:
        self.place = place
        self.binary = binary
        self._output = output
        self.say = say
        self.stack = ExitStack()
        self._data = place.work / "data"
        self.lab: ReplicaSetLab | None = None
        self.connection: Connection | None = None
        self._client: EbbtideClient | None = None

    def __enter__(self) -> "Walk":
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    # --- the story --------------------------------------------------------------------------------------------------

    def run(self) -> WalkResult:
        """Walk from the empty directory to the verdict. Raises what stopped it."""
        self.place.work.mkdir(mode=0o700, exist_ok=True)
        lab = self._start_lab()
        client = self.start_serve()
        cluster = self._register(lab, client)
        first, snapshot_seconds = self._take_first_snapshot(client)
        second, expected = self._take_second_snapshot(lab, client, cluster)
        job_id, ready_seconds = self._create_restore_job(client, second["id"])
        archive, downloaded = self.download(client, job_id)
        job = client.get_restore_job(self.group_id, CLUSTER_NAME, job_id)
        at_timestamp, equal = self._restart_copies(archive, job, expected)
        any_second = self._show_any_second(lab, client, cluster)
        return WalkResult(
            snapshot_seconds=snapshot_seconds,
            snapshot_bytes=int(first["fileSizeBytes"]),
            stored_bytes=int(first["newStoredBytes"]),
            second_snapshot_stored_bytes=int(second["newStoredBytes"]),
            job_ready_seconds=ready_seconds,
            download_bytes=downloaded.size_bytes,
            download_seconds=downloaded.seconds,
            sha1_ok=archive_sha1(job) == downloaded.sha1,
            plain_start_at_timestamp=at_timestamp,
            dbhash_equal=equal,
            any_second=any_second,
            snapshot_ids=(str(first["id"]), str(second["id"])),
        )

    def _start_lab(self) -> ReplicaSetLab:
        with self.timed("starting a replica set of three members, with keyfile and users"):
            lab = ReplicaSetLab(binary=self.binary, members=3, keyfile=True, replica_set_name="demo-rs")
            self.lab = self.stack.enter_context(lab)
        with self.timed("loading data"), lab.client() as client:
            load(client, scale=WORKLOAD_SCALE)
        workload = BackgroundWorkload(lab.client, operations_per_second=WRITES_PER_SECOND)
        self.stack.enter_context(workload)
        self.say(f"  a workload goes on writing to {lab.uri}")
        return lab

    def start_serve(self) -> EbbtideClient:
        listen = f"127.0.0.1:{free_port()}"
        command = ["serve", "--data", str(self._data), "--listen", listen, "--mongod", str(self.binary)]
        with self.timed(f"starting Ebbtide: ebbtide serve --data {self._data} --listen {listen}"):
            log = self.stack.enter_context((self.place.work / "serve.log").open("wb"))
            environment = {
                # It checked for what it needs; a share of a large disk is more than that.
                "EBBTIDE_REPOSITORY_MIN_FREE_BYTES": str(MIN_FREE_BYTES),
                "EBBTIDE_LOG_FORMAT": "json",
                **os.environ,
            }
            process = subprocess.Popen(
                [sys.executable, "-m", "ebbtide", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # Ctrl-C is for the demo, which stops things in order.
                start_new_session=True,
                preexec_fn=dies_with_parent(os.getpid()),  # noqa: PLW1509 — it takes no lock
            )
            self.stack.callback(_stop, process)
            connection = self._wait_for_serve(process)
        self.connection = connection
        self._client = self.stack.enter_context(EbbtideClient(connection))
        return self._client

    def _wait_for_serve(self, process: "subprocess.Popen[bytes]") -> Connection:
        deadline = time.monotonic() + SERVE_READY_SECONDS
        log_path = self.place.work / "serve.log"
        while time.monotonic() < deadline and process.poll() is None:
            if b"Ebbtide is at" in log_path.read_bytes():
                found = json.loads((self._data / "owner-key.json").read_text())
                return Connection(**found, origin="demo")
            time.sleep(POLL_SECONDS)
        tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-10:])
        raise DemoFailed(f"ebbtide serve did not come up:\n{tail}")

    def _register(self, lab: ReplicaSetLab, client: EbbtideClient) -> Document:
        if lab.keyfile_path is None:
            raise DemoFailed("the lab has no keyfile")
        with self.timed("registering the replica set; its head joins as a hidden member"):
            registration = {
                "name": CLUSTER_NAME,
                "uri": lab.uri,
                "username": lab.backup_username,
                "password": lab.backup_password,
                "keyfile": lab.keyfile_path.read_text(),
            }
            client.add_cluster(self.group_id, registration)
            return self.wait(
                lambda: client.get_cluster(self.group_id, CLUSTER_NAME),
                done=lambda cluster: (cluster.get("head") or {}).get("state") == "FOLLOWING",
                failed=lambda cluster: (cluster.get("head") or {}).get("state") == "FAILED",
            )

    def _take_first_snapshot(self, client: EbbtideClient) -> tuple[Document, float]:
        started = time.monotonic()
        snapshot = self.take_snapshot(client)
        seconds = time.monotonic() - started
        size, stored = int(snapshot["fileSizeBytes"]), int(snapshot["newStoredBytes"])
        self.say(
            f"first snapshot: {human_bytes(size)} of files, {human_bytes(stored)} stored, {human_seconds(seconds)}"
        )
        return snapshot, seconds

    def _take_second_snapshot(
        self, lab: ReplicaSetLab, client: EbbtideClient, cluster: Document
    ) -> tuple[Document, Document]:
        time.sleep(2)  # for a few writes in between; not waited for, shown
        head = cluster["head"]
        with _head_client(lab, head["host"], int(head["port"])) as head_client:
            head_client.admin.command("fsync", lock=True)
            try:
                expected = database_hashes(head_client)
                started = time.monotonic()
                snapshot = self.take_snapshot(client)
                seconds = time.monotonic() - started
            finally:
                head_client.admin.command("fsyncUnlock")
        stored = int(snapshot["newStoredBytes"])
        self.say(
            f"second snapshot, after more writes: only {human_bytes(stored)} stored, {human_seconds(seconds)}"
        )
        return snapshot, expected

    def take_snapshot(self, client: EbbtideClient) -> Document:
        snapshot_id = str(client.create_snapshot(self.group_id, CLUSTER_NAME)["id"])
        return self.wait(
            lambda: client.get_snapshot(self.group_id, CLUSTER_NAME, snapshot_id),
            done=lambda snapshot: snapshot["state"] == "COMPLETE",
            failed=lambda snapshot: snapshot["state"] == "FAILED",
        )

    def _create_restore_job(self, client: EbbtideClient, snapshot_id: str) -> tuple[str, float]:
        started = time.monotonic()
        job = client.create_restore_job(
            self.group_id, CLUSTER_NAME, snapshot_id=snapshot_id, expiration_hours=24, max_downloads=10
        )
        ready = self.wait(
            lambda: client.get_restore_job(self.group_id, CLUSTER_NAME, str(job["id"])),
            done=lambda found: found["delivery"]["statusName"] == "READY",
            failed=lambda found: found["statusName"] in ("BROKEN", "KILLED"),
        )
        seconds = time.monotonic() - started
        self.say(
            f"restore job {ready['id']} of that snapshot: ready to download after {human_seconds(seconds)}"
        )
        return str(ready["id"]), seconds

    def download(self, client: EbbtideClient, job_id: str) -> tuple[Path, Downloaded]:
        def fetch_job() -> Document:
            return client.get_restore_job(self.group_id, CLUSTER_NAME, job_id)

        link = link_of(fetch_job(), base_url=client.base_url)
        path = self.place.work / link.file_name
        with ProgressView(self._output) as view:
            downloaded = download_to_file(
                client,
                link,
                path,
                fetch_job=fetch_job,
                report=lambda phase, done, total: view.show(phase, done=done, total=total),
            )
        self.say(
            f"downloaded {human_bytes(downloaded.size_bytes)} in {human_seconds(downloaded.seconds)}; "
            f"its SHA-1 is the one in the job's hashes: {downloaded.sha1}"
        )
        return path, downloaded

    def _restart_copies(self, archive: Path, job: Document, expected: Document) -> tuple[bool, bool]:
        with self.timed("extracting it twice"):
            plain, advanced = (self.extract(archive, name) for name in ("plain", "advanced"))
        at = start_plainly(self.binary, plain)
        at_timestamp = at is not None and _is_at(at, job["timestamp"])
        self.say(
            f"first copy, started as its restoreInfo.txt says: mongod recovered it to {at}, "
            f"{'exactly' if at_timestamp else 'NOT'} the job's timestamp"
        )
        hashes = hash_advanced(
            self.binary, advanced, socket_directory=self._socket_directory(), hash_databases=database_hashes
        )
        equal = bool(hashes == expected)
        collections = sum(len(found) for found in expected.values())
        self.say(
            f"second copy, advanced to the newest entry of its oplog: dbHash of {collections} collections "
            f"{'equals' if equal else 'DIFFERS FROM'} the head's under the snapshot's lock"
        )
        if not equal:
            self.say(f"  different: {sorted(_differences(expected, hashes))}")
        shutil.rmtree(plain.parent, ignore_errors=True)
        shutil.rmtree(advanced.parent, ignore_errors=True)
        return at_timestamp, equal

    def _show_any_second(
        self, lab: ReplicaSetLab, client: EbbtideClient, cluster: Document
    ) -> AnySecondResult:
        head = cluster["head"]
        return AnySecond(
            client=client,
            lab=lab,
            group_id=self.group_id,
            cluster_name=CLUSTER_NAME,
            open_head=lambda: _head_client(lab, head["host"], int(head["port"])),
            fetch=lambda job_id: self.extract(self.download(client, job_id)[0], "any-second"),
            hash_copy=lambda copy: hash_plainly(
                self.binary,
                copy,
                socket_directory=self._socket_directory(),
                hash_databases=recorded_hashes,
            ),
            wait=self.wait,
            say=self.say,
        ).show()

    # --- pieces -----------------------------------------------------------------------------------------------------

    @property
    def group_id(self) -> str:
        if self.connection is None or self.connection.group_id is None:
            raise DemoFailed("ebbtide serve made no project")
        return self.connection.group_id

    def extract(self, archive: Path, name: str) -> Path:
        parent = self.place.work / name
        parent.mkdir(mode=0o700)
        subprocess.run(["tar", "-xzf", str(archive), "-C", str(parent)], check=True, stdin=subprocess.DEVNULL)
        return parent / archive.name.removesuffix(".tar.gz")

    def _socket_directory(self) -> Path:
        path = self.place.root / "run"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def wait(
        self,
        look: Callable[[], Document],
        *,
        done: Callable[[Document], bool],
        failed: Callable[[Document], bool],
    ) -> Document:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            found = look()
            if done(found):
                return found
            if failed(found):
                raise JobFailed(f"the demo met a failure: {json.dumps(found)}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"the demo waited {WAIT_SECONDS:.0f} s in vain: {json.dumps(found)}")
            time.sleep(POLL_SECONDS)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        self.say(f"{what} …")
        started = time.monotonic()
        yield
        self.say(f"  done in {human_seconds(time.monotonic() - started)}")

    def facts(self, *, snapshot_ids: Sequence[str]) -> Document:
        """What `--detach --json` prints."""
        if self.connection is None or self.lab is None or self._client is None:
            raise DemoFailed("the walk has not been walked")
        cluster = self._client.get_cluster(self.group_id, CLUSTER_NAME)
        credentials = f"{self.lab.root_username}:{self.lab.root_password}"
        return {
            "base_url": self.connection.base_url,
            "public_key": self.connection.public_key,
            "private_key": self.connection.private_key,
            "group_id": self.group_id,
            "cluster_id": cluster["id"],
            "cluster_name": CLUSTER_NAME,
            "snapshot_ids": list(snapshot_ids),
            "mongodb_uri": self.lab.uri.replace("mongodb://", f"mongodb://{credentials}@", 1),
            "data_dir": str(self._data),
        }


def _head_client(lab: ReplicaSetLab, host: str, port: int) -> "MongoClient[Document]":
    return MongoClient(
        host, port, directConnection=True, username=lab.root_username, password=lab.root_password
    )


def _is_at(found: OplogTimestamp, wanted: Document) -> bool:
    """Whether `found` is the wire's `{"date", "increment"}`."""
    date = found.date.strftime("%Y-%m-%dT%H:%M:%SZ")
    return bool(date == wanted["date"] and found.increment == wanted["increment"])


def _differences(one: Document, other: Document) -> Iterator[str]:
    for database in {*one, *other}:
        left, right = one.get(database, {}), other.get(database, {})
        for name in {*left, *right}:
            if left.get(name) != right.get(name):
                yield f"{database}.{name}"


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(SERVE_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
