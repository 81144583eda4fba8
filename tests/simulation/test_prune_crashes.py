"""A pruner that dies or fails at any operation of the storage; and random histories of snapshots, deletions, prunes.

Whatever happens, each snapshot that was not deleted verifies and gives back its files; and a prune that is left to
finish leaves exactly what these need.
"""

import random
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.progress import NoProgress
from ebbtide.errors import IntegrityError, StorageError, StorageFull
from ebbtide.repository.manifest import Manifest
from ebbtide.repository.prune import Kind, PrunePlan, execute_prune, inspect, plan_prune
from ebbtide.repository.repository import ReplicaSetStore, never_cancelled
from ebbtide.repository.verify import verify_snapshot
from ebbtide.testing.snapshots import NOW, new_store, read_tree, restore, snapshot_id, take, write_tree
from ebbtide.testing.storage import Faults, FaultyStorage, MemoryStorage, SimulatedCrash

BLOCK = 65536
GRACE = timedelta(hours=12)
NO_GRACE = timedelta(0)


def on(storage: MemoryStorage | FaultyStorage, store: ReplicaSetStore) -> ReplicaSetStore:
    return ReplicaSetStore(storage, cluster_id=store.cluster_id, replica_set_name=store.replica_set_name)


def prune(
    store: ReplicaSetStore,
    remove: Collection[SnapshotId],
    *,
    after: timedelta = timedelta(0),
    grace: timedelta = NO_GRACE,
    rewrite_below: float = 0,
) -> PrunePlan:
    """One whole run, `after` NOW. Mostly dead packs stay as they are unless a test is about them."""
    inspection = inspect(store, remove=remove, check=never_cancelled)
    plan = plan_prune(inspection, now=NOW + after, grace=grace, rewrite_below=rewrite_below)
    execute_prune(store, plan, check=never_cancelled)
    return plan


def needed_by(store: ReplicaSetStore, manifests: Collection[Manifest]) -> set[str]:
    """The names of the objects of these snapshots, found without prune's own code."""
    found = set()
    for manifest in manifests:
        found.add(store.manifest_name(manifest.snapshot_id))
        for entry in manifest.files:
            for stretch in entry.stretches:
                if stretch.recipe_hash is not None:
                    found.add(store.recipe_name(stretch.recipe_hash))
                recipe = store.load_recipe(stretch, snapshot_id=manifest.snapshot_id)
                found |= {store.pack_name(pack_id) for pack_id in recipe.pack_ids()}
    return found


@dataclass
class Scene:
    """Four snapshots of a changing tree, what an interrupted fifth one left, and the files of each."""

    storage: MemoryStorage
    store: ReplicaSetStore
    manifests: dict[SnapshotId, Manifest] = field(default_factory=dict)
    trees: dict[SnapshotId, dict[str, bytes]] = field(default_factory=dict)

    def copy(self) -> "Scene":
        storage = MemoryStorage()
        storage.objects = dict(self.storage.objects)
        return Scene(storage, on(storage, self.store), dict(self.manifests), dict(self.trees))

    def faulty(self, faults: Faults) -> tuple[FaultyStorage, ReplicaSetStore]:
        storage = FaultyStorage(self.storage, faults)
        return storage, on(storage, self.store)

    def kept(self, removed: Collection[SnapshotId]) -> list[Manifest]:
        return [m for snapshot, m in self.manifests.items() if snapshot not in removed]

    def objects(self) -> set[str]:
        """All objects of the replica set but the mark."""
        return {n for n in self.storage.objects if "/" in n and n != self.store.mark_name}

    def require_sound(self, removed: Collection[SnapshotId]) -> None:
        for manifest in self.kept(removed):
            found = self.store.load_manifest(manifest.snapshot_id)
            assert manifest == found
            damage = verify_snapshot(
                self.store, found, threads=1, progress=NoProgress(), check_cancelled=never_cancelled
            )
            assert damage == []


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    root = tmp_path_factory.mktemp("source")
    rng = random.Random(5)
    write_tree(root, {"a.wt": rng.randbytes(12 * BLOCK), "b.wt": rng.randbytes(7 * BLOCK)})
    storage = MemoryStorage()
    made = Scene(storage, new_store(storage))
    parent: Manifest | None = None
    for number in range(1, 5):
        parent, _ = take(made.store, root, number, parent=parent)
        made.manifests[parent.snapshot_id] = parent
        made.trees[parent.snapshot_id] = read_tree(root)
        change(root, rng, number)
    _, store = made.faulty(Faults(crash_before_put=4))
    with pytest.raises(SimulatedCrash):
        take(store, root, 5, parent=parent)
    return made


