"""Where an automated restore reads from: one replica set at one moment, or all parts of a sharded cluster at one.

    <scratch of the job>/           of a replica set's restore: the files
    <scratch of the job>/<part>/    of a sharded cluster's: those of each part

The parts of a sharded cluster have a restore job each, which pins what that part takes; all of them are built for the
job that leads, on its worker, at the same moment.

Crash: as for `restore.source`; the next attempt builds everything anew.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pymongo import MongoClient

from ebbtide.backup.archive_wait import wait_until_archived
from ebbtide.backup.context import BackupContext
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.ids import RestoreJobId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.progress import NoProgress
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.sharded_restore import refuse_source
from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import NotFound
from ebbtide.jobs.runner import JobRun
from ebbtide.mongod.options import CACHE_GB_MIN
from ebbtide.restore.job_record import RestoreJobRecord
from ebbtide.restore.load.inventory import Inventory, read_inventory
from ebbtide.restore.load.reading import NaturalReader, Reader
from ebbtide.restore.preflight import PreflightFailed
from ebbtide.restore.sharded_load.source import OwnedReader, ShardedSource
from ebbtide.restore.source import BuiltSource, started_source, wipe_scratch
from ebbtide.restore.whole_base import build_on_whole_base

Client = MongoClient[dict[str, Any]]

ARCHIVE_SECONDS = 300.0
"""So long the archive may take to reach the moment; then the job is tried again, like after any failure that passes."""


BUILT_AT_ONCE = 4
"""Parts: each keeps the disk and some processors busy, and a mongod's cache in memory."""


@dataclass(frozen=True, kw_only=True)
class LoadSource:
    """What is loaded. `accounts` has users and roles; `sharded` is None where it is a replica set.

    `has_exact_counts`: a collection with documents in the inventory has some that are to be restored.
    """

    inventory: Inventory
    reader: Reader
    accounts: Client
    sharded: ShardedSource | None = None

    @property
    def has_exact_counts(self) -> bool:
        return self.sharded is None


class RestoreSource(Protocol):
    """The source of one attempt. `built` is empty before `open`."""

    built: tuple[BuiltSource, ...]

    def require_bases(self) -> None:
        """Raise PreflightFailed unless there is something to build upon, NotFound."""

    def await_archives(self) -> None:
        """Wait until the oplog is archived up to the moment. Raises ArchiveBehind and what the job's `check` raises."""

    def open(self, stack: ExitStack) -> LoadSource:
        """Build it, and start its mongods until `stack` is closed. Raises what `build_on_whole_base` raises."""

    def restored(self, job: RestoreJob) -> OplogTimestamp:
        """The moment that was restored, as the job shows it."""


def batch_parts(run: JobRun, *, context: BackupContext) -> tuple[RestoreJobRecord, ...]:
    """The records of all jobs of the batch that the job of `run` leads; none for a job by itself."""
    job = context.catalog.restore_jobs.find(RestoreJobId(run.job.subject_id))
    if job is None or job.batch_id is None:
        return ()
    found = context.catalog.restore_jobs.list_batch(job.batch_id)
    return tuple(RestoreJobRecord(run, context=context, restore_id=part.id) for part in found)


def source_of(
    run: JobRun,
    restore: RestoreJobRecord,
    parts: Sequence[RestoreJobRecord],
    *,
    context: BackupContext,
    scratch: Path,
) -> RestoreSource:
    """What the job reads from; `parts` as of `batch_parts`."""
    if parts:
        return ShardedParts(run, parts, context=context, scratch=scratch)
    return SetSource(run, restore, context=context, scratch=scratch)


class SetSource:
    """One replica set."""

    def __init__(
        self, run: JobRun, restore: RestoreJobRecord, *, context: BackupContext, scratch: Path
    ) -> None:
        self._run = run
        self._restore = restore
        self._context = context
        self._scratch = scratch
        self.built: tuple[BuiltSource, ...] = ()

    def require_bases(self) -> None:
        require_base(self._context, self._restore.load())

    def await_archives(self) -> None:
        await_archive(self._context, self._run, self._restore.load())

    def open(self, stack: ExitStack) -> LoadSource:
        built = build_on_whole_base(self._context, self._run, self._restore, directory=self._scratch)
        self.built = (built,)
        client = stack.enter_context(started_source(built, check=self._run.check))
        return LoadSource(inventory=read_inventory(client), reader=NaturalReader(client), accounts=client)

    def restored(self, job: RestoreJob) -> OplogTimestamp:
        return self.built[0].restored if self.built else job.timestamp


