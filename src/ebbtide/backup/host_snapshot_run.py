"""Taking a snapshot of a host: it is copied over the wire, and the copy's files are stored.

    prepare   a lock and files that an interrupted attempt left are undone; what is committed skips to `record`
    copy      an empty mongod is started in scratch; the host is locked, its documents are copied, it is unlocked;
              indexes are built; the mongod shuts down
    store     its files become packs and recipes
    commit    the manifest: from here on the snapshot exists
    record    the catalog lists it as complete

The files are another mongod's than those of the snapshot before, so nothing is shared between snapshots of a host. They
open at no known oplog timestamp: in its place is the host's own clock when it was locked, with increment 1.
"""

import time
from datetime import UTC
from pathlib import Path
from typing import Any

from ebbtide.backup.context import BackupContext
from ebbtide.backup.head_sources import list_stopped_sources
from ebbtide.backup.host_access import HostLock, connect_to_host, unlock_left
from ebbtide.backup.host_copy import complete_copy, copy_documents
from ebbtide.backup.prune_guard import wait_until_not_pruned
from ebbtide.backup.space_guard import SpaceGuard
from ebbtide.crash_points import reach
from ebbtide.domain.event import EventLevel
from ebbtide.domain.host import HOST_FACT, SET_NAME, Host, check_standalone
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.replica_set import major_version
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import EbbtideError, MongodBinaryMissing, NotFound, SnapshotUnusable
from ebbtide.events import record_event
from ebbtide.jobs.runner import Ending, JobRun, Step
from ebbtide.mongod.binary import find_mongod, find_mongod_of, mongod_version
from ebbtide.mongod.deployment import data_bytes, get_fcv, run_admin
from ebbtide.repository.manifest import Manifest, ManifestKind
from ebbtide.repository.repository import ReplicaSetStore
from ebbtide.repository.writer import StoredFiles, store_files
from ebbtide.restore.scratch_mongod import ScratchFiles, cache_gb, running
from ebbtide.restore.source import require_space, scratch_directory, wipe_scratch
from ebbtide.settings import Settings
from ebbtide.storage.throttled import stoppable

Document = dict[str, Any]