def change(root: Path, rng: random.Random, number: int) -> None:
    """Some blocks of each file, a file that comes and one that goes."""
    for path in sorted(root.glob("*.wt")):
        data = bytearray(path.read_bytes())
        at = rng.randrange(len(data) - BLOCK)
        data[at : at + 3 * BLOCK] = rng.randbytes(3 * BLOCK)
        path.write_bytes(data)
    write_tree(root, {f"new{number}.wt": rng.randbytes(6 * BLOCK)})
    (root / f"new{number - 2}.wt").unlink(missing_ok=True)


REMOVED = [
    (snapshot_id(1),),
    (snapshot_id(2),),
    (snapshot_id(1), snapshot_id(3)),
    (snapshot_id(4),),
    tuple(snapshot_id(n) for n in range(1, 5)),
]


@pytest.mark.parametrize("removed", REMOVED)
def test_a_prune_leaves_exactly_what_the_kept_snapshots_need(
    scene: Scene, removed: tuple[SnapshotId, ...], tmp_path: Path
) -> None:
    pruned = scene.copy()
    before = sum(map(len, pruned.storage.objects.values()))
    plan = prune(pruned.store, removed)
    assert needed_by(scene.store, scene.kept(removed)) == pruned.objects()
    pruned.require_sound(removed)
    for manifest in scene.kept(removed):
        restored = restore(pruned.store, manifest, tmp_path / manifest.snapshot_id)
        assert scene.trees[manifest.snapshot_id] == restored
    # The mark is of what was there, and goes with the next run, which finds nothing more to do.
    assert prune(pruned.store, ()).removals == ()
    after = sum(map(len, pruned.storage.objects.values()))
    assert before - after == plan.removed_bytes
    assert pruned.store.mark_name not in pruned.storage.objects


def test_what_an_interrupted_snapshot_left_goes_after_the_grace_period(scene: Scene) -> None:
    pruned = scene.copy()
    orphans = pruned.objects() - needed_by(scene.store, list(scene.manifests.values()))
    assert orphans
    first = prune(pruned.store, (), grace=GRACE)
    assert (first.removals, first.waiting_objects) == ((), len(orphans))
    early = prune(pruned.store, (), grace=GRACE, after=GRACE - timedelta(seconds=1))
    assert early.removals == ()
    assert early.mark is None  # the time of the first sight stands
    prune(pruned.store, (), grace=GRACE, after=GRACE)
    assert needed_by(scene.store, list(scene.manifests.values())) == pruned.objects()
    pruned.require_sound(())


def test_a_manifest_goes_at_once_and_what_it_named_waits_for_the_grace_period(scene: Scene) -> None:
    pruned = scene.copy()
    removed = (snapshot_id(1), snapshot_id(2))
    plan = prune(pruned.store, removed, grace=GRACE)
    assert plan.count(Kind.MANIFEST) == len(plan.removals) == 2
    assert plan.waiting_bytes > 0
    pruned.require_sound(removed)
    # The second run need not be told again which snapshots were deleted.
    prune(pruned.store, (), grace=GRACE, after=GRACE)
    assert needed_by(scene.store, scene.kept(removed)) == pruned.objects()


def test_what_is_referred_to_again_is_marked_no_longer(scene: Scene) -> None:
    pruned = scene.copy()
    removed = (snapshot_id(1),)
    manifest = pruned.storage.objects[pruned.store.manifest_name(snapshot_id(1))]
    prune(pruned.store, removed, grace=GRACE)
    pruned.storage.objects[pruned.store.manifest_name(snapshot_id(1))] = manifest
    prune(pruned.store, (), grace=GRACE, after=2 * GRACE)
    pruned.require_sound(())


