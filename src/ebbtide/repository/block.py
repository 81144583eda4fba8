"""Blocks: 64 KiB of a file at a fixed offset, the unit of deduplication.

A block's identity is the first 16 bytes of BLAKE3 over its plain bytes: with 2⁴⁰ blocks (64 PiB) of one
replica set the chance of any collision is about 2⁻⁴⁹, and blocks are only ever compared within one file. It
is stored as one gzip member, so that stored blocks put end to end are a gzip stream: downloads are made of
them as they are.

The stored form of a block may differ between machines (the compressor picks its code by processor), and rarely
between two calls (isal finds other matches when its memory held something else before); the identity never does.
"""

from collections.abc import Iterable

from blake3 import blake3
from isal import isal_zlib

from ebbtide.errors import IntegrityError
from ebbtide.repository.gzip_member import Buffer, compress_member, inflate_member

BLOCK_BYTES = 65536
"""Plain length of every block but a file's last."""

BLOCK_ID_BYTES = 16

STORED_EXCESS_MAX = 1024
"""By how many bytes a stored block may be longer than its plain bytes; gzip adds under 100."""

STORED_BYTES_MAX = 2 * BLOCK_BYTES
"""No stored block is longer: gzip adds under 100 bytes to what cannot be compressed."""


def block_id(plain: Buffer) -> bytes:
    """The identity of a block: 16 bytes."""
    return blake3(plain).digest(BLOCK_ID_BYTES)


def encode_block(plain: Buffer) -> bytes:
    """One gzip member, without name or time."""
    return compress_member(plain)


def stored_crc(stored: Buffer) -> int:
    """CRC-32 of a block's stored bytes: what is checked before they are sent anywhere."""
    return isal_zlib.crc32(stored)


def joined_crc(crcs: Iterable[int], lengths: Iterable[int]) -> int:
    """The CRC-32 of stored blocks end to end, from the CRC and the length of each."""
    joined = 0
    for crc, length in zip(crcs, lengths, strict=True):
        joined = isal_zlib.crc32_combine(joined, crc, length)
    return joined


def decode_block(
    stored: Buffer, *, plain_bytes: int, expected_id: bytes, object_name: str, what: str = "a block"
) -> bytes:
    """The plain bytes of a stored block, proved to be the ones with `expected_id`.

    Never inflates to more than `plain_bytes` + 1 bytes. Raises IntegrityError that names `object_name` and
    `what`.
    """
    try:
        plain = inflate_member(stored, plain_bytes=plain_bytes)
    except ValueError as problem:
        raise IntegrityError(object_name, f"{what} {problem}") from None
    if block_id(plain) != expected_id:
        raise IntegrityError(object_name, f"{what} is not the block that was stored there")
    return plain


def block_count(file_bytes: int) -> int:
    """How many blocks a file, or a stretch of one, of this plain length has; an empty one has none."""
    return -(-file_bytes // BLOCK_BYTES)


def plain_length(index: int, *, total_bytes: int) -> int:
    """The plain length of block `index` of something `total_bytes` long."""
    return min(BLOCK_BYTES, total_bytes - index * BLOCK_BYTES)
