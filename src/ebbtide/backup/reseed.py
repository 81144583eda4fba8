"""Giving a head its data again: from the newest snapshot where the set's oplog reaches back to it, else by initial sync.

A head loses its files by accident, by damage, because it moved to another data directory, or because it fell off the
oplog. It is rebuilt at the same host:port, so to the set it is the member that was away for a while.

    wipe        whatever is left in the dbpath goes
    plan        `plan_reseed`: which snapshot, or why none will do
    lay down    its files, every block verified; a damaged snapshot is said and passed over

Only a manifest of kind SNAPSHOT becomes a `ReseedBase`: a replayed result has no timestamp to go on from.

Crash: a dbpath without the file `WiredTiger`, which materialising puts in place last. The keeper takes such a dbpath for
one without files, and begins again.
Threads: the keeper's own; progress comes from those that write.
"""

import shutil
import threading
from pathlib import Path
from typing import Any

import structlog
from pymongo import MongoClient

from ebbtide.backup.context import BackupContext
from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.domain.cluster import Cluster, ClusterState, Head, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.progress import Progress
from ebbtide.domain.replica_set import find_in_status, join_host_port
from ebbtide.domain.reseed import (
    FromSnapshot,
    InitialSync,
    ReseedBase,
    followed_hosts,
    has_fallen_off,
    newest_base,
    plan_reseed,
)
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import EbbtideError, HeadUnavailable, IntegrityError, LeaseLost, ObjectNotFound
from ebbtide.events import record_event
from ebbtide.jobs.progress import ThrottledProgress
from ebbtide.mongod import deployment
from ebbtide.mongod.ports import is_bindable
from ebbtide.repository.manifest import Manifest, ManifestKind
from ebbtide.repository.materialise import LAST_FILE, materialise

Document = dict[str, Any]

MEMBER_SECONDS = 5.0
"""How long a member may take to say how far back its oplog reaches."""

LOOK_SECONDS = 2.0
"""How often a rebuild looks whether the cluster is still wanted."""

LOG_BYTES_MAX = 1024 * 1024
"""Far more than a mongod logs before it fails over its files, a backtrace included."""

_log = structlog.get_logger()


def has_files(dbpath: Path) -> bool:
    """Whether a mongod has begun with this dbpath, or a snapshot was laid down in it whole."""
    return (dbpath / LAST_FILE).exists()


def wipe(dbpath: Path) -> None:
    """Remove a dbpath with all that is in it. The mongod must have ended. Raises OSError."""
    # First what makes it pass for one with files: a wipe that stops half-way is gone on with, not started.
    (dbpath / LAST_FILE).unlink(missing_ok=True)
    if dbpath.exists():
        shutil.rmtree(dbpath)