@pytest.mark.parametrize("damage", ["manifest", "recipe", "absent recipe"])
def test_nothing_is_swept_while_references_cannot_be_read(scene: Scene, damage: str) -> None:
    pruned = scene.copy()
    named = scene.manifests[snapshot_id(4)]
    name = pruned.store.manifest_name(snapshot_id(4))
    if damage != "manifest":
        name = pruned.store.recipe_name(min(named.recipe_hashes()))
    if damage == "absent recipe":
        del pruned.storage.objects[name]
    else:
        pruned.storage.objects[name] = pruned.storage.objects[name][:-1] + b"?"
    before = pruned.objects()
    plan = prune(pruned.store, (snapshot_id(1),))
    assert name in plan.blocked
    assert before - pruned.objects() == {pruned.store.manifest_name(snapshot_id(1))}
    # Whoever deletes the damaged snapshot frees the way.
    removed = (snapshot_id(1), snapshot_id(4))
    if damage == "manifest":
        prune(pruned.store, removed)
        assert needed_by(scene.store, scene.kept(removed)) == pruned.objects()


def test_a_damaged_mark_only_starts_the_grace_period_anew(scene: Scene) -> None:
    pruned = scene.copy()
    prune(pruned.store, (snapshot_id(1),), grace=GRACE)
    name = pruned.store.mark_name
    pruned.storage.objects[name] = pruned.storage.objects[name].replace(b"2026", b"2016")
    assert prune(pruned.store, (), grace=GRACE, after=GRACE).removals == ()
    assert prune(pruned.store, (), grace=GRACE, after=2 * GRACE).removals != ()


def test_a_clock_that_goes_back_sweeps_nothing_early(scene: Scene) -> None:
    pruned = scene.copy()
    prune(pruned.store, (snapshot_id(1),), grace=GRACE, after=timedelta(days=400))
    assert prune(pruned.store, (), grace=GRACE).removals == ()
    assert prune(pruned.store, (), grace=GRACE, after=GRACE - timedelta(seconds=1)).removals == ()
    assert prune(pruned.store, (), grace=GRACE, after=GRACE).removals != ()


@pytest.mark.parametrize("removed", REMOVED)
def test_a_crash_at_any_operation_harms_nothing_and_the_next_run_finishes(
    scene: Scene, removed: tuple[SnapshotId, ...]
) -> None:
    counting = scene.copy()
    storage, store = counting.faulty(Faults())
    prune(store, removed)
    assert storage.operations > 20
    expected = needed_by(scene.store, scene.kept(removed))
    faults = [Faults(crash_at_operation=n) for n in range(1, storage.operations + 1)]
    faults += [Faults(crash_after_put=n) for n in range(1, storage.puts + 1)]
    faults += [Faults(tear_put=n) for n in range(1, storage.puts + 1)]
    faults += [Faults(fail_operation=n) for n in range(1, storage.operations + 1)]
    for fault in faults:
        crashed = scene.copy()
        _, store = crashed.faulty(fault)
        try:
            prune(store, removed)
        except (SimulatedCrash, StorageError):
            pass
        crashed.require_sound(removed)
        # Whoever comes next may still know of the deletions, or find some of the manifests gone.
        prune(crashed.store, removed)
        assert expected == crashed.objects()
        crashed.require_sound(removed)


# --- mostly dead packs -----------------------------------------------------------------------------------------------


def prune_until_done(scene: Scene, removed: Collection[SnapshotId], *, rewrite_below: float) -> int:
    """Runs until one changes nothing; how many there were."""
    for number in range(1, 20):
        before = dict(scene.storage.objects)
        prune(scene.store, removed, rewrite_below=rewrite_below)
        if before == scene.storage.objects:
            return number
    raise AssertionError("prune comes to no end")


def packs_of(scene: Scene) -> dict[str, int]:
    return scene.store.sizes("packs/")


def is_rewritable(scene: Scene, removed: Collection[SnapshotId], below: float) -> bool:
    return bool(
        plan_prune(
            inspect(scene.store, remove=removed, check=never_cancelled),
            now=NOW,
            grace=GRACE,
            rewrite_below=below,
        ).rewrites
    )


