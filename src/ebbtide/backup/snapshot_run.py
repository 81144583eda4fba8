"""Taking one snapshot: the list of steps, and what each leaves behind when it is the last one.

    prepare   what an interrupted attempt left is removed; a snapshot that is committed already skips to `record`
    lock      the head is locked; T_s, T_a and the files' stats are read. Where the filesystem can clone files, they
              are cloned, else what has to be read is copied if it is little; the lock is given back here already then
    store     blocks that the parent lacks become packs and recipes
    unlock    the lock is given back, and with it the proof that it held all the time
    commit    the manifest: from here on the snapshot exists
    record    the catalog lists it as complete

The head is unlocked before the manifest is written, not after: the pause is shorter, and a copy whose lock was lost
on the way is never committed.
"""

import time
from typing import Any

import structlog
from bson import Timestamp
from pymongo import MongoClient

from ebbtide.backup.context import BackupContext
from ebbtide.backup.head_lock import HeadLock, unlock_once, unlock_wholly
from ebbtide.backup.head_sources import list_sources
from ebbtide.backup.lock_copies import copy_to_read
from ebbtide.backup.prune_guard import wait_until_not_pruned
from ebbtide.backup.reflink import CLONES_NAME, can_clone, clone_all, remove_clones
from ebbtide.backup.snapshot_changes import expiry_at_completion
from ebbtide.backup.space_guard import SpaceGuard
from ebbtide.catalog.damage import Damage
from ebbtide.crash_points import reach
from ebbtide.domain.capture import BACKUP_METADATA, parse_stable_timestamp
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.replica_set import join_host_port
from ebbtide.domain.sharding import part_facts
from ebbtide.domain.snapshot import Snapshot, SnapshotState, is_trusted_parent
from ebbtide.errors import (
    EbbtideError,
    IntegrityError,
    NotFound,
    ObjectNotFound,
    SnapshotUnusable,
    StorageFull,
)
from ebbtide.events import record_event
from ebbtide.jobs.runner import Ending, JobRun, Step
from ebbtide.mongod.deployment import run_admin, translated_errors
from ebbtide.repository.manifest import Manifest, ManifestKind
from ebbtide.repository.repository import ReplicaSetStore
from ebbtide.repository.writer import SourceFile, StoredFiles, store_files
from ebbtide.storage.throttled import RateLimit, stoppable

Document = dict[str, Any]

CATCH_UP_SECONDS = 10.0

_log = structlog.get_logger()


