"""The archive of a restore job: the same bytes whenever and wherever it is opened.

It depends on the restore job's record and its manifest alone, so the worker that hashes it and the api
that sends it need to share nothing else. Opened archives are kept (a handful): a download in parallel ranges opens
its archive many times.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ebbtide.domain.ids import RestoreJobId
from ebbtide.domain.progress import ProgressReporter
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.repository.archive import Archive, hash_archive, iter_range, plan_archive
from ebbtide.repository.repository import ReplicaSetStore, Repository
from ebbtide.restore.restore_info import RESTORE_INFO_NAME, render_restore_info
from ebbtide.storage.directory import DirectoryStorage

ARCHIVES_KEPT = 8


@dataclass(frozen=True)
class JobArchive:
    """One opened archive. Safe to use from many threads."""

    store: ReplicaSetStore
    archive: Archive
    file_name: str
    restore_info: str

    @property
    def length_bytes(self) -> int:
        return self.archive.length_bytes

    def iter_range(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes `start` … `end`−1, each block verified before it is handed out. Raises IntegrityError."""
        return iter_range(self.store, self.archive, start=start, end=end)

    def hash(self, *, threads: int, progress: ProgressReporter, check_cancelled: Callable[[], None]) -> str:
        """SHA-1 of the whole archive, every block inflated and verified on the way. Raises IntegrityError."""
        return hash_archive(
            self.store, self.archive, threads=threads, progress=progress, check_cancelled=check_cancelled
        )


def open_archive(repository: Repository, job: RestoreJob) -> JobArchive:
    """Plan the archive of `job` from the manifest of its snapshot, or of its replayed result.

    Raises ObjectNotFound, IntegrityError.
    """
    store = repository.replica_set(job.cluster_id, job.replica_set_name)
    if job.result_id is None:
        manifest = store.load_manifest(job.snapshot_id)
    else:
        manifest = store.load_result(job.result_id)
    info = job.restore_info or render_restore_info(job, manifest)
    archive = plan_archive(
        manifest,
        directory=job.file_name.removesuffix(".tar.gz"),
        extra_files=[(RESTORE_INFO_NAME, info.encode())],
        mtime=manifest.stable_timestamp.date,
    )
    return JobArchive(store=store, archive=archive, file_name=job.file_name, restore_info=info)


class JobArchives:
    """Archives of a repository in a directory, the last few kept open."""

    def __init__(self, repository_path: Path) -> None:
        self._path = repository_path
        self._repository: Repository | None = None
        self._kept: OrderedDict[RestoreJobId, JobArchive] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, job: RestoreJob) -> JobArchive:
        """Raises NotFound where there is no repository, ObjectNotFound, IntegrityError."""
        with self._lock:
            found = self._kept.get(job.id)
            if found is not None:
                self._kept.move_to_end(job.id)
                return found
            repository = self._repository
        if repository is None:
            repository = Repository.open(DirectoryStorage(self._path))
        archive = open_archive(repository, job)
        with self._lock:
            self._repository = repository
            self._kept[job.id] = archive
            while len(self._kept) > ARCHIVES_KEPT:
                self._kept.popitem(last=False)
        return archive
