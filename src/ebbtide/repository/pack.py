"""Packs: stored blocks, one after another, in one object of about 32 MiB.

Layout, little-endian (docs/formats/pack.md):

    magic 8 | version u16 | flags u16 | id length u8 | id | block … block | count u32 | total u64 | BLAKE3 32

Invariants
  * a pack is written once, in file order, and never changed; its id begins with the snapshot that it was
    written for
  * a recipe names a pack only once that pack is durable
Crash: a pack that no recipe names; the retry of its snapshot removes it (`discard_attempts`), else prune
does.
"""

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from blake3 import blake3

from ebbtide.domain.ids import SnapshotId, is_id
from ebbtide.errors import IntegrityError
from ebbtide.repository.gzip_member import Buffer

PACK_BYTES_TARGET = 32 * 1024 * 1024
"""A pack is closed once it has this many bytes: few objects, yet little to read again when one is
rewritten."""

PACK_BYTES_MAX = 2 * PACK_BYTES_TARGET
"""No pack is longer: it closes with the block that passes the target."""

MAGIC = b"EBPACK\r\n"
"""The line end shows a transfer that "translated" text."""

VERSION = 1
FLAGS_PLAIN_GZIP = 0
"""Blocks are plain gzip members. Other values are kept for AES-256-GCM over them."""

_HEADER = struct.Struct("<8sHHB")
_TRAILER = struct.Struct("<IQ32s")
_TRAILER_HEAD = struct.Struct("<IQ")
_CHUNK_BYTES = 1024 * 1024
_ID = re.compile(r"([0-9a-f]{24})-([0-9]{1,6})-([0-9]{1,8})")


class ReadRange(Protocol):
    """Reads `length` bytes of one pack from `start`, or raises IntegrityError or ObjectNotFound."""

    def __call__(self, *, start: int, length: int) -> bytes: ...


def make_pack_id(snapshot_id: SnapshotId, *, attempt: int, sequence: int) -> str:
    """The id of the `sequence`th pack that the `attempt`th try of a snapshot writes; both count from 0."""
    pack_id = f"{snapshot_id}-{attempt}-{sequence:06d}"
    if not is_id(snapshot_id) or not is_pack_id(pack_id):
        raise ValueError(f"{pack_id!r} cannot be the id of a pack")
    return pack_id


def is_pack_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def pack_header(pack_id: str) -> bytes:
    encoded = pack_id.encode("ascii")
    return _HEADER.pack(MAGIC, VERSION, FLAGS_PLAIN_GZIP, len(encoded)) + encoded


def pack_chunks(pack_id: str, blocks: Iterable[Buffer]) -> Iterator[bytes]:
    """The bytes of a pack, streamed in pieces of about 1 MiB: header, the stored blocks as they come,
    trailer."""
    gathered: list[Buffer] = [pack_header(pack_id)]
    gathered_bytes = len(gathered[0])
    hasher = blake3()
    total = _TRAILER.size
    count = 0
    for block in blocks:
        gathered.append(block)
        gathered_bytes += len(block)
        count += 1
        # Hashing and writing give up the interpreter lock, and taking it back costs more than a block is
        # worth.
        if gathered_bytes >= _CHUNK_BYTES:
            chunk = b"".join(gathered)
            gathered, gathered_bytes = [], 0
            hasher.update(chunk)
            total += len(chunk)
            yield chunk
    chunk = b"".join(gathered)
    head = _TRAILER_HEAD.pack(count, total + len(chunk))
    hasher.update(chunk + head)
    yield chunk + head + hasher.digest()


def check_pack(
    read_range: ReadRange,
    *,
    pack_id: str,
    object_name: str,
    size_bytes: int,
    check_cancelled: Callable[[], None],
    piece_bytes: int = 4 * 1024 * 1024,
) -> None:
    """Read a whole pack and compare it with its header and trailer. Raises IntegrityError naming
    `object_name`."""
    header = pack_header(pack_id)
    if not len(header) + _TRAILER.size <= size_bytes <= PACK_BYTES_MAX:
        raise IntegrityError(object_name, f"has {size_bytes} bytes, which no pack can have")
    if read_range(start=0, length=len(header)) != header:
        raise IntegrityError(object_name, "does not begin as this pack must")
    hasher = blake3()
    body_bytes = size_bytes - 32
    for start in range(0, body_bytes, piece_bytes):
        check_cancelled()
        hasher.update(read_range(start=start, length=min(piece_bytes, body_bytes - start)))
    _, total, checksum = _TRAILER.unpack(read_range(start=size_bytes - _TRAILER.size, length=_TRAILER.size))
    if total != size_bytes or checksum != hasher.digest():
        raise IntegrityError(object_name, "does not match its checksum")