class SnapshotRun:
    """One attempt at one snapshot. `steps` and `ending` are for the runner."""

    def __init__(self, run: JobRun, *, context: BackupContext) -> None:
        self._run = run
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._client: MongoClient[Document] | None = None
        self._lock: HeadLock | None = None
        self._locked_at: float | None = None
        self._lock_seconds: float | None = None
        self._parent: Manifest | None = None
        self._is_full_read = True
        self._manifest: Manifest | None = None
        self._sources: list[SourceFile] = []
        self._stored: StoredFiles | None = None
        self._facts: Document = {}
        snapshot = context.catalog.snapshots.find(SnapshotId(run.job.subject_id))
        cluster = context.catalog.clusters.find(run.job.cluster_id)
        if snapshot is None or cluster is None:
            raise NotFound(f"snapshot {run.job.subject_id} or its cluster is not in the catalog")
        self._snapshot: Snapshot = snapshot
        self._cluster: Cluster = cluster
        self._access = context.access(cluster)
        self._dbpath = context.head_directory(cluster) / "db"
        self._clones = self._dbpath.with_name(CLONES_NAME)
        storage = stoppable(context.repository.storage, self._check)
        self._store = ReplicaSetStore(
            storage, cluster_id=cluster.id, replica_set_name=cluster.replica_set_name
        )
        self._space = SpaceGuard(storage, settings=context.settings, clock=context.clock)
        read_rate = context.settings.number("head.read_bytes_per_second")
        self._reads = RateLimit(read_rate, context.clock) if read_rate else None

    def steps(self) -> list[Step]:
        return [
            Step(name="prepare", run=self._prepare),
            Step(name="lock", run=self._take_lock),
            Step(name="store", run=self._store_files),
            Step(name="unlock", run=self._release_lock),
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
            self._cluster.id,
            catalog=self._catalog,
            clock=self._clock,
            check_cancelled=self._run.check,
        )
        snapshot_id = self._snapshot.id
        remove_clones(self._clones)
        if self._store.has_snapshot(snapshot_id):
            self._manifest = self._store.load_manifest(snapshot_id)
            return
        self._unlock_leftover()
        removed = self._store.discard_attempts(snapshot_id, check_owner=self._run.check_owner)
        if removed:
            _log.info("snapshot.attempt_discarded", snapshot_id=snapshot_id, packs=removed)
        self._parent = self._find_parent()
        self._is_full_read = self._parent is None or self._is_full_read_due(self._parent)

    def _take_lock(self) -> None:
        """Crash: the head may be locked, and the catalog says so; whoever comes next unlocks it. Clones may be left."""
        if self._manifest is not None:
            return
        self._space.check_now()
        self._client = self._access.head_client()
        self._wait_until_caught_up(self._client)
        about_head = self._read_about_head(self._client)
        self._record_lock(self._run.job.id)
        reach("snapshot.lock_intended")
        lock = HeadLock(self._client, self._dbpath)
        self._locked_at = time.monotonic()
        lock.take()
        self._lock = lock
        reach("snapshot.locked")
        self._facts = about_head | self._read_facts(self._client)
        self._sources = list_sources(
            self._dbpath, oplog_file=self._facts["oplog_file"], metadata=self._facts["metadata"]
        )
        set_aside = self._set_sources_aside()
        if set_aside is not None:
            self._sources = set_aside
            self._release_lock()

    def _set_sources_aside(self) -> list[SourceFile] | None:
        """Clones or copies to be read from here on, so that the head can go at once; None where that cannot be."""
        if can_clone(self._dbpath):
            return clone_all(self._sources, self._clones, check_cancelled=self._run.check)
        if self._reads is not None:  # who bounds how fast a head is read does not want it read at once
            return None
        return copy_to_read(
            self._sources,
            self._clones,
            parent=self._parent,
            full_read=self._is_full_read,
            bytes_max=self._context.settings.count("snapshot.pause_buffer_bytes"),
            threads=self._context.threads,
            check_cancelled=self._run.check,
        )

    def _store_files(self) -> None:
        """Crash: packs and recipes that nothing names, and a locked head or its clones."""
        if self._manifest is not None:
            return
        try:
            self._stored = self._store_sources()
        except StorageFull:
            # Where that is because too little is left for anybody, the job waits; else it is tried again for a while.
            self._space.check_now()
            raise
        remove_clones(self._clones)

    def _store_sources(self) -> StoredFiles:
        return store_files(
            self._store,
            self._sources,
            snapshot_id=self._snapshot.id,
            attempt=self._run.job.failures + self._run.job.attempts,
            parent=self._parent,
            full_read=self._is_full_read,
            threads=self._context.threads,
            progress=self._run.progress,
            check_cancelled=self._check,
            before_read=self._before_read,
        )

    def _release_lock(self) -> None:
        """Crash: the catalog says that the head is locked, and it is not."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        # Where this fails the clean-up unlocks once more, and the next attempt looks again.
        lock.release()
        self._lock_seconds = time.monotonic() - (self._locked_at or 0.0)
        self._locked_at = None
        reach("snapshot.unlocked")
        self._record_lock(None)
        if self._lock_seconds > self._context.settings.number("snapshot.lock_warn_seconds"):
            self._event(
                EventLevel.WARNING,
                "snapshot.long_lock",
                f"the head of {self._cluster.name} was locked for {self._lock_seconds:.0f} s; it catches up now",
            )

    def _commit(self) -> None:
        """Crash after it: the snapshot exists, and the next attempt only records it."""
        if self._manifest is not None:
            return
        if self._stored is None:
            raise SnapshotUnusable("nothing was stored")
        manifest = self._make_manifest(self._stored)
        self._store.commit(manifest, parent=self._parent, check_owner=self._run.check_owner)
        self._manifest = manifest
        reach("snapshot.manifest_written")

    def _record(self) -> None:
        """Crash after it: the job is claimed once more, finds everything done, and ends."""
        manifest = self._manifest
        if manifest is None:
            raise SnapshotUnusable("no manifest was written")
        # What an attempt before this one measured is known no more, and must not become 0.
        measured = {} if self._lock_seconds is None else {"lock_seconds": round(self._lock_seconds, 3)}
        self._catalog.snapshots.update(
            self._snapshot.id,
            state=SnapshotState.COMPLETE,
            completed=manifest.completed,
            parent_id=manifest.parent_id,
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
            expires=expiry_at_completion(self._snapshot, completed=manifest.completed, catalog=self._catalog),
            **measured,
        )
        reach("snapshot.completed")
        self._event(
            EventLevel.INFO,
            "snapshot.complete",
            f"snapshot {self._snapshot.id} of {self._cluster.name} is complete",
        )

    def _check(self) -> None:
        """Raise where the snapshot must stop: for what the job says, or for the space that is left."""
        self._run.check()
        self._space.check()

    def _before_read(self, amount: int) -> None:
        if self._reads is not None:
            self._reads.take(amount, check=self._check)

    # --- what the steps are made of ---------------------------------------------------------------------------------

    def _unlock_leftover(self) -> None:
        head = self._catalog.heads.find(self._cluster.id)
        if head is None or head.lock_job_id is None:
            return
        client = self._access.head_client()
        try:
            unlock_wholly(client)
        finally:
            client.close()
        self._record_lock(None)

    def _wait_until_caught_up(self, client: MongoClient[Document]) -> None:
        """Wait until the head has what the set had when the snapshot began: who writes, and then asks for a
        snapshot, expects to find it there. A head that does not get there in time is taken as it is."""
        if run_admin(client, "currentOp", 1, **{"$ownOps": True}).get("fsyncLock", False):
            self._event(
                EventLevel.WARNING,
                "snapshot.foreign_lock",
                f"the head of {self._cluster.name} was locked by someone else: the snapshot is of that moment",
            )
            return
        wanted = self._newest_write()
        deadline = self._clock.monotonic() + CATCH_UP_SECONDS
        while wanted is not None and self._clock.monotonic() < deadline:
            self._run.check()
            times = run_admin(client, "replSetGetStatus")["optimes"]
            if min(times["lastCommittedOpTime"]["ts"], times["appliedOpTime"]["ts"]) >= wanted:
                return
            self._clock.sleep(0.05)
        self._event(
            EventLevel.WARNING,
            "snapshot.behind",
            f"the head of {self._cluster.name} is behind its set, or the set has no majority: "
            "the snapshot may lack the newest writes",
        )

    def _newest_write(self) -> Timestamp | None:
        """The primary's newest oplog entry; None while there is no primary."""
        client = self._access.set_client(timeout_seconds=5)
        try:
            newest: Timestamp = run_admin(client, "hello")["lastWrite"]["opTime"]["ts"]
            return newest
        except EbbtideError as error:
            _log.warning("snapshot.no_primary", message=str(error))
            return None
        finally:
            client.close()

    def _record_lock(self, job_id: str | None) -> None:
        self._catalog.heads.update(
            self._cluster.id,
            worker_id=self._context.worker_id,
            now=self._clock.now(),
            lock_job_id=job_id,
        )

    def _find_parent(self) -> Manifest | None:
        """The newest snapshot, where it can be read and trusted; one that is not is said and passed over."""
        newest = self._catalog.snapshots.newest_complete(self._cluster.id)
        if newest is None:
            return None
        damage = self._catalog.damage.find(self._cluster.id)
        if damage is not None and not is_trusted_parent(newest, damage_found=damage.found):
            self._event(
                EventLevel.WARNING,
                "snapshot.full_after_damage",
                f"damage was found in the snapshots of {self._cluster.name}, so this one shares nothing with them",
            )
            return None
        try:
            return self._store.load_manifest(newest.id)
        except (IntegrityError, ObjectNotFound) as error:
            self._event(
                EventLevel.ERROR,
                "repository.damaged",
                f"snapshot {newest.id} cannot be built upon, so a full one is taken: {error}",
            )
            return None

    def _is_full_read_due(self, parent: Manifest) -> bool:
        age = self._clock.now() - parent.last_full_read
        return age.total_seconds() >= 3600 * self._context.settings.count("snapshot.full_read_every_hours")

    def _read_about_head(self, client: MongoClient[Document]) -> Document:
        """What may be asked before the lock: it stays, or a moment more or less is the same. Each call prolongs a pause."""
        with translated_errors("reading the head"):
            oplog = client.local.command("collStats", "oplog.rs")
            build = client.admin.command("buildInfo")
            options = client.admin.command("getCmdLineOpts").get("parsed", {}).get("storage", {})
            names = client.list_database_names()
            stats = [client[name].command("dbStats") for name in names]
        ident = str(oplog["wiredTiger"]["uri"]).rpartition(":")[2]
        return {
            "oplog_file": f"{ident}.wt",
            "version": str(build["version"]),
            "data_size": sum(int(s.get("dataSize", 0)) for s in stats),
            "storage_size": sum(int(s.get("storageSize", 0)) + int(s.get("indexSize", 0)) for s in stats),
            "directory_per_db": bool(options.get("directoryPerDB", False)),
        }

    def _read_facts(self, client: MongoClient[Document]) -> Document:
        """What is to be known of the locked head besides its files."""
        metadata = (self._dbpath / BACKUP_METADATA).read_text(errors="replace")
        with translated_errors("reading the head"):
            newest = client.local["oplog.rs"].find_one(sort=[("$natural", -1)], projection={"ts": 1})
            fcv = client.admin.command("getParameter", featureCompatibilityVersion=1)
        if newest is None:
            raise SnapshotUnusable("the head's oplog is empty")
        return {
            "metadata": metadata,
            "stable": parse_stable_timestamp(metadata),
            "applied": OplogTimestamp.from_bson(newest["ts"]),
            "fcv": str(fcv["featureCompatibilityVersion"]["version"]),
        }

    def _make_manifest(self, stored: StoredFiles) -> Manifest:
        facts, now = self._facts, self._clock.now()
        if stored.unexpected_changes:
            self._event(
                EventLevel.ERROR,
                "snapshot.unexpected_changes",
                "files whose times said that they had not changed have changed: "
                + ", ".join(stored.unexpected_changes[:10])
                + "; snapshots since the last full read may be wrong",
            )
        if stored.damaged_parent_objects:
            problem = stored.damaged_parent_objects[0]
            self._catalog.damage.note(Damage(id=self._cluster.id, found=now, problem=problem))
            self._event(
                EventLevel.ERROR,
                "repository.damaged",
                "an earlier snapshot has damaged objects: " + ", ".join(stored.damaged_parent_objects[:10]),
            )
        last_full_read = now if self._is_full_read or self._parent is None else self._parent.last_full_read
        group, per_db = self._catalog.groups.find(self._cluster.group_id), facts["directory_per_db"]
        return Manifest(
            kind=ManifestKind.SNAPSHOT,
            snapshot_id=self._snapshot.id,
            parent_id=self._parent.snapshot_id if self._parent is not None else None,
            group_id=self._cluster.group_id,
            group_name=group.name if group is not None else "",
            cluster_id=self._cluster.id,
            cluster_name=self._cluster.name,
            replica_set_name=self._cluster.replica_set_name,
            created=self._snapshot.created,
            completed=now,
            stable_timestamp=facts["stable"],
            applied_timestamp=facts["applied"],
            mongod_version=facts["version"],
            fcv=facts["fcv"],
            head_address=join_host_port(self._cluster.head_host, self._cluster.head_port),
            oplog_file=facts["oplog_file"],
            storage={"engine": "wiredTiger", "directoryPerDB": per_db, **part_facts(self._cluster)},
            data_size_bytes=facts["data_size"],
            storage_size_bytes=facts["storage_size"],
            new_stored_bytes=stored.new_stored_bytes,
            last_full_read=last_full_read,
            files=stored.entries,
        )

    # --- endings ----------------------------------------------------------------------------------------------------

    def _clean_up(self) -> None:
        """Whatever happened: the head is not left locked, and no clone is left."""
        remove_clones(self._clones)
        client, self._client = self._client, None
        if client is None:
            return
        lock, self._lock = self._lock, None
        try:
            if lock is not None or self._locked_at is not None:
                unlock_once(client)
            if lock is not None:
                self._record_lock(None)
        except EbbtideError as error:
            # The catalog still says that the head may be locked, so whoever looks next unlocks it.
            _log.warning("snapshot.unlock_not_recorded", message=str(error))
        finally:
            client.close()

    def _give_up(self, reason: str) -> None:
        try:
            self._unlock_leftover()
        except EbbtideError as error:
            _log.warning("snapshot.unlock_not_recorded", message=str(error))
        self._catalog.snapshots.update(self._snapshot.id, state=SnapshotState.FAILED, error=reason)
        self._event(
            EventLevel.ERROR,
            "snapshot.failed",
            f"snapshot {self._snapshot.id} of {self._cluster.name} failed: {reason}",
        )
        self._store.discard_attempts(self._snapshot.id, check_owner=self._run.check_owner)

    def _event(self, level: EventLevel, kind: str, message: str) -> None:
        record_event(
            self._catalog,
            self._clock,
            level=level,
            kind=kind,
            message=message,
            group_id=self._cluster.group_id,
            cluster_id=self._cluster.id,
            subject_id=self._snapshot.id,
        )
