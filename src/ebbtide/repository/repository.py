"""The repository: everything that Ebbtide keeps of the clusters' data, readable without the catalog.

    repository.json                                format version, id, block size, compression, encryption
    <cluster id>/<replica set>/packs/<pack id>     stored blocks
    <cluster id>/<replica set>/recipes/<2 hex>/<hash>
    <cluster id>/<replica set>/snapshots/<id>      manifest: the commit point of a snapshot
    <cluster id>/<replica set>/results/<id>        manifest of a replayed result: to be delivered, and nothing else
    <cluster id>/<replica set>/moved/<pack id>     where the blocks of a pack are, once prune has moved them
    <cluster id>/<replica set>/prune/mark          what prune saw that nothing refers to; the only one overwritten
    <cluster id>/<replica set>/oplog/<first>-…     slices of the oplog archive (`oplog.archive`); prune knows nothing of them

Invariants
  * write order: packs → recipes → manifest; each is durable before the next names it
  * an object is never changed; a snapshot exists exactly when its manifest does
  * a replayed result is in another folder and has another type of id: whatever lists, builds on or reseeds from
    snapshots cannot meet one
Crash: unreferenced packs and recipes at worst. All methods may be called from any thread.
"""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from urllib.parse import quote, unquote

from blake3 import blake3

from ebbtide.domain.ids import ClusterId, ResultId, SnapshotId, is_id, new_id
from ebbtide.errors import IntegrityError, NotFound, ObjectNotFound, Refused
from ebbtide.repository.block import BLOCK_BYTES
from ebbtide.repository.manifest import (
    MANIFEST_BYTES_MAX,
    Manifest,
    ManifestKind,
    Stretch,
    decode_manifest,
    decode_stretch,
    encode_manifest,
)
from ebbtide.repository.moved_pack import MOVED_BYTES_MAX, Extent, decode_moved, find_extent
from ebbtide.repository.recipe import RECIPE_BYTES_MAX, Recipe, recipe_hash
from ebbtide.repository.untrusted import format_moment, parse_json
from ebbtide.storage.protocol import Storage

HEADER_NAME = "repository.json"
FORMAT_VERSION = 1

_HEADER_BYTES_MAX = 64 * 1024
_MOVED_REMEMBERED = 1000
_FORMAT = "ebbtide-repository"


def never_cancelled() -> None:
    """The check of somebody who does not cancel."""


