"""Storing a replayed result in the repository, so that it is delivered as any snapshot is: as stored blocks.

Nearly all of its blocks are there already, since the result differs from its base by what was replayed. It is written
as DELIVER_ONLY, under a ResultId (the restore job's own id) and in a folder of its own, so nothing that looks for
snapshots meets it. It lives as long as its restore job can be of use (`domain.result`); then prune removes it.

Order: packs → recipes → the result's manifest. Prune keeps away from the cluster meanwhile (`backup.prune_guard`).
Crash: packs that nothing names; the next attempt removes them. After the manifest: the result is there, and the next
attempt finds it.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from ebbtide.backup.head_sources import list_stopped_sources
from ebbtide.crash_points import reach
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.progress import ProgressReporter
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.result import result_id_of
from ebbtide.mongod.binary import mongod_version
from ebbtide.repository.manifest import Manifest, ManifestKind
from ebbtide.repository.repository import ReplicaSetStore
from ebbtide.repository.writer import StoredFiles, store_files
from ebbtide.restore.restore_info import DROPPED_INDEXES, PREPARED_TRANSACTIONS
from ebbtide.restore.source import BuiltSource

INDEXES_TEXT_MAX = 2_000
"""Of the names of unfinished indexes; the event names them too."""


def store_result(
    store: ReplicaSetStore,
    built: BuiltSource,
    job: RestoreJob,
    *,
    attempt: int,
    threads: int,
    now: datetime,
    progress: ProgressReporter,
    check: Callable[[], None],
    check_owner: Callable[[], None],
) -> Manifest:
    """Store the files of a replayed source, whose mongod has ended, and make them a result. Raises as `store_files`.

    `check_owner` is called before what only the job's owner may do, and raises where that is another worker by now.
    """
    result_id = result_id_of(job)
    store.discard_result_attempts(result_id, check_owner=check_owner)
    stored = store_files(
        store,
        list_stopped_sources(built.dbpath),
        snapshot_id=SnapshotId(result_id),
        attempt=attempt,
        parent=built.manifest,
        full_read=True,
        threads=threads,
        progress=progress,
        check_cancelled=check,
    )
    reach("replay.stored")
    manifest = _make_manifest(built, job, stored, now=now)
    store.commit_result(manifest, base=built.manifest, check_owner=check_owner)
    return manifest


def _make_manifest(built: BuiltSource, job: RestoreJob, stored: StoredFiles, *, now: datetime) -> Manifest:
    """As the base's, at another moment. The server's own figures of the data's size are still the base's."""
    return replace(
        built.manifest,
        kind=ManifestKind.DELIVER_ONLY,
        snapshot_id=SnapshotId(result_id_of(job)),
        parent_id=built.manifest.snapshot_id,
        created=job.created,
        completed=now,
        stable_timestamp=built.restored,
        applied_timestamp=built.restored,
        mongod_version=mongod_version(built.binary),
        storage={**built.manifest.storage, **_half_done(built)},
        new_stored_bytes=stored.new_stored_bytes,
        last_full_read=now,
        files=stored.entries,
    )


def _half_done(built: BuiltSource) -> dict[str, str | int]:
    """What was under way at that moment: it goes into restoreInfo.txt, which is made of the manifest alone."""
    settled = built.settled
    indexes = ", ".join(f"{index.name} of {index.namespace}" for index in settled.unfinished_indexes)
    found: dict[str, str | int] = {}
    if settled.prepared_transactions:
        found[PREPARED_TRANSACTIONS] = settled.prepared_transactions
    if indexes:
        found[DROPPED_INDEXES] = (
            indexes if len(indexes) <= INDEXES_TEXT_MAX else indexes[:INDEXES_TEXT_MAX] + " …"
        )
    return found
