"""Reaching a host, and its lock: taken for as long as its documents are copied, and never left behind.

The lock survives the client that took it, so the intention is in the catalog first (`Host.lock_job_id`), and whoever
finds one whose job does not run unlocks. The host's writers wait meanwhile; reads go on.

Crash: the host is locked, and the catalog says so; the job's next attempt, or else the worker's tidying, unlocks it.
"""

from typing import Any

import structlog
from pymongo import MongoClient

from ebbtide.backup.context import BackupContext
from ebbtide.backup.head_lock import LOCK_SECONDS_MAX, unlock_once
from ebbtide.crash_points import reach
from ebbtide.domain.host import Host, HostId
from ebbtide.domain.job import JobState
from ebbtide.errors import EbbtideError, SnapshotUnusable
from ebbtide.mongod.deployment import Credentials, connect_to_member, run_admin
from ebbtide.sealing import ServiceKey

Document = dict[str, Any]

LOOK_SECONDS = 3.0
"""How long a host that was left locked may hold up the worker's loop."""

_log = structlog.get_logger()


def connect_to_host(
    host: Host, service_key: ServiceKey, *, timeout_seconds: float = 10.0
) -> MongoClient[Document]:
    """A client of the host, logged in as the account that it was declared with. Raises SealBroken."""
    login = None
    if host.username is not None and host.password is not None:
        password = service_key.open(host.password, record_id=host.id).decode()
        login = Credentials(username=host.username, password=password, auth_source=host.auth_source)
    return connect_to_member(host.address, login, timeout_seconds=timeout_seconds)


class HostLock:
    """The lock that one job has on one host."""

    def __init__(self, client: MongoClient[Document], host_id: HostId, job_id: str, context: BackupContext):
        self._client = client
        self._host_id = host_id
        self._job_id = job_id
        self._hosts = context.catalog.hosts

    def take(self) -> None:
        """Raises Unreachable, DeploymentError."""
        self._hosts.set_lock(self._host_id, self._job_id)
        reach("host.lock_intended")
        run_admin(self._client, "fsync", lock=True, maxTimeMS=LOCK_SECONDS_MAX * 1000)
        reach("host.locked")

    def release(self) -> None:
        """Unlock. Raises SnapshotUnusable where the host was not locked any more: then it may have changed."""
        if not unlock_once(self._client):
            self._hosts.set_lock(self._host_id, None)
            raise SnapshotUnusable(
                "the host restarted, or somebody unlocked it, while it was copied",
                hint="what was copied is thrown away, and the snapshot is taken again",
            )
        reach("host.unlocked")
        self._hosts.set_lock(self._host_id, None)


def unlock_left(host: Host, context: BackupContext, *, timeout_seconds: float = 10.0) -> None:
    """Undo the lock that the catalog tells of; harmless where the host is not locked.

    Raises Unreachable, DeploymentError, SealBroken: then the catalog tells of it still.
    """
    with connect_to_host(host, context.service_key, timeout_seconds=timeout_seconds) as client:
        if unlock_once(client):
            _log.info("host.unlocked_leftover", host=host.address)
    context.catalog.hosts.set_lock(host.id, None)


def unlock_abandoned(context: BackupContext) -> None:
    """Unlock hosts whose job is over or gone. One that does not answer is looked at again the next time."""
    for host in context.catalog.hosts.list_locked():
        job = context.catalog.jobs.find(host.lock_job_id or "")
        if job is not None and job.state in (JobState.QUEUED, JobState.RUNNING):
            continue
        try:
            unlock_left(host, context, timeout_seconds=LOOK_SECONDS)
        except EbbtideError as error:
            _log.warning("host.left_locked", host=host.address, message=str(error))
