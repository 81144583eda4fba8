"""Manifests: what a snapshot is made of. Its object is written last and is the snapshot's commit point.

Layout, little-endian (docs/formats/manifest.md):

    magic 8 | version u16 | reserved u16 | JSON length u32 | gzip of the JSON | BLAKE3 32

Invariants
  * a manifest is written only once every recipe and pack that it needs is durable; it is never changed
  * decoding trusts nothing: paths stay inside the data directory, lengths and sums agree, inflating is
    bounded
Crash: there is a manifest, and so a snapshot, or there is none.
"""

import base64
import binascii
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from blake3 import blake3

from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId, is_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import IntegrityError, InvalidInput
from ebbtide.repository.block import STORED_BYTES_MAX, block_count
from ebbtide.repository.gzip_member import compress_member, inflate_member
from ebbtide.repository.recipe import (
    INLINE_BLOCKS_MAX,
    RECIPE_BYTES_MAX,
    STRETCH_BYTES,
    Recipe,
    decode_recipe,
)
from ebbtide.repository.untrusted import INT_MAX, Fields, format_moment, parse_json

MANIFEST_BYTES_MAX = 512 * 1024 * 1024
JSON_BYTES_MAX = 1024 * 1024 * 1024
"""About four million files."""

FILES_MAX = 5_000_000
PATH_BYTES_MAX = 1000

_MAGIC = b"EBSNAP\r\n"
_VERSION = 1
_HEADER = struct.Struct("<8sHHI")
_CHECKSUM_BYTES = 32


class ManifestKind(StrEnum):
    """What a snapshot may be used for."""

    SNAPSHOT = "SNAPSHOT"  # everything: delivery, replay, parent of the next one
    DELIVER_ONLY = "DELIVER_ONLY"  # a replayed result: never a base, never a reseed


@dataclass(frozen=True, kw_only=True, slots=True)
class FileStat:
    """What the filesystem said about a file at `stated_at_ns` (all times in ns since 1970), before it was
    read."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    stated_at_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A stretch of a file: its recipe's hash, or the encoded recipe itself (`inline`). Exactly one is set."""

    recipe_hash: str | None
    inline: bytes | None
    plain_bytes: int
    stored_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file. `path` is relative POSIX; the stretches follow one another, all but the last STRETCH_BYTES
    long."""

    path: str
    stat: FileStat
    stretches: tuple[Stretch, ...]

    @property
    def plain_bytes(self) -> int:
        return sum(stretch.plain_bytes for stretch in self.stretches)

    @property
    def stored_bytes(self) -> int:
        return sum(stretch.stored_bytes for stretch in self.stretches)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One snapshot of one replica set.

    `stable_timestamp` is T_s, `applied_timestamp` T_a. `data_size_bytes` and `storage_size_bytes` are the
    server's own figures. `new_stored_bytes` is what this snapshot added to the repository (packs and
    recipes). `last_full_read` is when every file was last read whole. `storage` holds the engine's layout
    (`directoryPerDB` and the like) and `oplog_file` names the file that holds the oplog.
    """

    kind: ManifestKind
    snapshot_id: SnapshotId
    parent_id: SnapshotId | None
    group_id: GroupId
    group_name: str
    cluster_id: ClusterId
    cluster_name: str
    replica_set_name: str
    created: datetime
    completed: datetime
    stable_timestamp: OplogTimestamp
    applied_timestamp: OplogTimestamp
    mongod_version: str
    fcv: str
    head_address: str
    oplog_file: str
    storage: Mapping[str, str | int | bool | None]
    data_size_bytes: int
    storage_size_bytes: int
    new_stored_bytes: int
    last_full_read: datetime
    files: tuple[FileEntry, ...]

    @property
    def plain_bytes(self) -> int:
        return sum(entry.plain_bytes for entry in self.files)

    @property
    def stored_bytes(self) -> int:
        return sum(entry.stored_bytes for entry in self.files)

    def recipe_hashes(self) -> set[str]:
        """The names of all recipes that are objects of their own."""
        return {s.recipe_hash for entry in self.files for s in entry.stretches if s.recipe_hash is not None}