class HostSnapshotRun:
    """One attempt at one snapshot of a host. `steps` and `ending` are for the runner."""

    def __init__(self, run: JobRun, *, context: BackupContext) -> None:
        self._run = run
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        snapshot = context.catalog.snapshots.find(SnapshotId(run.job.subject_id))
        host = context.catalog.hosts.find_by_store(run.job.cluster_id)
        if snapshot is None or host is None:
            raise NotFound(f"snapshot {run.job.subject_id} or its host is not in the catalog")
        self._snapshot: Snapshot = snapshot
        self._host: Host = host
        storage = stoppable(context.repository.storage, self._check)
        self._store = ReplicaSetStore(storage, cluster_id=host.store_id, replica_set_name=SET_NAME)
        self._space = SpaceGuard(storage, settings=context.settings, clock=context.clock)
        self._directory = scratch_directory(context, snapshot.id)
        self._facts: Document = {}
        self._stored: StoredFiles | None = None
        self._manifest: Manifest | None = None

    def steps(self) -> list[Step]:
        return [
            Step(name="prepare", run=self._prepare),
            Step(name="copy", run=self._copy),
            Step(name="store", run=self._store_files),
            Step(name="commit", run=self._commit),
            Step(name="record", run=self._record),
        ]

    def ending(self) -> Ending:
        return Ending(
            always=self._clean_up,
            gave_up=self._give_up,
            cancelled=lambda: self._give_up("cancelled by a person"),
        )

    # --- steps ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Crash: nothing is left but what was there before."""
        wait_until_not_pruned(
            self._host.store_id,
            catalog=self._catalog,
            clock=self._clock,
            check_cancelled=self._run.check,
        )
        wipe_scratch(self._directory)
        self._undo_lock()
        if self._store.has_snapshot(self._snapshot.id):
            self._manifest = self._store.load_manifest(self._snapshot.id)
            return
        self._store.discard_attempts(self._snapshot.id, check_owner=self._run.check_owner)

    def _copy(self) -> None:
        """Crash: the host may be locked, and the catalog says so; files in scratch, which the worker sweeps."""
        if self._manifest is not None:
            return
        self._space.check_now()
        with connect_to_host(self._host, self._context.service_key) as source:
            check_standalone(run_admin(source, "hello"), address=self._host.address)
            version = str(run_admin(source, "buildInfo")["version"])
            size_bytes = data_bytes(source)
            files = self._scratch(version, size_bytes)
            with running(files, "copy", check=self._run.check) as copy:
                lock = HostLock(source, self._host.id, self._run.job.id, self._context)
                locked_at = time.monotonic()
                lock.take()
                moment = run_admin(source, "hello")["localTime"].replace(tzinfo=UTC)
                plan = copy_documents(source, copy, progress=self._run.progress, check=self._run.check)
                reach("host.copied")
                lock.release()
                lock_seconds = time.monotonic() - locked_at
                complete_copy(copy, plan, progress=self._run.progress, check=self._run.check)
                fcv = get_fcv(copy)
        self._facts = {
            "locked": OplogTimestamp(seconds=int(moment.timestamp()), increment=1),
            "lock_seconds": lock_seconds,
            "mongod_version": mongod_version(files.binary),
            "host_version": version,
            "fcv": fcv,
            "data_size": plan.size_bytes,
            "storage_size": size_bytes,
        }
        self._warn_of_long_lock(lock_seconds)

    def _scratch(self, version: str, size_bytes: int) -> ScratchFiles:
        """An empty directory for the copy, which needs about as much room as the host's own files."""
        settings = self._context.settings
        self._directory.mkdir(mode=0o700, parents=True)
        require_space(self._directory, needed=size_bytes)
        return ScratchFiles(
            directory=self._directory, binary=copy_binary(version, settings), cache_gb=cache_gb(settings)
        )

    def _store_files(self) -> None:
        """Crash: packs and recipes that nothing names, and files in scratch."""
        if self._manifest is not None:
            return
        self._stored = store_files(
            self._store,
            list_stopped_sources(self._directory / "db"),
            snapshot_id=self._snapshot.id,
            attempt=self._run.job.failures + self._run.job.attempts,
            parent=None,
            full_read=True,
            threads=self._context.threads,
            progress=self._run.progress,
            check_cancelled=self._check,
        )

    def _commit(self) -> None:
        """Crash after it: the snapshot exists, and the next attempt only records it."""
        if self._manifest is not None:
            return
        if self._stored is None:
            raise SnapshotUnusable("nothing was stored")
        manifest = self._make_manifest(self._stored)
        self._store.commit(manifest, parent=None, check_owner=self._run.check_owner)
        self._manifest = manifest
        reach("host.committed")

    def _record(self) -> None:
        """Crash after it: the job is claimed once more, finds everything done, and ends."""
        manifest = self._manifest
        if manifest is None:
            raise SnapshotUnusable("no manifest was written")
        seconds = self._facts.get("lock_seconds")
        measured = {} if seconds is None else {"lock_seconds": round(seconds, 3)}
        self._catalog.snapshots.update(
            self._snapshot.id,
            state=SnapshotState.COMPLETE,
            completed=manifest.completed,
            stable_timestamp=manifest.stable_timestamp,
            applied_timestamp=manifest.applied_timestamp,
            mongod_version=manifest.mongod_version,
            fcv=manifest.fcv,
            machine=manifest.head_address,
            data_size_bytes=manifest.data_size_bytes,
            storage_size_bytes=manifest.storage_size_bytes,
            file_size_bytes=manifest.plain_bytes,
            stored_bytes=manifest.stored_bytes,
            new_stored_bytes=manifest.new_stored_bytes,
            error="",
            **measured,
        )
        reach("host.recorded")
        self._event(
            EventLevel.INFO,
            "snapshot.complete",
            f"snapshot {self._snapshot.id} of host {self._host.address} is complete",
        )

    def _make_manifest(self, stored: StoredFiles) -> Manifest:
        facts, now = self._facts, self._clock.now()
        group = self._catalog.groups.find(self._host.group_id)
        return Manifest(
            kind=ManifestKind.SNAPSHOT,
            snapshot_id=self._snapshot.id,
            parent_id=None,
            group_id=self._host.group_id,
            group_name=group.name if group is not None else "",
            cluster_id=self._host.store_id,
            cluster_name=self._host.address,
            replica_set_name=SET_NAME,
            created=self._snapshot.created,
            completed=now,
            stable_timestamp=facts["locked"],
            applied_timestamp=facts["locked"],
            mongod_version=facts["mongod_version"],
            fcv=facts["fcv"],
            head_address=self._host.address,
            oplog_file="",
            storage={"engine": "wiredTiger", HOST_FACT: self._host.id, "hostVersion": facts["host_version"]},
            data_size_bytes=facts["data_size"],
            storage_size_bytes=facts["storage_size"],
            new_stored_bytes=stored.new_stored_bytes,
            last_full_read=now,
            files=stored.entries,
        )

    # --- endings --------------------------------------------------------------------------------------------------

    def _clean_up(self) -> None:
        """Whatever happened: the host is not left locked, and nothing is left in scratch."""
        self._undo_lock_if_possible()
        wipe_scratch(self._directory)

    def _give_up(self, reason: str) -> None:
        self._undo_lock_if_possible()
        self._catalog.snapshots.update(self._snapshot.id, state=SnapshotState.FAILED, error=reason)
        self._event(
            EventLevel.ERROR,
            "snapshot.failed",
            f"snapshot {self._snapshot.id} of host {self._host.address} failed: {reason}",
        )
        self._store.discard_attempts(self._snapshot.id, check_owner=self._run.check_owner)

    def _undo_lock(self) -> None:
        """Undo what the catalog says of this host's lock: nobody but this job may have locked it."""
        host = self._catalog.hosts.find(self._host.id)
        if host is not None and host.lock_job_id is not None:
            unlock_left(host, self._context)

    def _undo_lock_if_possible(self) -> None:
        try:
            self._undo_lock()
        except EbbtideError as error:
            # The catalog still says that it may be locked: the next attempt, or the worker's tidying, looks again.
            self._event(
                EventLevel.ERROR,
                "host.left_locked",
                f"host {self._host.address} may still be locked, and is unlocked as soon as it answers: {error}",
            )

    def _warn_of_long_lock(self, seconds: float) -> None:
        if seconds > self._context.settings.number("snapshot.lock_warn_seconds"):
            self._event(
                EventLevel.WARNING,
                "snapshot.long_lock",
                f"host {self._host.address} was locked for {seconds:.0f} s",
            )

    def _check(self) -> None:
        """Raise where the snapshot must stop: for what the job says, or for the space that is left."""
        self._run.check()
        self._space.check()

    def _event(self, level: EventLevel, kind: str, message: str) -> None:
        record_event(
            self._catalog,
            self._clock,
            level=level,
            kind=kind,
            message=message,
            group_id=self._host.group_id,
            cluster_id=self._host.store_id,
            subject_id=self._snapshot.id,
        )


def copy_binary(version: str, settings: Settings) -> Path:
    """The mongod for the copy: one of the host's major version where there is one, else the usual one.

    What is copied is documents, so any version may hold them. Raises MongodBinaryMissing.
    """
    default = settings.text("mongod")
    try:
        return find_mongod_of(
            (major_version(version),), own=None, binaries=settings.mapping("mongod.binaries"), default=default
        )
    except MongodBinaryMissing:
        return find_mongod(default)
