"""The API's speed: a list of 100 restore jobs against a plain route over the same documents, and its worst times while a
snapshot is taken.
"""

import hashlib
import http.client
import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from random import Random
from urllib.parse import urlsplit

from bench.api_baseline import JOBS
from bench.rows import Row, faster, within
from ebbtide.catalog.catalog import Catalog
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.ids import ClusterId, RestoreJobId, new_id
from ebbtide.domain.restore_job import READY, RestoreJob
from ebbtide.domain.snapshot import Snapshot
from ebbtide.errors import NotFound
from ebbtide.mongod.ports import free_port
from ebbtide.restore.links import seal_new_download_key
from ebbtide.sealing import ServiceKey
from ebbtide.settings import resolve_settings
from ebbtide.testing.service import Owner
from ebbtide.testing.workload import churn

CALLS = 100
"""Of each side in a round of the list."""

IDLE_CALLS = 1000
"""A 99th percentile of fewer says little."""

CHURN_OPERATIONS = 3_000
SERVER_READY_SECONDS = 30.0
_TIMEOUT_SECONDS = 60.0


class DigestConnection:
    """One connection that logs in as HTTP clients do: a challenge once, then the same nonce with a rising count."""

    def __init__(self, url: str, *, user: str, password: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS
        )
        self._user, self._password = user, password
        self._realm = self._nonce = ""
        self._count = 0

    def get(self, target: str) -> bytes:
        """The body of a 200. Raises ValueError for any other answer."""
        if not self._nonce:
            self._learn(target)
        answer = self._send(target, {"Authorization": self._authorization(target)})
        content = answer.read()
        if answer.status == 401 and "stale=true" in answer.headers.get("WWW-Authenticate", ""):
            self._nonce = ""
            return self.get(target)
        if answer.status != 200:
            raise ValueError(f"{target} was answered with {answer.status}: {content[:200]!r}")
        return content

    def close(self) -> None:
        self._connection.close()

    def _learn(self, target: str) -> None:
        answer = self._send(target, {})
        answer.read()
        told = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers["WWW-Authenticate"]))
        self._realm, self._nonce, self._count = told["realm"], told["nonce"], 0

    def _send(self, target: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        try:
            self._connection.request("GET", target, headers=headers)
            return self._connection.getresponse()
        except http.client.RemoteDisconnected:
            # It was idle for so long that the server closed it; the next request opens another.
            self._connection.close()
            self._connection.request("GET", target, headers=headers)
            return self._connection.getresponse()

    def _authorization(self, target: str) -> str:
        self._count += 1
        count, own_nonce = f"{self._count:08x}", secrets.token_hex(8)
        secret = _md5(f"{self._user}:{self._realm}:{self._password}")
        response = _md5(f"{secret}:{self._nonce}:{count}:{own_nonce}:auth:{_md5(f'GET:{target}')}")
        return (
            f'Digest username="{self._user}", realm="{self._realm}", nonce="{self._nonce}", uri="{target}", '
            f'response="{response}", qop=auth, nc={count}, cnonce="{own_nonce}"'
        )


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def measure(owner: Owner, *, rounds: int) -> Iterator[Row]:
    """Both rows, on the owner's cluster, which has a complete snapshot."""
    with owner.service.catalog() as catalog, closing(_connection(owner)) as connection:
        _make_jobs(owner, catalog)
        target = (
            f"/api/atlas/v1.0/groups/{owner.group_id}/clusters/{owner.name}/restoreJobs?itemsPerPage={JOBS}"
        )
        if len(json.loads(connection.get(target))["results"]) != JOBS:
            raise ValueError("the list is not of the jobs that were made")
        yield _measure_list(owner, connection, target, rounds=rounds)
        yield _measure_under_load(owner, connection, target, rounds=rounds)


def _catalog_uri(owner: Owner) -> str:
    settings = resolve_settings(flags={}, environment={}, file=None)
    return DataDirectory.at(owner.service.data).catalog_uri(settings)


def _connection(owner: Owner) -> DigestConnection:
    profile = owner.service.connection
    return DigestConnection(owner.service.base_url, user=profile.public_key, password=profile.private_key)


def _make_jobs(owner: Owner, catalog: Catalog) -> None:
    """Jobs whose links are ready, as a cluster's list has them after a while."""
    cluster_id = ClusterId(owner.cluster()["id"])
    snapshot = catalog.snapshots.newest_complete(cluster_id)
    if snapshot is None:
        raise NotFound("there is no snapshot to make restore jobs of")
    key = ServiceKey.load_or_create(owner.service.data / "secret.key")
    for number in range(JOBS):
        catalog.restore_jobs.insert(_ready_job(snapshot, number, key))


def _ready_job(snapshot: Snapshot, number: int, key: ServiceKey) -> RestoreJob:
    if snapshot.stable_timestamp is None:
        raise NotFound("the snapshot is not complete")
    job_id = RestoreJobId(new_id())
    # In the future, so that no other job is on the page.
    created = snapshot.created + timedelta(days=1, seconds=number)
    job = RestoreJob(
        id=job_id,
        group_id=snapshot.group_id,
        cluster_id=snapshot.cluster_id,
        cluster_name=snapshot.cluster_name,
        replica_set_name=snapshot.replica_set_name,
        snapshot_id=snapshot.id,
        created=created,
        status=READY[0],
        delivery_status=READY[1],
        timestamp=snapshot.stable_timestamp,
        expiration_hours=48,
        max_downloads=1,
        requested_by="bench",
        expires=created + timedelta(hours=48),
        file_name=f"{snapshot.replica_set_name}-{snapshot.stable_timestamp.seconds}-{job_id}.tar.gz",
        archive_bytes=snapshot.stored_bytes,
        ready=created,
    )
    return replace(job, download_key=seal_new_download_key(job, key))


def _measure_list(owner: Owner, connection: DigestConnection, target: str, *, rounds: int) -> Row:
    plain, ours = [], []
    with _baseline(owner) as fetch:
        for _ in range(rounds):
            plain.append(_seconds_for(CALLS, fetch))
            ours.append(_seconds_for(CALLS, lambda: connection.get(target)))
    how = (
        f"lists of {JOBS} jobs with their links a second, logged in, against a FastAPI route without all that"
    )
    return faster("API, list of 100 jobs", how, ours=ours, plain=plain, goal=0.7)


@contextmanager
def _baseline(owner: Owner) -> Iterator[Callable[[], bytes]]:
    """A running baseline, as a function that fetches its list once."""
    port = free_port()
    arguments = [_catalog_uri(owner), str(owner.cluster()["id"]), str(port)]
    server = subprocess.Popen([sys.executable, "-m", "bench.api_baseline", *arguments])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)

    def fetch() -> bytes:
        try:
            connection.request("GET", "/jobs")
            return connection.getresponse().read()
        except OSError:
            connection.close()
            raise

    try:
        _wait_until_it_answers(fetch)
        yield fetch
    finally:
        connection.close()
        server.terminate()
        server.wait()