@pytest.mark.parametrize("removed", REMOVED[:3])
def test_what_lives_in_mostly_dead_packs_is_moved_and_still_read(
    scene: Scene, removed: tuple[SnapshotId, ...], tmp_path: Path
) -> None:
    plain, moved = scene.copy(), scene.copy()
    prune_until_done(plain, removed, rewrite_below=0)
    assert is_rewritable(moved, removed, 0.9)
    runs = prune_until_done(moved, removed, rewrite_below=0.9)
    assert runs <= 5
    assert sum(packs_of(moved).values()) < sum(packs_of(plain).values())
    assert not is_rewritable(moved, removed, 0.9)
    # Manifests and recipes are the very same objects.
    for folder in ("snapshots/", "recipes/"):
        assert plain.store.sizes(folder) == moved.store.sizes(folder)
    moved.require_sound(removed)
    for manifest in scene.kept(removed):
        fresh = on(moved.storage, moved.store)
        restored = restore(fresh, manifest, tmp_path / manifest.snapshot_id)
        assert scene.trees[manifest.snapshot_id] == restored


def test_a_reader_goes_on_while_its_packs_are_moved_and_swept(scene: Scene, tmp_path: Path) -> None:
    moved = scene.copy()
    reader = on(moved.storage, moved.store)
    manifest = reader.load_manifest(snapshot_id(4))
    prune_until_done(moved, (snapshot_id(1),), rewrite_below=0.9)
    assert scene.trees[snapshot_id(4)] == restore(reader, manifest, tmp_path / "fourth")
    # And whoever remembers the new place stays right when the rest of it goes.
    prune_until_done(moved, (snapshot_id(1), snapshot_id(2)), rewrite_below=0.9)
    assert scene.trees[snapshot_id(4)] == restore(reader, manifest, tmp_path / "again")


def test_a_snapshot_can_be_built_on_moved_blocks(scene: Scene, tmp_path: Path) -> None:
    moved = scene.copy()
    prune_until_done(moved, (snapshot_id(1), snapshot_id(2)), rewrite_below=0.9)
    write_tree(tmp_path / "tree", scene.trees[snapshot_id(4)])
    write_tree(tmp_path / "tree", {"more.wt": b"m" * 3 * BLOCK})
    parent = moved.manifests[snapshot_id(4)]
    sixth, stored = take(moved.store, tmp_path / "tree", 6, parent=parent)
    assert stored.blocks_reused > 10
    moved.manifests[sixth.snapshot_id] = sixth
    removed = tuple(snapshot_id(n) for n in range(1, 5))
    prune_until_done(moved, removed, rewrite_below=0.9)
    moved.require_sound(removed)
    assert read_tree(tmp_path / "tree") == restore(moved.store, sixth, tmp_path / "sixth")


def test_moves_go_with_the_last_snapshot_that_needs_them(scene: Scene) -> None:
    moved = scene.copy()
    prune_until_done(moved, (snapshot_id(1),), rewrite_below=0.9)
    assert moved.store.sizes("moved/")
    prune_until_done(moved, tuple(snapshot_id(n) for n in range(1, 5)), rewrite_below=0.9)
    assert moved.objects() == set()


def test_a_damaged_pack_is_not_moved(scene: Scene) -> None:
    damaged = scene.copy()
    name = min(name for name in damaged.storage.objects if "/packs/" in name)
    damaged.storage.objects[name] = damaged.storage.objects[name][:-1] + b"?"
    before = damaged.storage.objects[name]
    for _ in range(4):
        prune(damaged.store, (snapshot_id(1),), rewrite_below=0.99)
    assert damaged.storage.objects[name] == before


@pytest.mark.parametrize("kind", ["flip", "cut", "absent"])
def test_a_damaged_move_is_noticed_and_stops_the_sweep(scene: Scene, kind: str) -> None:
    moved = scene.copy()
    removed = (snapshot_id(1),)
    prune_until_done(moved, removed, rewrite_below=0.9)
    name = min(name for name in moved.storage.objects if "/moved/" in name)
    data = moved.storage.objects[name]
    if kind == "absent":
        del moved.storage.objects[name]
    else:
        moved.storage.objects[name] = data[:-9] if kind == "cut" else data.replace(b'"extents"', b'"extent5"')
    fresh = on(moved.storage, moved.store)
    findings = [
        finding.object_name
        for manifest in moved.kept(removed)
        for finding in verify_snapshot(
            fresh, manifest, threads=1, progress=NoProgress(), check_cancelled=never_cancelled
        )
    ]
    pack = name.replace("/moved/", "/packs/")
    assert findings
    assert set(findings) <= {name, pack}
    if kind != "absent":
        assert prune(fresh, (), rewrite_below=0.9).blocked