class ReplicaSetStore:
    """The part of a repository that belongs to one replica set of one cluster."""

    def __init__(self, storage: Storage, *, cluster_id: ClusterId, replica_set_name: str) -> None:
        self.storage = storage
        self.cluster_id = cluster_id
        self.replica_set_name = replica_set_name
        self._prefix = f"{cluster_id}/{encode_part(replica_set_name)}"
        self._moved: dict[str, tuple[Extent, ...]] = {}
        self._moved_lock = threading.Lock()

    def pack_name(self, pack_id: str) -> str:
        return f"{self._prefix}/packs/{pack_id}"

    def recipe_name(self, hash_hex: str) -> str:
        return f"{self._prefix}/recipes/{hash_hex[:2]}/{hash_hex}"

    def manifest_name(self, snapshot_id: SnapshotId) -> str:
        return f"{self._prefix}/snapshots/{snapshot_id}"

    def result_name(self, result_id: ResultId) -> str:
        """The manifest of a replayed result."""
        return f"{self._prefix}/results/{result_id}"

    def moved_name(self, pack_id: str) -> str:
        """The object that says where the blocks of a moved pack are."""
        return f"{self._prefix}/moved/{pack_id}"

    def read_stored(self, pack_id: str, *, start: int, length: int) -> bytes:
        """`length` stored bytes from `start` of a pack, wherever they are by now.

        ObjectNotFound if they are nowhere; IntegrityError naming what is damaged.
        """
        moved = self._moved.get(pack_id)
        if moved is None:
            try:
                return self.storage.get_range(self.pack_name(pack_id), start=start, length=length)
            except ObjectNotFound:
                moved = self.find_moved(pack_id)
                if moved is None:
                    raise
        extent = find_extent(moved, start=start, length=length)
        if extent is None:
            raise IntegrityError(self.moved_name(pack_id), f"does not hold bytes {start} … {start + length}")
        return self.storage.get_range(
            self.pack_name(extent.pack_id), start=extent.new_offset + start - extent.offset, length=length
        )

    def find_moved(self, pack_id: str) -> tuple[Extent, ...] | None:
        """Where a pack's blocks were moved to; None if they were not. Raises IntegrityError."""
        name = self.moved_name(pack_id)
        try:
            data = self.storage.get(name, limit=MOVED_BYTES_MAX)
        except ObjectNotFound:
            return None
        extents = decode_moved(data, pack_id=pack_id, object_name=name)
        # It is never changed. The bound is for a process that lives for months: what is oldest is forgotten.
        with self._moved_lock:
            while len(self._moved) >= _MOVED_REMEMBERED:
                del self._moved[next(iter(self._moved))]
            self._moved[pack_id] = extents
        return extents

    @property
    def mark_name(self) -> str:
        """The object in which prune remembers what nothing refers to."""
        return f"{self._prefix}/prune/mark"

    def object_name(self, name: str) -> str:
        """The whole name of an object, named as `sizes` names it."""
        return f"{self._prefix}/{name}"

    def sizes(self, folder: str) -> dict[str, int]:
        """Every object in `folder` ("packs/") of this replica set: name below its prefix → length in bytes."""
        start = len(self._prefix) + 1
        return {name[start:]: size for name, size in self._sizes(f"{self._prefix}/{folder}").items()}

    def delete_object(self, name: str) -> None:
        """Remove one object, named as `sizes` names it. Only prune knows when that is safe. Idempotent."""
        self.storage.delete(f"{self._prefix}/{name}")

    def load_recipe(self, stretch: Stretch, *, snapshot_id: SnapshotId) -> Recipe:
        """The recipe of a stretch of that snapshot, checked.

        Raises IntegrityError or ObjectNotFound, naming the recipe, or the manifest that holds it.
        """
        if stretch.inline is not None:
            return decode_stretch(stretch, stretch.inline, object_name=self.manifest_name(snapshot_id))
        if stretch.recipe_hash is None:
            raise IntegrityError(self.manifest_name(snapshot_id), "has a stretch without a recipe")
        name = self.recipe_name(stretch.recipe_hash)
        data = self.storage.get(name, limit=RECIPE_BYTES_MAX)
        if recipe_hash(data) != stretch.recipe_hash:
            raise IntegrityError(name, "does not match its name")
        return decode_stretch(stretch, data, object_name=name)

    def commit(
        self,
        manifest: Manifest,
        *,
        parent: Manifest | None = None,
        check_owner: Callable[[], None] = never_cancelled,
    ) -> None:
        """Make the snapshot exist: the sole commit point. Idempotent for the same manifest.

        `check_owner` is called last, and raises where the snapshot is another worker's by now: that one may just be
        removing what this one stored.

        Everything it names is looked for first: each recipe, and each pack of the recipes that `parent` (a
        committed manifest, already trusted) does not share. Raises IntegrityError naming what is absent or
        too short, and Refused if a different snapshot has this id, or if the manifest belongs to another
        replica set.
        """
        name = self.manifest_name(manifest.snapshot_id)
        self._require_own(manifest, kind=ManifestKind.SNAPSHOT)
        encoded = self._encode(manifest, name)
        if self.has_snapshot(manifest.snapshot_id):
            if self.load_manifest(manifest.snapshot_id) == manifest:
                return
            raise Refused(f"another snapshot {manifest.snapshot_id} is committed already")
        self._require_objects(manifest, parent)
        check_owner()
        self.storage.put(name, [encoded])

    def commit_result(
        self, manifest: Manifest, *, base: Manifest, check_owner: Callable[[], None] = never_cancelled
    ) -> None:
        """As `commit`, for a replayed result: its manifest is DELIVER_ONLY, and its id stands for a ResultId.

        A result that was committed before is left as it is: who begins again looks for it first.
        """
        result_id = ResultId(manifest.snapshot_id)
        self._require_own(manifest, kind=ManifestKind.DELIVER_ONLY)
        encoded = self._encode(manifest, self.result_name(result_id))
        if self.has_result(result_id):
            return
        self._require_objects(manifest, base)
        check_owner()
        self.storage.put(self.result_name(result_id), [encoded])

    def has_snapshot(self, snapshot_id: SnapshotId) -> bool:
        return self._exists(self.manifest_name(snapshot_id))

    def has_result(self, result_id: ResultId) -> bool:
        return self._exists(self.result_name(result_id))

    def _exists(self, name: str) -> bool:
        try:
            self.storage.size(name)
        except ObjectNotFound:
            return False
        return True

    def _encode(self, manifest: Manifest, name: str) -> bytes:
        encoded = encode_manifest(manifest)
        decode_manifest(encoded, object_name=name)  # what cannot be read back must not be written
        return encoded

    def load_manifest(self, snapshot_id: SnapshotId) -> Manifest:
        """The manifest of a committed snapshot. ObjectNotFound if there is none, IntegrityError if it is
        damaged."""
        return self._load(self.manifest_name(snapshot_id), snapshot_id, ManifestKind.SNAPSHOT)

    def load_result(self, result_id: ResultId) -> Manifest:
        """The manifest of a replayed result; raises as `load_manifest`."""
        return self._load(self.result_name(result_id), SnapshotId(result_id), ManifestKind.DELIVER_ONLY)

    def _load(self, name: str, snapshot_id: SnapshotId, kind: ManifestKind) -> Manifest:
        manifest = decode_manifest(self.storage.get(name, limit=MANIFEST_BYTES_MAX), object_name=name)
        if manifest.snapshot_id != snapshot_id or manifest.kind is not kind or not self.owns(manifest):
            raise IntegrityError(name, "is the manifest of another snapshot")
        return manifest

    def iter_snapshot_ids(self) -> Iterator[SnapshotId]:
        """Every committed snapshot, oldest first."""
        for snapshot_id in self._iter_ids("snapshots"):
            yield SnapshotId(snapshot_id)

    def iter_result_ids(self) -> Iterator[ResultId]:
        """Every committed result, oldest first."""
        for result_id in self._iter_ids("results"):
            yield ResultId(result_id)

    def _iter_ids(self, folder: str) -> list[str]:
        names = [found.name for found in self.storage.iter_objects(f"{self._prefix}/{folder}/")]
        return sorted(filter(is_id, (name.rpartition("/")[2] for name in names)))

    def discard_attempts(
        self, snapshot_id: SnapshotId, *, check_owner: Callable[[], None] = never_cancelled
    ) -> int:
        """Remove the packs that interrupted attempts at an uncommitted snapshot left; how many there were is
        returned.

        Only for the worker that holds the snapshot's lease: no attempt may be running. `check_owner` is called
        before each pack is removed, and raises where that is so no more. Idempotent. Raises Refused if the snapshot is committed. Recipes of the attempts stay for prune: they are small and
        nothing names them.
        """
        if self.has_snapshot(snapshot_id):
            raise Refused(f"snapshot {snapshot_id} is committed; its packs are in use")
        return self._discard_packs(snapshot_id, check_owner)

    def discard_result_attempts(
        self, result_id: ResultId, *, check_owner: Callable[[], None] = never_cancelled
    ) -> int:
        """As `discard_attempts`, for a replayed result."""
        if self.has_result(result_id):
            raise Refused(f"result {result_id} is committed; its packs are in use")
        return self._discard_packs(result_id, check_owner)

    def _discard_packs(self, written_for: str, check_owner: Callable[[], None]) -> int:
        left = [object_.name for object_ in self.storage.iter_objects(self.pack_name(f"{written_for}-"))]
        for name in left:
            check_owner()
            self.storage.delete(name)
        return len(left)

    def _require_own(self, manifest: Manifest, *, kind: ManifestKind) -> None:
        if manifest.kind is not kind:
            raise Refused(f"{manifest.snapshot_id} is {manifest.kind}, and belongs in another folder")
        if not self.owns(manifest):
            raise Refused(f"snapshot {manifest.snapshot_id} does not belong to {self._prefix}")

    def owns(self, manifest: Manifest) -> bool:
        """Whether the manifest is of this replica set."""
        return (manifest.cluster_id, manifest.replica_set_name) == (self.cluster_id, self.replica_set_name)

    def _require_objects(self, manifest: Manifest, parent: Manifest | None) -> None:
        """Raises IntegrityError for an object that the manifest needs and the storage does not hold."""
        packs = self._sizes(f"{self._prefix}/packs/")
        recipes = self._sizes(f"{self._prefix}/recipes/")
        trusted = (
            set() if parent is None else {stretch for entry in parent.files for stretch in entry.stretches}
        )
        for stretch in (stretch for entry in manifest.files for stretch in entry.stretches):
            if stretch.recipe_hash is not None and self.recipe_name(stretch.recipe_hash) not in recipes:
                raise IntegrityError(
                    self.recipe_name(stretch.recipe_hash), "is absent, but the snapshot needs it"
                )
            if stretch in trusted:
                continue
            recipe = self.load_recipe(stretch, snapshot_id=manifest.snapshot_id)
            for run in recipe.runs:
                name = self.pack_name(run.pack_id)
                length = recipe.stored_length(first_block=run.first_block, block_count=run.block_count)
                if packs.get(name, 0) < run.offset + length and not self._is_moved(
                    run.pack_id, packs, start=run.offset, length=length
                ):
                    raise IntegrityError(name, "is absent or too short, but the snapshot needs it")

    def _is_moved(self, pack_id: str, packs: dict[str, int], *, start: int, length: int) -> bool:
        """Whether these bytes of an absent pack stand in another one, which `packs` lists."""
        extents = None if self.pack_name(pack_id) in packs else self.find_moved(pack_id)
        extent = None if extents is None else find_extent(extents, start=start, length=length)
        if extent is None:
            return False
        return packs.get(self.pack_name(extent.pack_id), 0) >= extent.new_offset + extent.length

    def _sizes(self, prefix: str) -> dict[str, int]:
        return {found.name: found.size_bytes for found in self.storage.iter_objects(prefix)}


