"""Prune: removing what no snapshot needs, in two phases, so that no mistake in time can cost a snapshot.

    inspect    list the objects, read every manifest that stays and every recipe that these name
    plan       pure: what goes, what is marked, what waits, and why
    execute    manifests of deleted snapshots → mark → recipes, moves, packs marked long enough → mostly dead packs

A pack that is mostly dead is not wholly dead, so it cannot go as it is: its living blocks are written to a new pack,
together with those of others, and an object says where they are (`moved_pack`). From the next run on the old pack is
one that nothing needs. No recipe and no manifest changes (docs/decisions/0012-prune.md).

Invariants
  * an object is swept only if this very inspection found nothing that refers to it, and the mark says that nothing
    has for the grace period
  * delete order is manifest → recipes → moves → packs: at no moment does anything name an object that is gone
  * a manifest or recipe that cannot be read refers to who knows what: then nothing of its replica set is swept
  * objects of a kind that this version does not know are left alone
  * a replayed result counts as a snapshot does: what it refers to lives as long as its manifest stays

Only for one who keeps writers out meanwhile (`backup.prune_guard`): a snapshot that is being taken refers to objects
before its manifest says so. Crash: manifests that are gone, a mark that is newer or older, recipes and packs that
nothing names: the next run goes on from there.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from ebbtide import crash_points
from ebbtide.domain.ids import ResultId, SnapshotId
from ebbtide.errors import IntegrityError, ObjectNotFound, StorageFull
from ebbtide.repository.manifest import Manifest, is_recipe_hash
from ebbtide.repository.moved_pack import Extent, find_extent, merge
from ebbtide.repository.pack import is_pack_id
from ebbtide.repository.prune_mark import MARK_BYTES_MAX, MARKED_MAX, decode_mark, encode_mark
from ebbtide.repository.repository import ReplicaSetStore
from ebbtide.repository.rewrite import MostlyDead, rewrite_packs

REWRITE_BELOW = 0.25
"""A pack of which less than this share lives is written anew: each byte written then frees three."""

REWRITE_LIVE_BYTES_MAX = 1024 * 1024 * 1024
"""Living bytes that one run moves; the next run goes on."""

RANGES_MAX = 4096
"""Ranges of one pack in memory before those that touch are joined; a pack of 32 MiB rarely has a thousand blocks."""


class Kind(StrEnum):
    """What an object is to prune; in the order in which they go."""

    MANIFEST = "manifest"
    RECIPE = "recipe"
    MOVE = "move"
    PACK = "pack"


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One object that goes, and why. `since`: when it was first seen that nothing refers to it."""

    kind: Kind
    name: str
    size_bytes: int
    reason: str
    since: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What there is of one replica set. Names are below its prefix; sizes in bytes.

    `manifests` are those to be removed. `live` are the recipes, moves and packs that the other snapshots refer to.
    `ranges` are the living (start, end) of each pack that may be written anew. `unreadable` says which objects could not be read; then `live` is not all that is live. `mark` is None if absent.
    """

    manifests: Mapping[str, int]
    recipes: Mapping[str, int]
    moves: Mapping[str, int]
    packs: Mapping[str, int]
    ranges: Mapping[str, Sequence[tuple[int, int]]]
    live: frozenset[str]
    unreadable: tuple[str, ...]
    mark: Mapping[str, datetime] | None
    snapshots_kept: int


@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """What one run does. `removals` are in the order in which they go.

    `mark` is what the mark says afterwards; None if it need not be written. `waiting` objects are unreferenced but
    not for long enough. `rewrites` are packs whose living blocks are moved. `blocked` says why nothing can be swept; empty if something can.
    """

    removals: tuple[Removal, ...]
    rewrites: tuple[MostlyDead, ...]
    mark: Mapping[str, datetime] | None
    waiting_objects: int
    waiting_bytes: int
    live_objects: int
    live_bytes: int
    snapshots_kept: int
    blocked: str

    @property
    def removed_bytes(self) -> int:
        return sum(removal.size_bytes for removal in self.removals)

    def count(self, kind: Kind) -> int:
        """How many objects of that kind go."""
        return sum(removal.kind is kind for removal in self.removals)


def inspect(
    store: ReplicaSetStore,
    *,
    remove: Collection[SnapshotId],
    check: Callable[[], None],
    remove_results: Collection[ResultId] = (),
) -> Inspection:
    """Read what `plan_prune` needs to know. Changes nothing.

    `remove` and `remove_results`: snapshots that are deleted and results that nobody fetches any more; their manifests
    are never read, so damage in them holds nothing up. `check`
    is called before every object that is read and may raise. Raises StorageError.
    """
    manifests = {**store.sizes("snapshots/"), **store.sizes("results/")}
    recipes = {name: size for name, size in store.sizes("recipes/").items() if _is_recipe_name(name)}
    packs = {name: size for name, size in store.sizes("packs/").items() if _is_pack_name(name)}
    going = {f"snapshots/{snapshot_id}" for snapshot_id in remove}
    going |= {f"results/{result_id}" for result_id in remove_results}
    moves = {name: size for name, size in store.sizes("moved/").items() if _is_pack_name(name)}
    references = _References(store, check)
    kept = [snapshot_id for snapshot_id in store.iter_snapshot_ids() if snapshot_id not in remove]
    for snapshot_id in kept:
        references.follow(snapshot_id)
    for result_id in store.iter_result_ids():
        if result_id not in remove_results:
            references.follow_result(result_id)
    references.follow_moves(moves, packs)
    return Inspection(
        manifests={name: size for name, size in manifests.items() if name in going},
        recipes=recipes,
        moves=moves,
        packs=packs,
        ranges=references.living_ranges(),
        live=frozenset(references.live),
        unreadable=tuple(references.unreadable),
        mark=load_mark(store),
        snapshots_kept=len(kept),
    )


def plan_prune(
    inspection: Inspection, *, now: datetime, grace: timedelta, rewrite_below: float = REWRITE_BELOW
) -> PrunePlan:
    """What a run at `now` does; packs of which less than `rewrite_below` lives are written anew. Pure.

    A mark from the future (a clock that went back) counts from now on.
    """
    objects = {**inspection.recipes, **inspection.moves, **inspection.packs}
    unreferenced = sorted(name for name in objects if name not in inspection.live)
    old = inspection.mark or {}
    marked = {name: min(old.get(name, now), now) for name in unreferenced[:MARKED_MAX]}
    if inspection.unreadable:
        # What the unreadable object refers to may be among these: their time begins once it is known.
        marked = {}
    ripe = {name for name, since in marked.items() if now - since >= grace}
    removals = [
        Removal(kind=Kind.MANIFEST, name=name, size_bytes=size, reason=_manifest_reason(name))
        for name, size in sorted(inspection.manifests.items())
    ]
    for kind, sizes in (
        (Kind.RECIPE, inspection.recipes),
        (Kind.MOVE, inspection.moves),
        (Kind.PACK, inspection.packs),
    ):
        removals += [
            Removal(
                kind=kind,
                name=name,
                size_bytes=sizes[name],
                reason="no snapshot refers to it",
                since=marked[name],
            )
            for name in sorted(ripe)
            if name in sizes
        ]
    waiting = [name for name in unreferenced if name not in ripe]
    return PrunePlan(
        removals=tuple(removals),
        rewrites=() if inspection.unreadable else _choose_rewrites(inspection, rewrite_below),
        mark=None if marked == old else marked,
        waiting_objects=len(waiting),
        waiting_bytes=sum(objects[name] for name in waiting),
        live_objects=len(objects) - len(unreferenced),
        live_bytes=sum(size for name, size in objects.items() if name in inspection.live),
        snapshots_kept=inspection.snapshots_kept,
        blocked="; ".join(inspection.unreadable[:5]),
    )


def _manifest_reason(name: str) -> str:
    is_result = name.startswith("results/")
    return "its restore job is over" if is_result else "its snapshot was deleted"


def _choose_rewrites(inspection: Inspection, below: float) -> tuple[MostlyDead, ...]:
    """Packs of which a smaller share than `below` lives, the deadest first, up to REWRITE_LIVE_BYTES_MAX."""
    candidates = [
        MostlyDead(pack_id=pack_id, size_bytes=size, ranges=tuple(ranges))
        for pack_id, ranges in inspection.ranges.items()
        if (size := inspection.packs.get(f"packs/{pack_id}", 0)) and f"packs/{pack_id}" in inspection.live
    ]
    mostly_dead = [c for c in candidates if c.live_bytes < below * c.size_bytes]
    chosen: list[MostlyDead] = []
    left = REWRITE_LIVE_BYTES_MAX
    for candidate in sorted(mostly_dead, key=lambda c: (c.live_bytes / c.size_bytes, c.pack_id)):
        if candidate.live_bytes <= left:
            chosen.append(candidate)
            left -= candidate.live_bytes
    return tuple(chosen)


def execute_prune(store: ReplicaSetStore, plan: PrunePlan, *, check: Callable[[], None]) -> int:
    """Do what the plan says; the bytes removed are returned. Can be interrupted anywhere.

    `check` is called before every change and raises where prune has to stop: what it raises passes through.
    Raises StorageError.
    """
    removed = 0
    for removal in _of_kind(plan, Kind.MANIFEST):
        check()
        store.delete_object(removal.name)
        removed += removal.size_bytes
        crash_points.reach("prune.manifest_removed")
    mark_waits = plan.mark is not None and not _try_to_mark(store, plan.mark, check)
    for removal in (r for kind in (Kind.RECIPE, Kind.MOVE, Kind.PACK) for r in _of_kind(plan, kind)):
        check()
        store.delete_object(removal.name)
        removed += removal.size_bytes
        crash_points.reach("prune.swept")
    if plan.mark is not None and mark_waits:
        check()
        save_mark(store, plan.mark)
    rewrite_packs(store, plan.rewrites, check=check)
    return removed


def _try_to_mark(store: ReplicaSetStore, mark: Mapping[str, datetime], check: Callable[[], None]) -> bool:
    """False where the storage is full: what is swept next was marked by an earlier run, and makes room."""
    check()
    try:
        save_mark(store, mark)
    except StorageFull:
        return False
    crash_points.reach("prune.marked")
    return True


def load_mark(store: ReplicaSetStore) -> dict[str, datetime] | None:
    """The mark; None if there is none, an empty one if it is damaged: then the grace period begins anew."""
    name = store.mark_name
    try:
        return decode_mark(store.storage.get(name, limit=MARK_BYTES_MAX), object_name=name)
    except ObjectNotFound:
        return None
    except IntegrityError:
        return {}


def save_mark(store: ReplicaSetStore, mark: Mapping[str, datetime]) -> None:
    """Write the mark; one that is empty is removed instead."""
    if not mark:
        store.storage.delete(store.mark_name)
        return
    encoded = encode_mark(mark, cluster_id=store.cluster_id, replica_set_name=store.replica_set_name)
    store.storage.put(store.mark_name, [encoded])


class _References:
    """Collects the names of all recipes and packs that manifests refer to."""

    def __init__(self, store: ReplicaSetStore, check: Callable[[], None]) -> None:
        self._store = store
        self._check = check
        self.live: set[str] = set()
        self.unreadable: list[str] = []
        self._ranges: dict[str, list[tuple[int, int]]] = {}
        self._moved_to: set[str] = set()

    def follow(self, snapshot_id: SnapshotId) -> None:
        """Add what one snapshot refers to."""
        self._follow(lambda: self._store.load_manifest(snapshot_id))

    def follow_result(self, result_id: ResultId) -> None:
        """Add what one replayed result refers to."""
        self._follow(lambda: self._store.load_result(result_id))

    def _follow(self, load: Callable[[], Manifest]) -> None:
        self._check()
        try:
            manifest = load()
        except (IntegrityError, ObjectNotFound) as error:
            self.unreadable.append(str(error.message))
            return
        self._follow_stretches(manifest)

    def _follow_stretches(self, manifest: Manifest) -> None:
        for stretch in (stretch for entry in manifest.files for stretch in entry.stretches):
            if stretch.recipe_hash is not None:
                name = f"recipes/{stretch.recipe_hash[:2]}/{stretch.recipe_hash}"
                if name in self.live:
                    continue
                self.live.add(name)
                self._check()
            try:
                recipe = self._store.load_recipe(stretch, snapshot_id=manifest.snapshot_id)
            except (IntegrityError, ObjectNotFound) as error:
                self.unreadable.append(str(error.message))
                continue
            for run in recipe.runs:
                length = recipe.stored_length(first_block=run.first_block, block_count=run.block_count)
                self._add_range(run.pack_id, run.offset, run.offset + length)

    def _add_range(self, pack_id: str, start: int, end: int) -> None:
        self.live.add(f"packs/{pack_id}")
        ranges = self._ranges.setdefault(pack_id, [])
        ranges.append((start, end))
        if len(ranges) >= RANGES_MAX:
            ranges[:] = merge(ranges)

    def follow_moves(self, moves: Mapping[str, int], packs: Mapping[str, int]) -> None:
        """For each living pack that was moved: its move and the new packs live, and the old pack need not.

        A move that does not hold all that lives of its pack counts for nothing while that pack is there.
        """
        for pack_id, ranges in self._ranges.items():
            name, old = f"moved/{pack_id}", f"packs/{pack_id}"
            if name not in moves:
                continue
            self._check()
            try:
                extents = self._store.find_moved(pack_id) or ()
            except IntegrityError as error:
                if old not in packs:
                    self.unreadable.append(str(error.message))
                continue
            if all(_holds(extents, packs, start, end) for start, end in merge(ranges)):
                self.live.discard(old)
                self.live.add(name)
                self._moved_to |= {extent.pack_id for extent in extents}
            elif old not in packs:
                self.unreadable.append(f"{name} lacks blocks of its pack")
        self.live |= {f"packs/{pack_id}" for pack_id in self._moved_to}

    def living_ranges(self) -> dict[str, list[tuple[int, int]]]:
        """By pack, for those that may be written anew: what was written so once never is again."""
        return {
            pack_id: merge(ranges)
            for pack_id, ranges in self._ranges.items()
            if pack_id not in self._moved_to and f"packs/{pack_id}" in self.live
        }


def _holds(extents: Sequence[Extent], packs: Mapping[str, int], start: int, end: int) -> bool:
    extent = find_extent(extents, start=start, length=end - start)
    return extent is not None and packs.get(f"packs/{extent.pack_id}", 0) >= extent.new_offset + extent.length


def _of_kind(plan: PrunePlan, kind: Kind) -> Iterable[Removal]:
    return [removal for removal in plan.removals if removal.kind is kind]


def _is_recipe_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 3 and is_recipe_hash(parts[2]) and parts[1] == parts[2][:2]


def _is_pack_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and is_pack_id(parts[1])