def encode_manifest(manifest: Manifest) -> bytes:
    """The stored bytes. Raises InvalidInput for a path or a value that decoding would refuse."""
    try:
        check_paths(entry.path for entry in manifest.files)
    except ValueError as error:
        raise InvalidInput("manifest", expected="paths inside the data directory", got=str(error)) from None
    text = json.dumps(_to_json(manifest), separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > JSON_BYTES_MAX or len(manifest.files) > FILES_MAX:
        raise InvalidInput("manifest", expected=f"at most {FILES_MAX} files", got=len(manifest.files))
    body = _HEADER.pack(_MAGIC, _VERSION, 0, len(text)) + compress_member(text)
    return body + blake3(body).digest()


def decode_manifest(data: bytes, *, object_name: str) -> Manifest:
    """The manifest in `data`. Raises IntegrityError naming `object_name` for whatever is wrong with it."""
    text = _unwrap(data, object_name)
    try:
        return _from_json(parse_json(text, object_name=object_name))
    except (ValueError, binascii.Error) as error:
        raise IntegrityError(object_name, f"has content that cannot be: {error}") from None


def is_safe_path(path: str) -> bool:
    """Whether `path` is relative, normalised, inside, and free of control characters."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return False
    parts = path.split("/")
    return (
        len(encoded) <= PATH_BYTES_MAX
        and path.isprintable()
        and all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
    )


def check_paths(paths: Iterable[str]) -> None:
    """Raises ValueError for an unsafe or double path, or one that would need another one to be a
    directory."""
    seen: set[str] = set()
    directories: set[str] = set()
    for path in paths:
        if not is_safe_path(path):
            raise ValueError(f"unsafe path {path!r}")
        if path in seen:
            raise ValueError(f"path {path!r} twice")
        seen.add(path)
        while "/" in path:
            path = path.rpartition("/")[0]
            if path in directories:
                break
            directories.add(path)
    if clash := seen & directories:
        raise ValueError(f"path {min(clash)!r} is a file and a directory")


def _unwrap(data: bytes, object_name: str) -> bytes:
    """The JSON text of a manifest's bytes."""
    if len(data) < _HEADER.size + _CHECKSUM_BYTES:
        raise IntegrityError(object_name, "is too short for a manifest")
    body = data[:-_CHECKSUM_BYTES]
    if blake3(body).digest() != data[-_CHECKSUM_BYTES:]:
        raise IntegrityError(object_name, "does not match its checksum")
    magic, version, reserved, length = _HEADER.unpack_from(body)
    if magic != _MAGIC or version != _VERSION or reserved != 0 or length > JSON_BYTES_MAX:
        raise IntegrityError(object_name, "is not a manifest that this version reads")
    try:
        return inflate_member(body[_HEADER.size :], plain_bytes=length)
    except ValueError as problem:
        raise IntegrityError(object_name, str(problem)) from None


def _to_json(manifest: Manifest) -> dict[str, object]:
    return {
        "kind": manifest.kind.value,
        "snapshotId": manifest.snapshot_id,
        "parentId": manifest.parent_id,
        "groupId": manifest.group_id,
        "groupName": manifest.group_name,
        "clusterId": manifest.cluster_id,
        "clusterName": manifest.cluster_name,
        "replicaSetName": manifest.replica_set_name,
        "created": format_moment(manifest.created),
        "completed": format_moment(manifest.completed),
        "stableTimestamp": [manifest.stable_timestamp.seconds, manifest.stable_timestamp.increment],
        "appliedTimestamp": [manifest.applied_timestamp.seconds, manifest.applied_timestamp.increment],
        "mongodVersion": manifest.mongod_version,
        "fcv": manifest.fcv,
        "headAddress": manifest.head_address,
        "oplogFile": manifest.oplog_file,
        "storage": dict(manifest.storage),
        "dataSizeBytes": manifest.data_size_bytes,
        "storageSizeBytes": manifest.storage_size_bytes,
        "newStoredBytes": manifest.new_stored_bytes,
        "lastFullRead": format_moment(manifest.last_full_read),
        "totals": _totals(manifest.files),
        "files": [_entry_to_json(entry) for entry in manifest.files],
    }


def _totals(files: Sequence[FileEntry]) -> dict[str, int]:
    return {
        "files": len(files),
        "plainBytes": sum(entry.plain_bytes for entry in files),
        "storedBytes": sum(entry.stored_bytes for entry in files),
    }


def _entry_to_json(entry: FileEntry) -> dict[str, object]:
    stat = entry.stat
    return {
        "path": entry.path,
        "plainBytes": entry.plain_bytes,
        "storedBytes": entry.stored_bytes,
        "stat": [stat.size_bytes, stat.mtime_ns, stat.ctime_ns, stat.inode, stat.stated_at_ns],
        "stretches": [_stretch_to_json(stretch) for stretch in entry.stretches],
    }


def _stretch_to_json(stretch: Stretch) -> dict[str, object]:
    recipe: dict[str, object] = (
        {"recipe": stretch.recipe_hash}
        if stretch.inline is None
        else {"inline": base64.b64encode(stretch.inline).decode("ascii")}
    )
    return recipe | {"plainBytes": stretch.plain_bytes, "storedBytes": stretch.stored_bytes}


def _from_json(fields: Fields) -> Manifest:
    files = tuple(_entry_from_json(entry) for entry in fields.iter_objects("files"))
    check_paths(entry.path for entry in files)
    if fields.scalars("totals") != _totals(files):
        raise fields.problem("totals", "the sum of the files")
    return Manifest(
        kind=ManifestKind(fields.text("kind")),
        snapshot_id=SnapshotId(_id(fields, "snapshotId")),
        parent_id=SnapshotId(_id(fields, "parentId")) if fields.optional_text("parentId") else None,
        group_id=GroupId(_id(fields, "groupId")),
        group_name=fields.text("groupName"),
        cluster_id=ClusterId(_id(fields, "clusterId")),
        cluster_name=fields.text("clusterName"),
        replica_set_name=fields.text("replicaSetName"),
        created=fields.moment("created"),
        completed=fields.moment("completed"),
        stable_timestamp=_timestamp(fields, "stableTimestamp"),
        applied_timestamp=_timestamp(fields, "appliedTimestamp"),
        mongod_version=fields.text("mongodVersion"),
        fcv=fields.text("fcv"),
        head_address=fields.text("headAddress"),
        oplog_file=fields.text("oplogFile"),
        storage=fields.scalars("storage"),
        data_size_bytes=fields.integer("dataSizeBytes"),
        storage_size_bytes=fields.integer("storageSizeBytes"),
        new_stored_bytes=fields.integer("newStoredBytes"),
        last_full_read=fields.moment("lastFullRead"),
        files=files,
    )


def _id(fields: Fields, name: str) -> str:
    text = fields.text(name)
    if not is_id(text):
        raise fields.problem(name, "an id")
    return text


def _timestamp(fields: Fields, name: str) -> OplogTimestamp:
    seconds, increment = fields.integers(name, count=2, maximum=2**32 - 1)
    return OplogTimestamp(seconds=seconds, increment=increment)


def _entry_from_json(fields: Fields) -> FileEntry:
    size, mtime, ctime, inode, stated_at = fields.integers("stat", count=5, maximum=2**64 - 1)
    stat = FileStat(size_bytes=size, mtime_ns=mtime, ctime_ns=ctime, inode=inode, stated_at_ns=stated_at)
    stretches = tuple(_stretch_from_json(stretch) for stretch in fields.iter_objects("stretches"))
    entry = FileEntry(path=fields.text("path"), stat=stat, stretches=stretches)
    if any(stretch.plain_bytes != STRETCH_BYTES for stretch in stretches[:-1]):
        raise fields.problem("stretches", "made of whole stretches")
    if fields.integer("plainBytes") != entry.plain_bytes or entry.plain_bytes > INT_MAX:
        raise fields.problem("plainBytes", "the sum of the stretches")
    if fields.integer("storedBytes") != entry.stored_bytes:
        raise fields.problem("storedBytes", "the sum of the stretches")
    return entry


def _stretch_from_json(fields: Fields) -> Stretch:
    plain = fields.integer("plainBytes", maximum=STRETCH_BYTES)
    blocks = block_count(plain)
    stored = fields.integer("storedBytes", maximum=blocks * STORED_BYTES_MAX)
    if blocks == 0 or stored == 0:
        raise fields.problem("plainBytes", "above zero")
    recipe_hash = fields.optional_text("recipe", length_max=64)
    encoded = fields.optional_text("inline", length_max=RECIPE_BYTES_MAX)
    if (recipe_hash is None) == (encoded is None):
        raise fields.problem("recipe", "given once, by hash or inline")
    if recipe_hash is not None and not is_recipe_hash(recipe_hash):
        raise fields.problem("recipe", "a hash")
    inline = None if encoded is None else base64.b64decode(encoded, validate=True)
    if inline is not None and blocks > INLINE_BLOCKS_MAX:
        raise fields.problem("inline", f"of at most {INLINE_BLOCKS_MAX} blocks")
    return Stretch(recipe_hash=recipe_hash, inline=inline, plain_bytes=plain, stored_bytes=stored)


def is_recipe_hash(text: str) -> bool:
    return len(text) == 64 and all(digit in "0123456789abcdef" for digit in text)


def decode_stretch(stretch: Stretch, data: bytes, *, object_name: str) -> Recipe:
    """The recipe of `stretch` in `data`; raises IntegrityError if its lengths are not those of the
    stretch."""
    recipe = decode_recipe(data, object_name=object_name)
    if (recipe.plain_bytes, recipe.stored_bytes) != (stretch.plain_bytes, stretch.stored_bytes):
        raise IntegrityError(object_name, "is not of the length that the manifest states")
    return recipe