class Repository:
    """A repository on a storage; make one with `create` or `open`."""

    def __init__(self, storage: Storage, *, repository_id: str) -> None:
        self.storage = storage
        self.id = repository_id

    @classmethod
    def create(cls, storage: Storage, *, now: datetime) -> "Repository":
        """Begin a repository on an empty storage. Raises Refused if there is one already."""
        try:
            storage.size(HEADER_NAME)
        except ObjectNotFound:
            pass
        else:
            raise Refused("the storage holds a repository already", hint="open it, or choose an empty place")
        repository_id = new_id()
        storage.put(HEADER_NAME, [encode_header(repository_id=repository_id, created=now)])
        return cls(storage, repository_id=repository_id)

    @classmethod
    def open(cls, storage: Storage) -> "Repository":
        """The repository on a storage.

        Raises NotFound if there is none, IntegrityError if its header is damaged, and Refused if it was
        written in a format that this version does not know.
        """
        try:
            data = storage.get(HEADER_NAME, limit=_HEADER_BYTES_MAX)
        except ObjectNotFound:
            raise NotFound(
                "the storage holds no repository", hint="check its path, or begin a new one there"
            ) from None
        return cls(storage, repository_id=parse_header(data))

    def replica_set(self, cluster_id: ClusterId, replica_set_name: str) -> ReplicaSetStore:
        """The part that belongs to one replica set; it need not hold anything yet."""
        return ReplicaSetStore(self.storage, cluster_id=cluster_id, replica_set_name=replica_set_name)

    def iter_replica_sets(self) -> Iterator[ReplicaSetStore]:
        """Every replica set that has at least one object, found by the objects' names alone."""
        found = set()
        for object_ in self.storage.iter_objects(""):
            parts = object_.name.split("/")
            if len(parts) > 3 and is_id(parts[0]):
                found.add((ClusterId(parts[0]), decode_part(parts[1])))
        for cluster_id, replica_set_name in sorted(found):
            yield self.replica_set(cluster_id, replica_set_name)


