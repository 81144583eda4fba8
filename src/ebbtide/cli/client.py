"""A client of the API: documents in, documents out; `api_errors` says what a failure means.

Documents are the API's own JSON, as `Document`: wire names stay as they are, so that `-o json` is what the API said.
Authentication is digest, done by httpx. A request is sent once: what may be tried again is the caller's decision.
Nothing secret is in a message: no private key, no download key, no body.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from ebbtide import __version__
from ebbtide.cli.api_errors import NOT_OURS, read_refusal, translated
from ebbtide.cli.profile import Connection
from ebbtide.errors import InvalidInput, Unreachable

Document = dict[str, Any]

ATLAS = "/api/atlas/v1.0"
OWN = "/api/ebbtide/v1"

ITEMS_PER_PAGE = 500
"""The most that the API gives at once."""

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
REGISTRATION_SECONDS = 180.0
"""Registering asks every member of a set, and waits for those that do not answer."""


class Callers(Enum):
    """What logs in; the value is the segment of its paths."""

    KEYS = "keys"
    ACCOUNTS = "serviceAccounts"


class EbbtideClient:
    """One API with one key. Not for several threads; close it, or use it in a `with`."""

    def __init__(
        self,
        connection: Connection,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.connection = connection
        self.base_url = connection.base_url
        self._http = httpx.Client(
            headers={"User-Agent": f"ebbtide/{__version__}", "Accept": "application/json"},
            timeout=httpx.Timeout(read_seconds, connect=connect_seconds),
            transport=transport,
            mounts=_mounts(connection.base_url),
            follow_redirects=False,
        )
        self._digest = httpx.DigestAuth(connection.public_key, connection.private_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Groups

    def list_groups(self) -> list[Document]:
        return list(self._iter_list(f"{ATLAS}/groups"))

    # Projects and members

    def list_projects(self) -> list[Document]:
        return list(self._iter_list(f"{OWN}/groups"))

    def get_project(self, group_id: str) -> Document:
        return self._document("GET", _own_group(group_id))

    def create_project(self, name: str) -> Document:
        return self._document("POST", f"{OWN}/groups", body={"name": name})

    def rename_project(self, group_id: str, name: str) -> Document:
        return self._document("PATCH", _own_group(group_id), body={"name": name})

    def list_members(self, group_id: str) -> list[Document]:
        return list(self._iter_list(f"{_own_group(group_id)}/members"))

    def set_member_roles(self, group_id: str, member: str, roles: list[str]) -> Document:
        """In place of those that it has there; none takes it out."""
        path = f"{_own_group(group_id)}/members/{_segment(member)}"
        return self._document("PUT", path, body={"roles": roles})

    # Clusters

    def list_clusters(self, group_id: str) -> list[Document]:
        return list(self._iter_list(_clusters(group_id)))

    def get_cluster(self, group_id: str, cluster: str) -> Document:
        return self._document("GET", _cluster(group_id, cluster))

    def check_cluster(self, group_id: str, registration: Document) -> Document:
        """A dry run of `add_cluster`: `ok`, `checks`, `head`, `needs`. Nothing is stored."""
        return self._document(
            "POST",
            _clusters(group_id),
            body=registration | {"dryRun": True},
            read_seconds=REGISTRATION_SECONDS,
        )

    def add_cluster(self, group_id: str, registration: Document) -> Document:
        return self._document(
            "POST", _clusters(group_id), body=registration, read_seconds=REGISTRATION_SECONDS
        )

    def change_cluster(self, group_id: str, cluster: str, change: Document) -> Document:
        return self._document("PATCH", _cluster(group_id, cluster), body=change)

    def remove_cluster(self, group_id: str, cluster: str) -> Document:
        return self._document("DELETE", _cluster(group_id, cluster))

    def ask_head(self, group_id: str, cluster: str, what: str, body: Document | None = None) -> Document:
        """`rejoin`, `detach`, `pause`, `resume` or `certificate`: a worker does it soon after."""
        return self._document("POST", f"{_cluster(group_id, cluster)}/{what}", body=body or {})

    def set_credentials(self, group_id: str, cluster: str, body: Document) -> Document:
        """Give a cluster its credentials again. They are tried on its set, which takes seconds."""
        path = f"{_cluster(group_id, cluster)}/credentials"
        return self._document("POST", path, body=body, read_seconds=REGISTRATION_SECONDS)

    def set_restore_target(self, group_id: str, cluster: str, body: Document) -> Document:
        """Let restores replace the data of a cluster, or not any more. Asks its set, which takes seconds."""
        path = f"{_cluster(group_id, cluster)}/restoreTarget"
        return self._document("POST", path, body=body, read_seconds=REGISTRATION_SECONDS)

    # Snapshots

    def list_snapshots(self, group_id: str, cluster: str, *, deleted: bool = False) -> list[Document]:
        """All that are not deleted, whatever their state, or only the deleted ones; newest first."""
        params = {"deleted": "true"} if deleted else {}
        return list(self._iter_list(f"{_cluster(group_id, cluster)}/snapshots", params=params))

    def create_snapshot(self, group_id: str, cluster: str) -> Document:
        return self._document("POST", f"{_cluster(group_id, cluster)}/snapshots", body={})

    def get_snapshot(self, group_id: str, cluster: str, snapshot_id: str) -> Document:
        return self._document("GET", f"{_cluster(group_id, cluster)}/snapshots/{_segment(snapshot_id)}")

    def change_snapshot(self, group_id: str, cluster: str, snapshot_id: str, change: Document) -> Document:
        """Set `doNotDelete` or `expires`."""
        path = f"{_cluster(group_id, cluster)}/snapshots/{_segment(snapshot_id)}"
        return self._document("PATCH", path, body=change)

    def delete_snapshot(self, group_id: str, cluster: str, snapshot_id: str) -> None:
        self._request("DELETE", f"{_atlas_cluster(group_id, cluster)}/snapshots/{_segment(snapshot_id)}")

    def undelete_snapshot(self, group_id: str, cluster: str, snapshot_id: str) -> Document:
        path = f"{_cluster(group_id, cluster)}/snapshots/{_segment(snapshot_id)}/undelete"
        return self._document("POST", path)

    def get_schedule(self, group_id: str, cluster: str) -> Document:
        return self._document("GET", f"{_cluster(group_id, cluster)}/snapshotSchedule")

    def change_schedule(self, group_id: str, cluster: str, change: Document) -> Document:
        return self._document("PATCH", f"{_cluster(group_id, cluster)}/snapshotSchedule", body=change)

    # Hosts

    def list_hosts(self, group_id: str) -> list[Document]:
        return list(self._iter_list(_hosts(group_id)))

    def declare_host(self, group_id: str, declaration: Document) -> Document:
        return self._document("POST", _hosts(group_id), body=declaration, read_seconds=REGISTRATION_SECONDS)

    def get_host(self, group_id: str, host_id: str) -> Document:
        return self._document("GET", f"{_hosts(group_id)}/{_segment(host_id)}")

    def remove_host(self, group_id: str, host_id: str) -> Document:
        return self._document("DELETE", f"{_hosts(group_id)}/{_segment(host_id)}")

    def create_host_snapshot(self, group_id: str, host_id: str) -> Document:
        return self._document("POST", f"{_hosts(group_id)}/{_segment(host_id)}/snapshots", body={})

    def get_host_snapshot(self, group_id: str, host_id: str, snapshot_id: str) -> Document:
        return self._document(
            "GET", f"{_hosts(group_id)}/{_segment(host_id)}/snapshots/{_segment(snapshot_id)}"
        )

    # Repository

    def start_prune(self, *, dry_run: bool) -> Document:
        return self._document("POST", f"{OWN}/repository/prune", body={"dryRun": dry_run})

    def get_prune(self, run_id: str) -> Document:
        return self._document("GET", f"{OWN}/repository/prune/{_segment(run_id)}")

    # Restore jobs

    def list_restore_jobs(
        self, group_id: str, cluster: str, *, batch_id: str | None = None
    ) -> list[Document]:
        """Newest first, as the restore-jobs API shows them; with `batch_id` those of that batch."""
        params = None if batch_id is None else {"batchId": batch_id}
        return list(self._iter_list(_restore_jobs(group_id, cluster), params=params))

    def create_restore_job(
        self, group_id: str, cluster: str, *, snapshot_id: str, expiration_hours: int, max_downloads: int
    ) -> Document:
        """Ask for a download of one snapshot of a replica set; the one job that this makes."""
        jobs = self.create_restore_jobs(
            group_id,
            cluster,
            snapshot_id=snapshot_id,
            expiration_hours=expiration_hours,
            max_downloads=max_downloads,
        )
        if len(jobs) != 1:
            raise Unreachable(f"{self.base_url} answered with something else than one restore job")
        return jobs[0]

    def create_restore_jobs(
        self, group_id: str, cluster: str, *, snapshot_id: str, expiration_hours: int, max_downloads: int
    ) -> list[Document]:
        """The same for any cluster; of a sharded one each part has a job, and all have one `batchId`."""
        delivery = {
            "methodName": "HTTP",
            "expirationHours": expiration_hours,
            "maxDownloads": max_downloads,
        }
        answer = self._document(
            "POST",
            _restore_jobs(group_id, cluster),
            body={"delivery": delivery, "snapshotId": snapshot_id},
            read_seconds=REGISTRATION_SECONDS,
        )
        jobs = answer.get("results")
        if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
            raise Unreachable(f"{self.base_url} answered with something else than restore jobs")
        return jobs

    def create_point_in_time_restore(
        self,
        group_id: str,
        cluster: str,
        *,
        point: Mapping[str, Any],
        expiration_hours: int,
        max_downloads: int,
    ) -> Document:
        """Ask for a download of a moment, as the API takes it; the job, as Ebbtide's own API shows it. Of a sharded
        cluster: `batchId`, and `jobs` with one for each part."""
        return self._document(
            "POST",
            f"{_own_group(group_id)}/clusters/{_segment(cluster)}/restoreJobs",
            body={"expirationHours": expiration_hours, "maxDownloads": max_downloads, **point},
            read_seconds=REGISTRATION_SECONDS,
        )

    def get_restore_job(self, group_id: str, cluster: str, job_id: str) -> Document:
        """The job as the restore-jobs API shows it: its delivery with the link, and `hashes`."""
        return self._document("GET", f"{_restore_jobs(group_id, cluster)}/{_segment(job_id)}")

    def get_restore_progress(self, group_id: str, job_id: str) -> Document:
        """The job as Ebbtide's own API shows it: its progress, its reason, its transfers."""
        return self._document("GET", f"{_own_group(group_id)}/restoreJobs/{_segment(job_id)}")

    def cancel_restore_job(self, group_id: str, job_id: str) -> Document:
        return self._document("POST", f"{_own_group(group_id)}/restoreJobs/{_segment(job_id)}/cancel")

    def create_automated_restore(self, group_id: str, cluster: str, body: Document) -> Document:
        """A restore into a running cluster, or with `dryRun` its plan. Asks its set, which takes seconds."""
        path = f"{_cluster(group_id, cluster)}/automatedRestores"
        return self._document("POST", path, body=body, read_seconds=REGISTRATION_SECONDS)

    def undo_restore(self, group_id: str, job_id: str, body: Document) -> Document:
        """The restore that takes another one back, or with `dryRun` its plan."""
        path = f"{_own_group(group_id)}/restoreJobs/{_segment(job_id)}/undo"
        return self._document("POST", path, body=body, read_seconds=REGISTRATION_SECONDS)

    # Events, keys, status

    def list_checkpoints(self, group_id: str, cluster: str) -> list[Document]:
        return list(self._iter_list(f"{_cluster(group_id, cluster)}/checkpoints"))

    def create_checkpoint(self, group_id: str, cluster: str) -> Document:
        return self._document("POST", f"{_cluster(group_id, cluster)}/checkpoints", body={})

    def get_checkpoint(self, group_id: str, cluster: str, checkpoint_id: str) -> Document:
        return self._document("GET", f"{_cluster(group_id, cluster)}/checkpoints/{_segment(checkpoint_id)}")

    def get_oplog_ranges(self, group_id: str, cluster: str) -> Document:
        """What the cluster's oplog archive holds, and which moments can be restored."""
        return self._document("GET", f"{_cluster(group_id, cluster)}/oplogRanges")

    def list_events(self, group_id: str, *, cluster: str | None, limit: int) -> list[Document]:
        """The newest `limit` events, newest first; of one cluster if it is named."""
        params = {"clusterName": cluster} if cluster else {}
        found: list[Document] = []
        for event in self._iter_list(f"{_own_group(group_id)}/events", params=params, per_page=limit):
            found.append(event)
            if len(found) == limit:
                break
        return found

    def list_keys(self) -> list[Document]:
        return self.list_callers(Callers.KEYS)

    def list_callers(self, kind: Callers) -> list[Document]:
        return list(self._iter_list(f"{OWN}/{kind.value}"))

    def get_caller(self, kind: Callers, name: str) -> Document:
        return self._document("GET", _caller(kind, name))

    def create_caller(self, kind: Callers, body: Document) -> Document:
        """The answer alone has the private key, or the secret."""
        return self._document("POST", f"{OWN}/{kind.value}", body=body)

    def change_caller(self, kind: Callers, name: str, change: Document) -> Document:
        return self._document("PATCH", _caller(kind, name), body=change)

    def end_caller(self, kind: Callers, name: str) -> None:
        self._document("DELETE", _caller(kind, name))

    def rotate_key(self, public_key: str) -> Document:
        return self._document("POST", f"{_caller(Callers.KEYS, public_key)}/rotate", body={})

    def add_secret(self, client_id: str, body: Document) -> Document:
        return self._document("POST", f"{_caller(Callers.ACCOUNTS, client_id)}/secrets", body=body)

    def remove_secret(self, client_id: str, secret_id: str) -> Document:
        secrets = f"{_caller(Callers.ACCOUNTS, client_id)}/secrets"
        return self._document("DELETE", f"{secrets}/{_segment(secret_id)}")

    def allow_addresses(self, kind: Callers, name: str, entries: list[Document]) -> Document:
        return self._document("POST", f"{_caller(kind, name)}/accessList", body=entries)

    def disallow_address(self, kind: Callers, name: str, entry: str) -> Document:
        return self._document("DELETE", f"{_caller(kind, name)}/accessList/{_segment(entry)}")

    def get_status(self) -> Document:
        return self._document("GET", f"{OWN}/status")

    # Downloads

    @contextmanager
    def open_download(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """A running GET of a download link, without digest: the link carries its own key.

        Raises ApiRefusal for any answer that is not 200, 206 or 416.
        """
        request = self._http.build_request("GET", url, headers={"Accept": "*/*", **headers})
        with translated(self.base_url):
            response = self._http.send(request, stream=True, auth=None)
        try:
            if response.status_code not in (200, 206, 416):
                with translated(self.base_url):
                    response.read()
                raise read_refusal(response, self.base_url)
            yield response
        finally:
            response.close()

    # Below: one request

    def _iter_list(
        self, path: str, *, params: Mapping[str, str] | None = None, per_page: int = ITEMS_PER_PAGE
    ) -> Iterator[Document]:
        """Every entity of a list, page after page, until a page is not full."""
        items = max(1, min(per_page, ITEMS_PER_PAGE))
        page = 1
        while True:
            query = {
                **(params or {}),
                "pageNum": str(page),
                "itemsPerPage": str(items),
                "includeCount": "false",
            }
            answer = self._request("GET", path, params=query)
            results = answer.get("results") if isinstance(answer, dict) else answer
            if not isinstance(results, list):
                raise Unreachable(f"{self.base_url}{path} answered with something else than a list")
            yield from results
            if len(results) < items:
                return
            page += 1

    def _document(
        self, method: str, path: str, *, body: object = None, read_seconds: float | None = None
    ) -> Document:
        answer = self._request(method, path, body=body, read_seconds=read_seconds)
        if not isinstance(answer, dict):
            raise Unreachable(f"{self.base_url}{path} answered with something else than a document")
        return answer

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        read_seconds: float | None = None,
    ) -> Any:
        request = self._http.build_request(
            method,
            self.base_url + path,
            params=dict(params) if params else None,
            json=body,
            timeout=httpx.Timeout(read_seconds, connect=CONNECT_SECONDS)
            if read_seconds is not None
            else self._http.timeout,
        )
        with translated(self.base_url):
            response = self._http.send(request, auth=self._digest)
        if response.status_code >= 300:
            raise read_refusal(response, self.base_url)
        if response.status_code == 204:
            return {}
        try:
            return response.json()
        except ValueError as error:
            raise Unreachable(
                f"{self.base_url} answered with something that is not JSON", hint=NOT_OURS
            ) from error