def log_length(path: Path) -> int:
    """Bytes of a log; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def read_log_from(path: Path, start_bytes: int) -> str:
    """What was logged since the log was `start_bytes` long; LOG_BYTES_MAX of it at most."""
    try:
        with path.open("rb") as file:
            file.seek(start_bytes)
            return file.read(LOG_BYTES_MAX).decode(errors="replace")
    except FileNotFoundError:
        return ""


def reseed_base(manifest: Manifest) -> ReseedBase | None:
    """What a head may be built from; None for a manifest that is for delivery only."""
    if manifest.kind is not ManifestKind.SNAPSHOT:
        return None
    return ReseedBase(
        snapshot_id=manifest.snapshot_id, stable_timestamp=manifest.stable_timestamp, fcv=manifest.fcv
    )


def is_too_stale(head: Head, *, access: ClusterAccess, head_client: MongoClient[Document]) -> bool:
    """Whether the running head has fallen off the oplog. Asks other members only if it may have. Raises EbbtideError."""
    status = deployment.run_admin(head_client, "replSetGetStatus")
    own = find_in_status(status, join_host_port(head.host, head.port)) or {}
    newest = own.get("optime", {}).get("ts")
    newest = None if newest is None else OplogTimestamp.from_bson(newest)
    state = str(own.get("stateStr", ""))
    hosts = [m["name"] for m in status["members"] if m["stateStr"] in ("PRIMARY", "SECONDARY")]
    if not has_fallen_off(state=state, newest=newest, oplog_oldest=[OplogTimestamp(2**32 - 1, 0)]):
        return False
    return has_fallen_off(state=state, newest=newest, oplog_oldest=_oldest_entries(hosts, access))


def _oldest_entries(hosts: list[str], access: ClusterAccess) -> list[OplogTimestamp]:
    """The oldest oplog entry of each member that answers."""
    found = []
    for host in hosts:
        client = access.member_client(host, timeout_seconds=MEMBER_SECONDS)
        try:
            with deployment.translated_errors(f"the oplog of {host}"):
                oldest = client.local["oplog.rs"].find_one(sort=[("$natural", 1)], projection={"ts": 1})
        except EbbtideError as error:
            _log.info("reseed.member_not_asked", host=host, message=error.message)
            continue
        finally:
            client.close()
        if oldest is not None:
            found.append(OplogTimestamp.from_bson(oldest["ts"]))
    return found


class HeadRebuild:
    """One attempt to give one head its data again. `run` returns when its mongod may be started."""

    def __init__(
        self,
        cluster: Cluster,
        head: Head,
        *,
        context: BackupContext,
        access: ClusterAccess,
        stopping: threading.Event,
    ) -> None:
        self._cluster = cluster
        self._head = head
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._access = access
        self._stopping = stopping
        self._looked_at = float("-inf")
        self._dbpath = context.head_directory(cluster) / "db"
        self._store = context.repository.replica_set(cluster.id, cluster.replica_set_name)

    def run(self) -> None:
        """Wipe, choose, lay down. Raises HeadUnavailable, Unreachable, StorageError, LeaseLost; it can be run again."""
        self._require_address()
        client = self._access.set_client()
        try:
            configuration = deployment.get_configuration(client)
            fcv = deployment.get_fcv(client)
            total_bytes = deployment.data_bytes(client)
        finally:
            client.close()
        address = join_host_port(self._head.host, self._head.port)
        oldest = _oldest_entries(followed_hosts(configuration, head=address), self._access)
        wipe(self._dbpath)
        manifests = self._load_manifests()
        while True:
            bases = [base for manifest in manifests.values() if (base := reseed_base(manifest)) is not None]
            match plan_reseed(newest_base(bases), oplog_oldest=oldest, fcv=fcv):
                case InitialSync(reason=reason):
                    self._begin_initial_sync(reason, total_bytes=total_bytes)
                    return
                case FromSnapshot(base=base):
                    if self._lay_down(manifests.pop(base.snapshot_id)):
                        return

    def _require_address(self) -> None:
        """Before a copy is made in vain: where the head moved, the one before it may still run."""
        if not is_bindable(self._head.host, self._head.port):
            raise HeadUnavailable(
                f"something listens at {join_host_port(self._head.host, self._head.port)} already",
                hint="the head of another data directory, perhaps: stop it, and this one is built",
            )

    def _load_manifests(self) -> dict[str, Manifest]:
        """The manifests of all complete snapshots, by id; what cannot be read is said and left out."""
        found: dict[str, Manifest] = {}
        for snapshot in self._catalog.snapshots.list_in_state(self._cluster.id, SnapshotState.COMPLETE):
            try:
                found[snapshot.id] = self._store.load_manifest(snapshot.id)
            except (IntegrityError, ObjectNotFound) as error:
                self._say_damaged(snapshot.id, error)
        return found

    def _lay_down(self, manifest: Manifest) -> bool:
        """Whether the snapshot's files are there, whole; one that is damaged leaves nothing."""
        self._update(
            state=HeadState.RESEEDING,
            state_since=self._clock.now(),
            message=f"the files of snapshot {manifest.snapshot_id} are laid down",
            sync_started=self._clock.now(),
            sync_done_bytes=0,
            sync_total_bytes=manifest.plain_bytes,
            lock_job_id=None,
        )
        try:
            materialise(
                self._store,
                manifest,
                self._dbpath,
                threads=self._context.threads,
                progress=ThrottledProgress(self._note_progress, self._clock),
                check_cancelled=self._check_stopping,
            )
        except (IntegrityError, ObjectNotFound) as error:
            self._say_damaged(manifest.snapshot_id, error)
            wipe(self._dbpath)
            return False
        self._update(message=f"built from snapshot {manifest.snapshot_id}; it catches up from the oplog")
        self._event(
            EventLevel.INFO,
            "head.reseeded",
            f"the head of {self._cluster.name} was built anew from snapshot {manifest.snapshot_id}",
        )
        return True

    def _begin_initial_sync(self, reason: str, *, total_bytes: int) -> None:
        self._update(
            state=HeadState.SYNCING,
            state_since=self._clock.now(),
            message=f"initial sync copies the data again: {reason}",
            sync_started=self._clock.now(),
            sync_done_bytes=0,
            sync_total_bytes=total_bytes,
            lock_job_id=None,
        )
        self._event(
            EventLevel.WARNING,
            "head.initial_sync",
            f"the head of {self._cluster.name} copies all data from its set again: {reason}",
        )

    # --- records --------------------------------------------------------------------------------------------------

    def _note_progress(self, progress: Progress) -> None:
        self._update(sync_done_bytes=progress.done)

    def _check_stopping(self) -> None:
        """Laying down may take hours: a worker that stops, and a cluster that is removed, do not wait for it."""
        if self._stopping.is_set():
            raise HeadUnavailable(
                "the worker stops; the head's files are laid down anew after its next start"
            )
        if self._clock.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = self._clock.monotonic()
        cluster = self._catalog.clusters.find(self._cluster.id)
        if cluster is None or cluster.state is not ClusterState.ACTIVE:
            raise HeadUnavailable("the cluster is being removed")

    def _say_damaged(self, snapshot_id: str, error: EbbtideError) -> None:
        self._event(
            EventLevel.ERROR,
            "repository.damaged",
            f"snapshot {snapshot_id} cannot be used to build the head of {self._cluster.name}: {error}",
        )

    def _update(self, **changes: Any) -> None:
        updated = self._catalog.heads.update(
            self._cluster.id, worker_id=self._context.worker_id, now=self._clock.now(), **changes
        )
        if updated is None:
            raise LeaseLost("another worker keeps this head")

    def _event(self, level: EventLevel, kind: str, message: str) -> None:
        record_event(
            self._catalog,
            self._clock,
            level=level,
            kind=kind,
            message=message,
            group_id=self._cluster.group_id,
            cluster_id=self._cluster.id,
        )