def encode_header(*, repository_id: str, created: datetime) -> bytes:
    """The bytes of `repository.json`."""
    return _render_header(
        {
            "format": _FORMAT,
            "version": FORMAT_VERSION,
            "id": repository_id,
            "blockBytes": BLOCK_BYTES,
            "compression": "gzip",
            "encryption": None,
            "created": format_moment(created),
        }
    )


def parse_header(data: bytes) -> str:
    """The repository's id. Raises IntegrityError for a damaged header, Refused for one of another format."""
    fields = parse_json(data, object_name=HEADER_NAME)
    values = {name: value for name, value in json.loads(data).items() if name != "checksum"}
    # Rendering again and comparing bytes leaves no bit of the object out of the checksum.
    if _render_header(values) != data:
        raise IntegrityError(HEADER_NAME, "does not match its checksum", hint="it is never edited by hand")
    known: dict[str, Callable[[object], bool]] = {
        "format": lambda value: value == _FORMAT,
        "version": lambda value: value == FORMAT_VERSION,
        "id": is_id,
        "blockBytes": lambda value: value == BLOCK_BYTES,
        "compression": lambda value: value == "gzip",
        "encryption": lambda value: value is None,
        "created": lambda value: isinstance(value, str),
    }
    unknown = sorted(set(values) - set(known))
    wrong = [
        f"{name} {values.get(name)!r}" for name, is_known in known.items() if not is_known(values.get(name))
    ]
    if unknown or wrong:
        raise Refused(
            f"{HEADER_NAME}: this version does not know {', '.join(unknown + wrong)}",
            hint="open the repository with the version of Ebbtide that wrote it, or a newer one",
        )
    return fields.text("id")


def encode_part(name: str) -> str:
    """Any text as one part of an object's name: percent-encoded, never "." or ".."."""
    encoded = quote(name, safe="")
    return encoded.replace(".", "%2E") if encoded in (".", "..") else encoded


def decode_part(part: str) -> str:
    return unquote(part)


def _render_header(values: dict[str, object]) -> bytes:
    body = json.dumps(values, indent=1)
    return (json.dumps(values | {"checksum": blake3(body.encode()).hexdigest()}, indent=1) + "\n").encode()
