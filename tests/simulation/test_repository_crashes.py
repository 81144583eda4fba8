"""A writer that dies, fails or runs out of space at any operation of the storage.

Each run takes two snapshots of a changing tree, is stopped in the second at one operation, and is then tried
again as a worker would: `discard_attempts`, then the whole snapshot. Whatever was committed must verify all
the time.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebbtide.domain.progress import NoProgress
from ebbtide.errors import IntegrityError, ObjectNotFound, StorageError, StorageFull
from ebbtide.repository.manifest import Manifest
from ebbtide.repository.repository import ReplicaSetStore
from ebbtide.repository.verify import verify_snapshot
from ebbtide.testing.snapshots import new_store, read_tree, restore, snapshot_id, take, write_tree
from ebbtide.testing.storage import Faults, FaultyStorage, MemoryStorage, SimulatedCrash

BLOCK = 65536


@dataclass
class Scene:
    """A committed first snapshot in `storage`, and in `root` the changed tree that the second one must
    hold."""

    storage: MemoryStorage
    store: ReplicaSetStore
    first: Manifest
    first_tree: dict[str, bytes]
    root: Path

    def copy(self) -> "Scene":
        storage = MemoryStorage()
        storage.objects = dict(self.storage.objects)
        return Scene(storage, on(storage, self.store), self.first, self.first_tree, self.root)

    def faulty(self, faults: Faults) -> tuple[FaultyStorage, ReplicaSetStore]:
        storage = FaultyStorage(self.storage, faults)
        return storage, on(storage, self.store)


def on(storage: MemoryStorage | FaultyStorage, store: ReplicaSetStore) -> ReplicaSetStore:
    return ReplicaSetStore(storage, cluster_id=store.cluster_id, replica_set_name=store.replica_set_name)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    root = tmp_path_factory.mktemp("source")
    rng = random.Random(11)
    write_tree(
        root, {"WiredTiger": b"w", "a.wt": rng.randbytes(12 * BLOCK), "b.wt": rng.randbytes(7 * BLOCK)}
    )
    storage = MemoryStorage()
    store = new_store(storage)
    first, _ = take(store, root, 1)
    first_tree = read_tree(root)
    changed = bytearray(first_tree["a.wt"])
    changed[3 * BLOCK : 9 * BLOCK] = rng.randbytes(6 * BLOCK)
    write_tree(root, {"a.wt": bytes(changed), "c.wt": rng.randbytes(8 * BLOCK), "small.wt": b"new"})
    return Scene(storage, store, first, first_tree, root)


def require_sound(scene: Scene, tmp_path: Path) -> None:
    """Whatever is committed verifies, and the first snapshot still gives its files."""
    ids = list(scene.store.iter_snapshot_ids())
    assert scene.first.snapshot_id in ids
    for found in ids:
        manifest = scene.store.load_manifest(found)
        assert (
            verify_snapshot(
                scene.store, manifest, threads=1, progress=NoProgress(), check_cancelled=lambda: None
            )
            == []
        )
    assert scene.first_tree == restore(scene.store, scene.first, tmp_path / "first")


def retry(scene: Scene, tmp_path: Path) -> None:
    """What the next worker does with the same snapshot."""
    if not scene.store.has_snapshot(snapshot_id(2)):
        scene.store.discard_attempts(snapshot_id(2))
        assert not [name for name in scene.storage.objects if f"/packs/{snapshot_id(2)}" in name]
        take(scene.store, scene.root, 2, parent=scene.first, attempt=1)
    second = scene.store.load_manifest(snapshot_id(2))
    assert read_tree(scene.root) == restore(scene.store, second, tmp_path / "second")


def count_of(scene: Scene) -> tuple[int, int]:
    """Operations and puts of an undisturbed second snapshot."""
    undisturbed = scene.copy()
    storage, store = undisturbed.faulty(Faults())
    take(store, scene.root, 2, parent=scene.first)
    return storage.operations, storage.puts


def test_a_crash_at_any_operation_harms_nothing_and_the_retry_succeeds(scene: Scene, tmp_path: Path) -> None:
    operations, puts = count_of(scene)
    assert puts > 5
    faults = [Faults(crash_at_operation=n) for n in range(1, operations + 1)]
    faults += [Faults(crash_before_put=n) for n in range(1, puts + 1)]
    faults += [Faults(crash_after_put=n) for n in range(1, puts + 1)]
    for index, fault in enumerate(faults):
        crashed = scene.copy()
        _, store = crashed.faulty(fault)
        with pytest.raises(SimulatedCrash):
            take(store, scene.root, 2, parent=scene.first)
        require_sound(crashed, tmp_path / f"{index}-sound")
        retry(crashed, tmp_path / f"{index}-retry")
        require_sound(crashed, tmp_path / f"{index}-after")


def test_a_snapshot_is_committed_by_its_last_put_alone(scene: Scene) -> None:
    _, puts = count_of(scene)
    for fault, committed in (
        (Faults(crash_before_put=puts), False),
        (Faults(crash_after_put=puts - 1), False),
        (Faults(crash_after_put=puts), True),
    ):
        crashed = scene.copy()
        _, store = crashed.faulty(fault)
        with pytest.raises(SimulatedCrash):
            take(store, scene.root, 2, parent=scene.first)
        assert committed == crashed.store.has_snapshot(snapshot_id(2))


def test_a_failure_at_any_operation_is_reported_and_harms_nothing(scene: Scene, tmp_path: Path) -> None:
    operations, _ = count_of(scene)
    for number in range(1, operations + 1):
        failed = scene.copy()
        _, store = failed.faulty(Faults(fail_operation=number))
        with pytest.raises(StorageError):
            take(store, scene.root, 2, parent=scene.first)
        require_sound(failed, tmp_path / f"{number}-sound")
        retry(failed, tmp_path / f"{number}-retry")


def test_a_storage_that_fills_up_anywhere_is_storage_full_and_harms_nothing(
    scene: Scene, tmp_path: Path
) -> None:
    needed = sum(map(len, scene.copy().storage.objects.values()))
    for limit in range(0, needed, needed // 12):
        full = scene.copy()
        storage, store = full.faulty(Faults(disk_full_at_bytes=limit))
        try:
            take(store, scene.root, 2, parent=scene.first)
        except StorageFull:
            assert not full.store.has_snapshot(snapshot_id(2))
        else:
            assert storage.put_bytes <= limit
        require_sound(full, tmp_path / f"{limit}-sound")
        retry(full, tmp_path / f"{limit}-retry")


def test_a_write_that_was_lost_or_torn_is_never_committed_over(scene: Scene, tmp_path: Path) -> None:
    """All but the manifest's own put: that one is the last, and nothing looks after it."""
    _, puts = count_of(scene)
    for number in range(1, puts):
        for fault in (Faults(lose_put=number), Faults(tear_put=number)):
            lost = scene.copy()
            _, store = lost.faulty(fault)
            with pytest.raises((IntegrityError, ObjectNotFound)) as caught:
                take(store, scene.root, 2, parent=scene.first)
            assert any(kind in str(caught.value) for kind in ("/packs/", "/recipes/"))
            assert not lost.store.has_snapshot(snapshot_id(2))
            require_sound(lost, tmp_path / f"{number}-{fault.lose_put}")


edits = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 6 * BLOCK), st.integers(0, 2 * BLOCK), st.booleans()),
    min_size=1,
    max_size=4,
)


@given(history=st.lists(edits, min_size=1, max_size=4), seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_snapshot_of_a_chain_gives_back_its_own_files(
    history: list[list[tuple[int, int, int, bool]]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("chain")
    (root / "source").mkdir()
    rng = random.Random(seed)
    store = new_store(MemoryStorage())
    parent: Manifest | None = None
    expected: list[tuple[Manifest, dict[str, bytes]]] = []
    for number, step in enumerate(history, start=1):
        for file, offset, length, truncate in step:
            edit(root / "source" / f"f{file}.wt", offset, rng.randbytes(length), truncate=truncate)
        parent, _ = take(store, root / "source", number, parent=parent)
        expected.append((parent, read_tree(root / "source")))
    for number, (manifest, files) in enumerate(expected):
        assert files == restore(store, manifest, root / f"restored-{number}")


def edit(path: Path, offset: int, content: bytes, *, truncate: bool) -> None:
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.seek(offset)
        file.write(content)
        if truncate:
            file.truncate()
