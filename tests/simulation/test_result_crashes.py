"""Replayed results beside snapshots: never one of them, and kept by prune whatever happens to it, or to their base."""

import itertools
import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ebbtide.domain.ids import ResultId, SnapshotId
from ebbtide.errors import IntegrityError, ObjectNotFound, Refused
from ebbtide.repository.manifest import Manifest, ManifestKind
from ebbtide.repository.prune import execute_prune, inspect, plan_prune
from ebbtide.repository.repository import ReplicaSetStore, never_cancelled
from ebbtide.testing.snapshots import (
    NOW,
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
from ebbtide.testing.storage import Faults, FaultyStorage, MemoryStorage, SimulatedCrash

BLOCK = 65536
BASE, RESULT = 1, 9
RESULT_ID = ResultId(snapshot_id(RESULT))


class Scene:
    """A snapshot, and a result that was made of it: some blocks of its own, most of them the snapshot's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.storage = MemoryStorage()
        self.store = new_store(self.storage)
        rng = random.Random(7)
        write_tree(root, {"a.wt": rng.randbytes(12 * BLOCK), "b.wt": rng.randbytes(5 * BLOCK)})
        self.base, _ = take(self.store, root, BASE)
        self.base_files = read_tree(root)
        data = bytearray(self.base_files["a.wt"])
        data[BLOCK : 3 * BLOCK] = rng.randbytes(2 * BLOCK)
        write_tree(root, {"a.wt": bytes(data), "WiredTiger.wt": rng.randbytes(BLOCK)})
        self.result_files = read_tree(root)

    def on(self, storage: MemoryStorage | FaultyStorage) -> ReplicaSetStore:
        return ReplicaSetStore(
            storage, cluster_id=self.store.cluster_id, replica_set_name=self.store.replica_set_name
        )

    def copy_of_storage(self) -> MemoryStorage:
        storage = MemoryStorage()
        storage.objects = dict(self.storage.objects)
        return storage

    def store_result(self, store: ReplicaSetStore) -> Manifest:
        store.discard_result_attempts(RESULT_ID)
        stored = store_tree(store, sources_of(self.root), RESULT, parent=self.base, full_read=True)
        manifest = replace(
            make_manifest(RESULT, stored.entries, parent=self.base), kind=ManifestKind.DELIVER_ONLY
        )
        store.commit_result(manifest, base=self.base)
        return manifest


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "source")


def prune(
    store: ReplicaSetStore, *, remove: tuple[SnapshotId, ...] = (), results: tuple[ResultId, ...] = ()
) -> None:
    inspection = inspect(store, remove=remove, remove_results=results, check=never_cancelled)
    plan = plan_prune(inspection, now=NOW, grace=timedelta(0))
    assert not plan.blocked
    execute_prune(store, plan, check=never_cancelled)


def test_a_result_is_no_snapshot(scene: Scene) -> None:
    manifest = scene.store_result(scene.store)

    assert [snapshot_id(BASE)] == list(scene.store.iter_snapshot_ids())
    assert list(scene.store.iter_result_ids()) == [RESULT_ID]
    assert manifest == scene.store.load_result(RESULT_ID)
    with pytest.raises(ObjectNotFound):
        scene.store.load_manifest(snapshot_id(RESULT))
    with pytest.raises(Refused):
        scene.store.commit(manifest, parent=scene.base)
    with pytest.raises(Refused):
        scene.store.commit_result(scene.base, base=scene.base)
    with pytest.raises(Refused):
        store_tree(scene.store, sources_of(scene.root), 10, parent=manifest)


def test_a_manifest_in_the_wrong_folder_is_damage(scene: Scene) -> None:
    scene.store_result(scene.store)
    data = scene.storage.objects[scene.store.result_name(RESULT_ID)]
    scene.storage.objects[scene.store.manifest_name(snapshot_id(RESULT))] = data
    with pytest.raises(IntegrityError):
        scene.store.load_manifest(snapshot_id(RESULT))


def test_prune_keeps_what_a_result_needs_though_its_base_is_deleted(scene: Scene, tmp_path: Path) -> None:
    manifest = scene.store_result(scene.store)
    prune(scene.store, remove=(snapshot_id(BASE),))

    assert list(scene.store.iter_snapshot_ids()) == []
    assert scene.result_files == restore(scene.store, manifest, tmp_path / "result")


def test_prune_removes_a_result_that_nobody_needs_and_nothing_else(scene: Scene, tmp_path: Path) -> None:
    before = set(scene.storage.objects)
    scene.store_result(scene.store)
    prune(scene.store, results=(RESULT_ID,))
    prune(scene.store)

    assert before == set(scene.storage.objects)
    assert scene.base_files == restore(scene.store, scene.base, tmp_path / "base")


def test_storing_a_result_can_begin_again_after_a_crash_anywhere(scene: Scene, tmp_path: Path) -> None:
    for operation in itertools.count(1):
        storage = scene.copy_of_storage()
        try:
            scene.store_result(scene.on(FaultyStorage(storage, Faults(crash_at_operation=operation))))
            break
        except SimulatedCrash:
            pass
        store = scene.on(storage)
        if not store.has_result(RESULT_ID):
            scene.store_result(store)
        found = store.load_result(RESULT_ID)
        target = tmp_path / str(operation)
        assert scene.result_files == restore(store, found, target)
        assert scene.base_files == restore(store, scene.base, tmp_path / f"base-{operation}")
    assert operation > 3


def test_a_prune_that_dies_anywhere_leaves_a_needed_result_whole(scene: Scene, tmp_path: Path) -> None:
    manifest = scene.store_result(scene.store)
    for operation in itertools.count(1):
        storage = scene.copy_of_storage()
        store = scene.on(FaultyStorage(storage, Faults(crash_at_operation=operation)))
        try:
            prune(store, remove=(snapshot_id(BASE),))
            break
        except SimulatedCrash:
            pass
        assert scene.result_files == restore(scene.on(storage), manifest, tmp_path / str(operation))
    assert operation > 3
