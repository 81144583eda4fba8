"""A scratch dbpath that holds the data of one restore point, and a mongod on it: where every restore reads from.

    DATA/scratch/<restore job id>.<end of the worker's id>/    0700: a snapshot's files, brought to the moment asked for

    lay down   the snapshot's files, every block verified
    replay     where a moment beyond (or before the end of) the snapshot was asked for: `restore.replay`
    settle     what was half done at that moment goes, so that it blocks nobody (`restore.settle`)

Invariants
  * the data is at `restored`, by the server's own word, or there is no BuiltSource
  * an attempt begins with an empty directory: nothing of an interrupted one is ever gone on with
  * each worker has directories of its own: one that lost a job without knowing it wipes nothing of the next one's
Crash: a directory that the next attempt wipes, or `sweep_scratch` once its job has ended; a mongod in it ends with the
thread that started it, and is looked for before the directory is wiped.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from ebbtide.backup.context import BackupContext
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.progress import ProgressReporter
from ebbtide.domain.replay import ReplayBase, ReplayFailed
from ebbtide.domain.replica_set import major_version
from ebbtide.domain.snapshot import Snapshot
from ebbtide.errors import MongodBinaryMissing, StorageError
from ebbtide.jobs.runner import JobRun
from ebbtide.mongod.binary import find_mongod_of
from ebbtide.mongod.deployment import translated_errors
from ebbtide.mongod.log_lines import find_recovery_timestamp
from ebbtide.oplog.archive import OplogArchive
from ebbtide.repository.manifest import Manifest
from ebbtide.repository.materialise import materialise, required_bytes
from ebbtide.restore.replay import Replayed, replay
from ebbtide.restore.scratch_mongod import ScratchFiles, cache_gb, kill_leftover, running
from ebbtide.restore.settle import Settled, settle
from ebbtide.settings import Settings

Document = dict[str, Any]

JOURNAL_BYTES = 512 * 1024 * 1024
"""What a started mongod makes beside the data: 300 MB of journal files, and its logs."""


@dataclass(frozen=True, kw_only=True)
class BuiltSource:
    """Data at `restored`, in `files`. `replayed` is None where the snapshot was taken as it is."""

    files: ScratchFiles
    manifest: Manifest
    restored: OplogTimestamp
    settled: Settled
    replayed: Replayed | None

    @property
    def dbpath(self) -> Path:
        return self.files.dbpath

    @property
    def binary(self) -> Path:
        return self.files.binary


def build_source(
    context: BackupContext,
    run: JobRun,
    *,
    cluster_id: ClusterId,
    replica_set_name: str,
    base: Snapshot,
    limit: OplogTimestamp | None,
    directory: Path,
    progress: ProgressReporter,
) -> BuiltSource:
    """Build it from nothing in `directory`, which is wiped first.

    `limit`: the newest entry that is not beyond it is the last one of the result; None: the snapshot as it is.
    Raises IntegrityError and ObjectNotFound for a damaged base, StorageError where space lacks, MongodBinaryMissing,
    ReplayFailed, the archive's errors, MongodError, and what `run.check` raises.
    """
    wipe_scratch(directory)
    store = context.repository.replica_set(cluster_id, replica_set_name)
    archive = OplogArchive(store)
    manifest = store.load_manifest(base.id)
    files = ScratchFiles(
        directory=directory,
        binary=restore_binary(
            manifest, cluster=context.catalog.clusters.find(cluster_id), settings=context.settings
        ),
        cache_gb=cache_gb(context.settings),
        storage=manifest.storage,
    )
    _make_private(directory)
    require_space(directory, needed=required_bytes(manifest) + _oplog_bytes(archive, base, limit))
    materialise(
        store,
        manifest,
        files.dbpath,
        threads=context.threads,
        progress=progress,
        check_cancelled=run.check,
        # A power cut ends this attempt, and the next one begins with new files.
        durable=False,
    )
    if limit is None:
        settled = _settle_plain(files, manifest, check=run.check)
        return BuiltSource(
            files=files,
            manifest=manifest,
            restored=manifest.stable_timestamp,
            settled=settled,
            replayed=None,
        )
    replayed = replay(
        files,
        base=ReplayBase(stable=manifest.stable_timestamp, applied=manifest.applied_timestamp),
        limit=limit,
        archive=archive,
        progress=progress,
        check=run.check,
    )
    return BuiltSource(
        files=files,
        manifest=manifest,
        restored=replayed.restored.timestamp,
        settled=replayed.settled,
        replayed=replayed,
    )


@contextmanager
def started_source(built: BuiltSource, *, check: Callable[[], None]) -> Iterator["MongoClient[Document]"]:
    """A plain mongod on the built files, with a client of it: a private Unix socket, TTL and session refresh off.

    Only for a thread that lives as long as it shall run. Raises MongodError and what `check` raises.
    """
    with running(built.files, "serve", check=check) as client:
        yield client


def scratch_directory(context: BackupContext, job_id: str) -> Path:
    """Where this worker has the files of a job's restore."""
    return context.directory.scratch / f"{job_id}.{_mark(context.worker_id)}"


