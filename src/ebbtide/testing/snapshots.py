"""Trees of files, and snapshots of them, for tests of the repository."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.progress import NoProgress
from ebbtide.repository.manifest import FileEntry, Manifest, ManifestKind
from ebbtide.repository.materialise import materialise
from ebbtide.repository.repository import ReplicaSetStore, Repository
from ebbtide.repository.source import SourceFile, stat_file
from ebbtide.repository.writer import StoredFiles, store_files
from ebbtide.storage.protocol import Storage

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CLUSTER = ClusterId("c" * 24)
SET = "rs0"


def snapshot_id(number: int) -> SnapshotId:
    return SnapshotId(f"{number:024x}")


def new_store(storage: Storage) -> ReplicaSetStore:
    return Repository.create(storage, now=NOW).replica_set(CLUSTER, SET)


def write_tree(root: Path, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def read_tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def sources_of(root: Path, *, always_read: bool = True, aged_seconds: int = 0) -> list[SourceFile]:
    """All files below `root`; with `aged_seconds` as if their stat had been taken that much later."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        stat = stat_file(path)
        stat = replace(stat, stated_at_ns=stat.stated_at_ns + aged_seconds * 10**9)
        found.append(
            SourceFile(
                path=path.relative_to(root).as_posix(), absolute=path, stat=stat, always_read=always_read
            )
        )
    return found


def make_manifest(
    number: int, files: Sequence[FileEntry], *, parent: Manifest | None = None, new_stored_bytes: int = 0
) -> Manifest:
    return Manifest(
        kind=ManifestKind.SNAPSHOT,
        snapshot_id=snapshot_id(number),
        parent_id=parent.snapshot_id if parent else None,
        group_id=GroupId("a" * 24),
        group_name="Project 0",
        cluster_id=CLUSTER,
        cluster_name="shop",
        replica_set_name=SET,
        created=NOW,
        completed=NOW,
        stable_timestamp=OplogTimestamp(seconds=1_700_000_000, increment=3),
        applied_timestamp=OplogTimestamp(seconds=1_700_000_000, increment=5),
        mongod_version="6.0.5",
        fcv="6.0",
        head_address="head.example:27017",
        oplog_file="collection-7.wt",
        storage={"directoryPerDB": False, "engine": "wiredTiger"},
        data_size_bytes=1,
        storage_size_bytes=2,
        new_stored_bytes=new_stored_bytes,
        last_full_read=NOW,
        files=tuple(files),
    )


def store_tree(
    store: ReplicaSetStore,
    sources: Sequence[SourceFile],
    number: int,
    *,
    parent: Manifest | None = None,
    full_read: bool = False,
    attempt: int = 0,
    threads: int = 2,
    pack_bytes: int = 200_000,
) -> StoredFiles:
    return store_files(
        store,
        sources,
        snapshot_id=snapshot_id(number),
        attempt=attempt,
        parent=parent,
        full_read=full_read,
        threads=threads,
        progress=NoProgress(),
        check_cancelled=lambda: None,
        pack_bytes=pack_bytes,
    )


def take(
    store: ReplicaSetStore,
    root: Path,
    number: int,
    *,
    parent: Manifest | None = None,
    attempt: int = 0,
    always_read: bool = True,
) -> tuple[Manifest, StoredFiles]:
    """A committed snapshot of all files below `root`."""
    sources = sources_of(root, always_read=always_read, aged_seconds=0 if always_read else 10)
    stored = store_tree(store, sources, number, parent=parent, attempt=attempt)
    manifest = make_manifest(number, stored.entries, parent=parent, new_stored_bytes=stored.new_stored_bytes)
    store.commit(manifest, parent=parent)
    return manifest, stored


def restore(
    store: ReplicaSetStore, manifest: Manifest, target: Path, *, durable: bool = True
) -> dict[str, bytes]:
    materialise(
        store,
        manifest,
        target,
        threads=2,
        progress=NoProgress(),
        check_cancelled=lambda: None,
        durable=durable,
    )
    return read_tree(target)