def _wait_until_it_answers(fetch: Callable[[], bytes]) -> None:
    deadline = time.monotonic() + SERVER_READY_SECONDS
    while True:
        try:
            if len(json.loads(fetch())) == JOBS:
                return
            raise ValueError("the baseline's list is not of the jobs that were made")
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _seconds_for(calls: int, call: Callable[[], bytes]) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - started


def _measure_under_load(owner: Owner, connection: DigestConnection, target: str, *, rounds: int) -> Row:
    idle, busy = [], []
    for number in range(rounds):
        times = [_seconds_for(1, lambda: connection.get(target)) for _ in range(IDLE_CALLS)]
        idle.append(percentile(times, 0.99))
        with owner.lab.client(w="majority") as client:
            churn(client, rng=Random(100 + number), operations=CHURN_OPERATIONS)
        snapshot_id = owner.start_snapshot()
        times = []
        while not times or owner.snapshot(snapshot_id)["state"] == "IN_PROGRESS":
            times += [_seconds_for(1, lambda: connection.get(target)) for _ in range(20)]
        busy.append(percentile(times, 0.99))
    how = (
        "99th percentile of the list's time while a snapshot is taken, against the same while nothing is done"
    )
    return within("API, p99 while a snapshot runs", how, ours=busy, base=idle, goal=5.0)


def percentile(values: list[float], part: float) -> float:
    """The value that `part` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