def _mark(worker_id: str) -> str:
    """What tells workers of one data directory apart, and is short: a path to a socket must not be long."""
    return worker_id[-8:]


def wipe_scratch(directory: Path) -> None:
    """Remove a scratch directory, and end what still runs in it. Harmless where there is none. Raises StorageError."""
    kill_leftover(directory)
    try:
        if directory.exists():
            shutil.rmtree(directory)
    except OSError as error:
        raise StorageError("wipe", str(directory), str(error)) from error


def sweep_scratch(context: BackupContext) -> None:
    """Wipe what no worker works on: directories of jobs that are over or another worker's, whose worker died.

    Only for the thread that claims jobs.
    """
    scratch = context.directory.scratch
    for directory in scratch.iterdir() if scratch.is_dir() else ():
        subject, _, mark = directory.name.partition(".")
        # A restore's, or of a snapshot that is copied from a host.
        works = (context.catalog.jobs.find(job_id(kind, subject)) for kind in JobKind)
        work = next((found for found in works if found is not None), None)
        holder = None if work is None or work.state is not JobState.RUNNING else work.lease_worker_id
        if holder is None or _mark(holder) != mark:
            wipe_scratch(directory)


def restore_binary(manifest: Manifest, *, cluster: Cluster | None, settings: Settings) -> Path:
    """The mongod that opens a snapshot's files: one of the very major version that wrote them.

    Raises MongodBinaryMissing, naming the version that lacks.
    """
    majors = (major_version(manifest.mongod_version),)
    binaries, default = settings.mapping("mongod.binaries"), settings.text("mongod")
    own = None if cluster is None else cluster.mongod
    if own is not None:
        try:
            return find_mongod_of(majors, own=own, binaries=binaries, default=default)
        except MongodBinaryMissing:
            pass  # The set was upgraded since: its own mongod is of another version than its old snapshots.
    return find_mongod_of(majors, own=None, binaries=binaries, default=default)


def require_space(directory: Path, *, needed: int) -> None:
    """Raise StorageError unless so many bytes, and a mongod's journal, find room there."""
    free = shutil.disk_usage(directory).free
    if free < needed + JOURNAL_BYTES:
        raise StorageError(
            "restore into",
            str(directory),
            f"{needed + JOURNAL_BYTES} bytes are needed and {free} are free",
            hint="free space in the data directory: a restore lays down the full size of the data there",
        )


def _oplog_bytes(archive: OplogArchive, base: Snapshot, limit: OplogTimestamp | None) -> int:
    """What replay adds at most: the entries in the oplog, and once more in the data."""
    applied = base.applied_timestamp
    if limit is None or applied is None:
        return 0
    slices = archive.slices()
    return 2 * sum(s.plain_bytes for s in slices if s.last.timestamp > applied and s.first.timestamp <= limit)


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise StorageError("make", str(directory), str(error)) from error


def _settle_plain(files: ScratchFiles, manifest: Manifest, *, check: Callable[[], None]) -> Settled:
    with running(files, "open", check=check) as client, translated_errors("opening the snapshot"):
        opened_at = find_recovery_timestamp(files.log_lines("open"))
        if opened_at != manifest.stable_timestamp:
            raise ReplayFailed(
                f"the snapshot's files open at {opened_at}, and its manifest says {manifest.stable_timestamp}"
            )
        return settle(client)