@pytest.mark.parametrize("removed", [REMOVED[0], REMOVED[2]])
def test_a_crash_or_failure_anywhere_while_moving_harms_nothing(
    scene: Scene, removed: tuple[SnapshotId, ...]
) -> None:
    """Three runs: one sweeps and moves, one finds the old packs superfluous and sweeps them, one finds no more."""

    def three_runs(store: ReplicaSetStore) -> None:
        for _ in range(3):
            prune(store, removed, rewrite_below=0.9)

    counting = scene.copy()
    storage, store = counting.faulty(Faults())
    three_runs(store)
    assert counting.store.sizes("moved/")
    expected = sum(packs_of(counting).values())
    faults = [Faults(crash_at_operation=n) for n in range(1, storage.operations + 1, 2)]
    faults += [Faults(crash_after_put=n) for n in range(1, storage.puts + 1)]
    faults += [Faults(tear_put=n) for n in range(1, storage.puts + 1)]
    faults += [Faults(lose_put=n) for n in range(1, storage.puts + 1)]
    faults += [Faults(fail_operation=n) for n in range(2, storage.operations + 1, 2)]
    for fault in faults:
        crashed = scene.copy()
        _, store = crashed.faulty(fault)
        with suppress(SimulatedCrash, StorageError, IntegrityError):
            three_runs(store)
        crashed.require_sound(removed)
        prune_until_done(crashed, removed, rewrite_below=0.9)
        crashed.require_sound(removed)
        # A batch whose moves were written in part leaves a part of its new pack to nobody.
        assert sum(packs_of(crashed).values()) <= expected * 1.25, fault


def test_a_full_storage_is_swept_although_nothing_can_be_written(scene: Scene) -> None:
    full = scene.copy()
    removed = (snapshot_id(1), snapshot_id(2))
    prune(full.store, removed[:1], grace=GRACE)
    _, store = full.faulty(Faults(disk_full_at_bytes=0))
    before = sum(packs_of(full).values())
    with pytest.raises(StorageFull):
        # The mark has news of the second snapshot and cannot be written; what was marked before goes all the same.
        prune(store, removed, grace=GRACE, after=GRACE, rewrite_below=0.9)
    assert sum(packs_of(full).values()) < before
    full.require_sound(removed)


@pytest.mark.parametrize("below", [0, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_random_histories(seed: int, below: float, tmp_path: Path) -> None:
    """Snapshots, deletions of any of them, interrupted snapshots and prunes that die anywhere, for 100 days."""
    rng = random.Random(seed)
    root = tmp_path / "source"
    write_tree(root, {"a.wt": rng.randbytes(9 * BLOCK), "b.wt": rng.randbytes(5 * BLOCK)})
    storage = MemoryStorage()
    scene = Scene(storage, new_store(storage))
    deleted: set[SnapshotId] = set()
    for day in range(1, 101):
        kept = scene.kept(deleted)
        parent = kept[-1] if kept else None
        action = rng.random()
        if action < 0.4:
            change(root, rng, day % 7)
            manifest, _ = take(scene.store, root, day, parent=parent)
            scene.manifests[manifest.snapshot_id] = manifest
        elif action < 0.5:
            _, store = scene.faulty(Faults(crash_before_put=rng.randrange(1, 4)))
            change(root, rng, day % 7)
            with pytest.raises(SimulatedCrash):
                take(store, root, day, parent=parent)
        elif action < 0.7 and kept:
            deleted.add(rng.choice(kept).snapshot_id)
        else:
            _, store = scene.faulty(Faults(crash_at_operation=rng.randrange(1, 80)))
            try:
                prune(store, deleted, grace=GRACE, after=timedelta(days=day), rewrite_below=below)
            except SimulatedCrash:
                pass
        if day % 10 == 0:
            scene.require_sound(deleted)
    prune_until_done(scene, deleted, rewrite_below=below)
    if not below:
        assert needed_by(scene.store, scene.kept(deleted)) == scene.objects()
    scene.require_sound(deleted)