class ShardedParts:
    """All parts of a sharded cluster; `parts` are the records of their restore jobs."""

    def __init__(
        self,
        run: JobRun,
        parts: Sequence[RestoreJobRecord],
        *,
        context: BackupContext,
        scratch: Path,
    ) -> None:
        self._run = run
        self._parts = parts
        self._context = context
        self._scratch = scratch
        self.built: tuple[BuiltSource, ...] = ()

    def require_bases(self) -> None:
        for part in self._parts:
            require_base(self._context, part.load())

    def await_archives(self) -> None:
        for part in self._parts:
            await_archive(self._context, self._run, part.load())

    def open(self, stack: ExitStack) -> LoadSource:
        wipe_scratch(self._scratch)
        self._scratch.mkdir(mode=0o700, parents=True)
        built = self._build_all()
        self.built = tuple(built.values())
        clients = {
            name: stack.enter_context(started_source(self._sharing_memory(one), check=self._run.check))
            for name, one in built.items()
        }
        source = ShardedSource.read(clients)
        problems = refuse_source(source.layout)
        if problems:
            raise PreflightFailed("; ".join(problems))
        return LoadSource(
            inventory=source.merged.whole,
            reader=OwnedReader(source, source.owned_ranges()),
            accounts=clients[CONFIG_PART],
            sharded=source,
        )

    def restored(self, job: RestoreJob) -> OplogTimestamp:
        # Each part's newest entry is at another time, at or before the one at which all of them were cut.
        return job.timestamp if job.limit is None else job.limit

    def _build_all(self) -> dict[str, BuiltSource]:
        """By part. A mongod of a replay ends with its thread, which lives until its part is built."""
        self._run.progress.phase("parts", total=len(self._parts), unit="parts")
        with ThreadPoolExecutor(BUILT_AT_ONCE, "build-part") as executor:
            building = {self._name(part): executor.submit(self._build, part) for part in self._parts}
            # The first that fails ends the job, once the others have come to their ends.
            return {name: one.result() for name, one in building.items()}

    def _build(self, part: RestoreJobRecord) -> BuiltSource:
        built = build_on_whole_base(
            self._context,
            self._run,
            part,
            directory=self._scratch / self._name(part),
            progress=NoProgress(),
        )
        self._run.progress.advance(1)
        return built

    def _sharing_memory(self, built: BuiltSource) -> BuiltSource:
        share = max(CACHE_GB_MIN, round(built.files.cache_gb / len(self._parts), 2))
        return replace(built, files=replace(built.files, cache_gb=share))

    def _name(self, part: RestoreJobRecord) -> str:
        """A part as the cluster's own layout calls it."""
        cluster = self._cluster(part.load())
        return CONFIG_PART if cluster.is_config_server else cluster.shard_name or cluster.name

    def _cluster(self, job: RestoreJob) -> Cluster:
        found = self._context.catalog.clusters.find(job.cluster_id)
        if found is None:
            raise NotFound(f"the part {job.cluster_name} is not in the catalog")
        return found


def require_base(context: BackupContext, job: RestoreJob) -> Snapshot:
    """The complete snapshot that a job is built on. Raises PreflightFailed, NotFound."""
    base = context.catalog.snapshots.find(job.snapshot_id)
    if base is None:
        raise NotFound(f"snapshot {job.snapshot_id} is not in the catalog")
    if base.state is not SnapshotState.COMPLETE:
        raise PreflightFailed(f"snapshot {base.id} is {base.state}")
    return base


def await_archive(context: BackupContext, run: JobRun, job: RestoreJob) -> None:
    """Wait for what a job takes of its cluster's archive; for nothing where its snapshot has it all."""
    base = context.catalog.snapshots.find(job.snapshot_id)
    applied = None if base is None else base.applied_timestamp
    if job.limit is None or (applied is not None and job.limit <= applied):
        return
    wait_until_archived(
        context.catalog,
        job.cluster_id,
        job.limit,
        clock=context.clock,
        check=run.check,
        seconds=ARCHIVE_SECONDS,
    )
