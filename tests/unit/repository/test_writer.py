"""What is stored, what is found again, and what is refused."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from ebbtide import crash_points
from ebbtide.domain.progress import NoProgress
from ebbtide.errors import (
    IntegrityError,
    InvalidInput,
    JobCancelled,
    LeaseLost,
    Refused,
    SnapshotUnusable,
    StorageFull,
)
from ebbtide.repository import source
from ebbtide.repository.block import BLOCK_BYTES
from ebbtide.repository.manifest import FileStat, ManifestKind
from ebbtide.repository.recipe import STRETCH_BYTES
from ebbtide.repository.repository import ReplicaSetStore
from ebbtide.repository.source import SourceFile, is_unchanged, stat_file
from ebbtide.repository.verify import verify_snapshot
from ebbtide.repository.writer import store_files
from ebbtide.testing.snapshots import (
    make_manifest,
    new_store,
    read_tree,
    restore,
    snapshot_id,
    sources_of,
    store_tree,
    take,
    write_tree,
)
from ebbtide.testing.storage import Faults, FaultyStorage, MemoryStorage

SECOND = 10**9
STAT = FileStat(
    size_bytes=10, mtime_ns=100 * SECOND, ctime_ns=100 * SECOND, inode=7, stated_at_ns=200 * SECOND
)


def data(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def store() -> ReplicaSetStore:
    return new_store(MemoryStorage())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


# The rule for files that are not read


def test_a_file_with_an_equal_and_old_stat_is_unchanged() -> None:
    assert is_unchanged(now=replace(STAT, stated_at_ns=300 * SECOND), parent=STAT)


@pytest.mark.parametrize("name", ["size_bytes", "mtime_ns", "ctime_ns", "inode"])
def test_any_difference_in_the_stat_counts(name: str) -> None:
    assert not is_unchanged(now=replace(STAT, **{name: 11}), parent=STAT)


@pytest.mark.parametrize(
    ("age_ns", "expected"), [(2 * SECOND, True), (2 * SECOND - 1, False), (-SECOND, False)]
)
def test_an_mtime_proves_something_only_when_it_was_two_seconds_old(age_ns: int, expected: bool) -> None:
    parent = replace(STAT, stated_at_ns=STAT.mtime_ns + age_ns)
    assert expected == is_unchanged(now=STAT, parent=parent)


# What is stored


def test_a_tree_comes_back_as_it_was(store: ReplicaSetStore, root: Path, tmp_path: Path) -> None:
    write_tree(
        root,
        {
            "WiredTiger": b"WiredTiger",
            "empty.wt": b"",
            "one.wt": data(1),
            "block.wt": data(BLOCK_BYTES),
            "block-and-one.wt": data(BLOCK_BYTES + 1),
            "dir/large.wt": data(9 * 1024 * 1024 + 17),
            "dir/deeper/zeros.wt": bytes(20 * BLOCK_BYTES),
        },
    )
    manifest, stored = take(store, root, 1)
    assert read_tree(root) == restore(store, manifest, tmp_path / "restored")
    assert manifest == store.load_manifest(manifest.snapshot_id)
    assert (
        verify_snapshot(store, manifest, threads=2, progress=NoProgress(), check_cancelled=lambda: None) == []
    )
    assert stored.read_bytes == sum(len(content) for content in read_tree(root).values())
    # The zeros are one block, and packs were closed at their size.
    assert stored.blocks_reused == 19
    assert len(list(store.storage.iter_objects(store.pack_name("")))) > 10


def test_a_file_longer_than_a_stretch_comes_back(store: ReplicaSetStore, root: Path, tmp_path: Path) -> None:
    path = root / "large.wt"
    path.write_bytes(data(100_000))
    os.truncate(path, STRETCH_BYTES + 100_000)
    manifest, _ = take(store, root, 1)
    assert [s.plain_bytes for s in manifest.files[0].stretches] == [STRETCH_BYTES, 100_000]
    assert read_tree(root) == restore(store, manifest, tmp_path / "restored")


def test_an_unchanged_tree_stores_nothing_though_it_is_read(store: ReplicaSetStore, root: Path) -> None:
    write_tree(root, {f"f{i}.wt": data(300_000, i) for i in range(5)})
    first, _ = take(store, root, 1)
    before = dict(store.storage.objects)  # type: ignore[attr-defined]
    second, stored = take(store, root, 2, parent=first)
    assert stored.new_stored_bytes == 0
    assert stored.files_read == 5
    assert [e.stretches for e in first.files] == [e.stretches for e in second.files]
    new = set(store.storage.objects) - set(before)  # type: ignore[attr-defined]
    assert {store.manifest_name(second.snapshot_id)} == new


def test_files_that_seem_unchanged_are_not_even_read(store: ReplicaSetStore, root: Path) -> None:
    write_tree(root, {f"f{i}.wt": data(300_000, i) for i in range(5)})
    first, _ = take(store, root, 1, always_read=False)
    second, stored = take(store, root, 2, parent=first, always_read=False)
    assert (stored.files_read, stored.files_unchanged, stored.read_bytes) == (0, 5, 0)
    assert [e.stretches for e in first.files] == [e.stretches for e in second.files]


def test_a_local_change_stores_its_blocks_alone(store: ReplicaSetStore, root: Path) -> None:
    write_tree(root, {"a.wt": data(100 * BLOCK_BYTES)})
    first, _ = take(store, root, 1)
    with open(root / "a.wt", "r+b") as file:
        file.seek(40 * BLOCK_BYTES + 5)
        file.write(b"changed")
    _, stored = take(store, root, 2, parent=first)
    assert (stored.blocks_new, stored.blocks_reused) == (1, 99)
    assert stored.new_stored_bytes < 1.1 * BLOCK_BYTES + 5000


def test_a_block_that_moved_within_its_file_is_found_again(store: ReplicaSetStore, root: Path) -> None:
    blocks = [data(BLOCK_BYTES, seed) for seed in range(20)]
    write_tree(root, {"a.wt": b"".join(blocks)})
    first, _ = take(store, root, 1)
    write_tree(root, {"a.wt": b"".join(reversed(blocks))})
    _, stored = take(store, root, 2, parent=first)
    assert (stored.blocks_new, stored.blocks_reused) == (0, 20)


def test_the_index_of_blocks_by_hash_is_bounded(
    store: ReplicaSetStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "INDEXED_BLOCKS_MAX", 3)
    blocks = [data(BLOCK_BYTES, seed) for seed in range(20)]
    write_tree(root, {"a.wt": b"".join(blocks)})
    first, _ = take(store, root, 1)
    write_tree(root, {"a.wt": b"".join(reversed(blocks))})
    second, stored = take(store, root, 2, parent=first)
    assert (stored.blocks_new, stored.blocks_reused) == (17, 3)
    assert read_tree(root) == restore(store, second, tmp_path / "restored")


def test_a_full_read_tells_of_changes_that_the_stat_hid(store: ReplicaSetStore, root: Path) -> None:
    write_tree(root, {"a.wt": data(BLOCK_BYTES), "b.wt": data(BLOCK_BYTES)})
    first, _ = take(store, root, 1, always_read=False)
    (root / "a.wt").write_bytes(data(BLOCK_BYTES, 1))
    stats = {entry.path: entry.stat for entry in first.files}
    hidden = [replace(source, stat=stats[source.path]) for source in sources_of(root, always_read=False)]
    assert store_tree(store, hidden, 2, parent=first).unexpected_changes == ()
    found = store_tree(store, hidden, 3, parent=first, full_read=True)
    assert found.unexpected_changes == ("a.wt",)
    assert found.files_read == 2


def test_a_file_that_grows_is_stored_with_the_length_seen(
    store: ReplicaSetStore, root: Path, tmp_path: Path
) -> None:
    write_tree(root, {"a.wt": data(100_000)})
    sources = sources_of(root)
    with open(root / "a.wt", "ab") as file:
        file.write(b"more")
    manifest = make_manifest(1, store_tree(store, sources, 1).entries)
    store.commit(manifest)
    assert {"a.wt": data(100_000)} == restore(store, manifest, tmp_path / "restored")


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: os.truncate(path, 5)])
def test_a_file_that_vanishes_or_shrinks_spoils_the_snapshot_unless_it_may(
    store: ReplicaSetStore, root: Path, harm: object
) -> None:
    write_tree(root, {"a.wt": data(100_000), "journal.1": data(200_000)})
    sources = sources_of(root)
    harm(root / "journal.1")  # type: ignore[operator]
    with pytest.raises(SnapshotUnusable, match=r"journal\.1 vanished or shrank"):
        store_tree(store, sources, 1)
    tolerant = [replace(source, may_vanish=True) for source in sources]
    assert [entry.path for entry in store_tree(store, tolerant, 2).entries] == ["a.wt"]


def test_thousands_of_small_files_come_back(store: ReplicaSetStore, root: Path, tmp_path: Path) -> None:
    write_tree(root, {f"d{i % 10}/f{i}.wt": data(i % 5000, i) for i in range(1500)})
    manifest, _ = take(store, root, 1)
    assert read_tree(root) == restore(store, manifest, tmp_path / "restored")
    assert set() == manifest.recipe_hashes()


def test_the_same_files_give_the_same_recipes_whatever_the_threads(root: Path) -> None:
    write_tree(
        root, {"a.wt": data(50 * BLOCK_BYTES) + bytes(30 * BLOCK_BYTES), "b.wt": data(10 * BLOCK_BYTES)}
    )
    sources = sources_of(root)
    results = [store_tree(new_store(MemoryStorage()), sources, 1, threads=n).entries for n in (1, 4)]
    assert results[0] == results[1]


def test_damage_in_the_parent_costs_space_but_spoils_nothing(
    store: ReplicaSetStore, root: Path, tmp_path: Path
) -> None:
    write_tree(root, {"a.wt": data(10 * BLOCK_BYTES), "b.wt": data(10 * BLOCK_BYTES, 1)})
    first, _ = take(store, root, 1)
    lost = store.recipe_name(first.files[0].stretches[0].recipe_hash or "")
    store.storage.delete(lost)
    second, stored = take(store, root, 2, parent=first)
    assert (lost,) == stored.damaged_parent_objects
    assert stored.unexpected_changes == ()
    assert (stored.blocks_new, stored.blocks_reused) == (10, 10)
    assert read_tree(root) == restore(store, second, tmp_path / "restored")


# What is refused


def test_cancelling_stops_it_and_leaves_no_thread(store: ReplicaSetStore, root: Path) -> None:
    write_tree(root, {"a.wt": data(100_000)})

    def cancelled() -> None:
        raise JobCancelled("asked to stop")

    with pytest.raises(JobCancelled):
        store_files(
            store,
            sources_of(root),
            snapshot_id=snapshot_id(1),
            attempt=0,
            parent=None,
            full_read=False,
            threads=2,
            progress=NoProgress(),
            check_cancelled=cancelled,
        )


def test_doubtful_sources_are_refused(store: ReplicaSetStore, root: Path) -> None:
    write_tree(root, {"a.wt": b"x"})
    stat = stat_file(root / "a.wt")
    for path in ("../a.wt", "/a.wt", ""):
        with pytest.raises(InvalidInput):
            store_tree(store, [SourceFile(path=path, absolute=root / "a.wt", stat=stat)], 1)
    with pytest.raises(InvalidInput):
        store_tree(store, sources_of(root) * 2, 1)


def test_what_was_replayed_is_never_a_parent(store: ReplicaSetStore, root: Path) -> None:
    write_tree(root, {"a.wt": b"x"})
    first, _ = take(store, root, 1)
    with pytest.raises(Refused):
        store_tree(store, sources_of(root), 2, parent=replace(first, kind=ManifestKind.DELIVER_ONLY))


def test_a_full_storage_is_storage_full(root: Path) -> None:
    storage = MemoryStorage()
    store = new_store(storage)
    write_tree(root, {"a.wt": data(30 * BLOCK_BYTES)})
    before = dict(storage.objects)
    full = ReplicaSetStore(
        FaultyStorage(storage, Faults(disk_full_at_bytes=500_000)),
        cluster_id=store.cluster_id,
        replica_set_name=store.replica_set_name,
    )
    with pytest.raises(StorageFull):
        take(full, root, 1)
    assert before == {name: storage.objects[name] for name in before}
    assert list(store.iter_snapshot_ids()) == []


def test_commit_refuses_a_manifest_whose_objects_are_absent(store: ReplicaSetStore, root: Path) -> None:
    write_tree(root, {"a.wt": data(10 * BLOCK_BYTES), "b.wt": data(100)})
    stored = store_tree(store, sources_of(root), 1)
    manifest = make_manifest(1, stored.entries)
    names = [found.name for found in store.storage.iter_objects("")]
    needed = [name for name in names if "/packs/" in name or "/recipes/" in name]
    assert needed
    for name in needed:
        content = store.storage.get(name, limit=2**30)
        store.storage.delete(name)
        with pytest.raises(IntegrityError) as caught:
            store.commit(manifest)
        assert name == caught.value.object_name
        store.storage.put(name, [content])
    store.commit(manifest)
    store.commit(manifest)
    with pytest.raises(Refused):
        store.commit(replace(manifest, fcv="5.0"))
    with pytest.raises(Refused):
        store.commit(replace(manifest, replica_set_name="other"))


def test_discarding_attempts_removes_their_packs_and_spares_the_committed(
    store: ReplicaSetStore, root: Path, tmp_path: Path
) -> None:
    write_tree(root, {"a.wt": data(10 * BLOCK_BYTES)})
    first, _ = take(store, root, 1)
    write_tree(root, {"a.wt": data(10 * BLOCK_BYTES, 5)})
    store_tree(store, sources_of(root), 2, parent=first, attempt=0)
    assert store.discard_attempts(snapshot_id(2)) > 0
    assert store.discard_attempts(snapshot_id(2)) == 0
    with pytest.raises(Refused):
        store.discard_attempts(first.snapshot_id)
    second, _ = take(store, root, 2, parent=first, attempt=1)
    assert read_tree(root) == restore(store, second, tmp_path / "restored")


def test_who_is_the_owner_no_more_removes_and_commits_nothing(store: ReplicaSetStore, root: Path) -> None:
    def lost() -> None:
        raise LeaseLost("another worker owns it now")

    write_tree(root, {"a.wt": data(10 * BLOCK_BYTES)})
    manifest = make_manifest(1, store_tree(store, sources_of(root), 1).entries)
    before = list(store.storage.iter_objects(""))
    with pytest.raises(LeaseLost):
        store.commit(manifest, check_owner=lost)
    with pytest.raises(LeaseLost):
        store.discard_attempts(manifest.snapshot_id, check_owner=lost)
    assert before == list(store.storage.iter_objects(""))


def test_the_crash_points_are_reached_in_order(store: ReplicaSetStore, root: Path) -> None:
    write_tree(root, {"a.wt": data(10 * BLOCK_BYTES)})
    reached: list[str] = []
    crash_points.arm(reached.append)
    try:
        store_tree(store, sources_of(root), 1)
    finally:
        crash_points.arm(None)
    assert {"snapshot.pack_written"} == set(reached[:-1])
    assert reached[-1] == "snapshot.recipes_written"