def _caller(kind: Callers, name: str) -> str:
    return f"{OWN}/{kind.value}/{_segment(name)}"


def _own_group(group_id: str) -> str:
    return f"{OWN}/groups/{_segment(group_id)}"


def _hosts(group_id: str) -> str:
    return f"{OWN}/groups/{_segment(group_id)}/hosts"


def _clusters(group_id: str) -> str:
    return f"{_own_group(group_id)}/clusters"


def _cluster(group_id: str, cluster: str) -> str:
    return f"{_clusters(group_id)}/{_segment(cluster)}"


def _restore_jobs(group_id: str, cluster: str) -> str:
    return f"{_atlas_cluster(group_id, cluster)}/restoreJobs"


def _atlas_cluster(group_id: str, cluster: str) -> str:
    return f"{ATLAS}/groups/{_segment(group_id)}/clusters/{_segment(cluster)}"


def _segment(text: str) -> str:
    """`text` as one segment of a path. Raises InvalidInput for what a URL would take for something else."""
    if text in ("", ".", ".."):
        raise InvalidInput("name or id", expected="a name or an id", got=text)
    return quote(text, safe="")


def _mounts(base_url: str) -> dict[str, httpx.BaseTransport | None] | None:
    """A proxy set for the outside world cannot reach this machine's loopback: keep it out of that."""
    host = httpx.URL(base_url).host
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    shown = f"[{host}]" if ":" in host else host
    return {f"all://{shown}": None} if loopback else None
