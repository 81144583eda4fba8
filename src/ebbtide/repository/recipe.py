"""Recipes: where the blocks of one stretch of a file are, and what they are.

A stretch is up to 1024 blocks (64 MiB of plain bytes) of a file. The bytes of a recipe, little-endian, in
docs/formats/recipe.md: header, pack ids, runs, then three columns (block ids, stored lengths, CRCs),
checksum.

Invariants
  * encoding is canonical (packs in order of first use, runs as long as can be): the same blocks in the same
    places give the same bytes, hence the same name
  * a recipe is named by the BLAKE3-256 of its bytes and is never changed
  * it is written only once every pack that it names is durable
Crash: a recipe that no manifest names is harmless; prune removes it.
"""

import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from blake3 import blake3

from ebbtide.errors import IntegrityError
from ebbtide.repository.block import BLOCK_BYTES, BLOCK_ID_BYTES, STORED_BYTES_MAX, block_count
from ebbtide.repository.pack import PACK_BYTES_MAX, is_pack_id

STRETCH_BLOCKS = 1024
"""Blocks of a stretch, at most; a recipe then has about 24 KB."""

STRETCH_BYTES = STRETCH_BLOCKS * BLOCK_BYTES

INLINE_BLOCKS_MAX = 4
"""A recipe of at most this many blocks stands in the manifest itself
(docs/decisions/0002-inline-recipes.md)."""

_MAGIC = b"EBRECIPE"
_VERSION = 1
# magic, version, reserved, block bytes, plain bytes, block count, pack count, run count
_HEADER = struct.Struct("<8sHHIQIII")
_RUN = struct.Struct("<IQI")  # pack index, offset in the pack, block count
_CHECKSUM_BYTES = 16
_LENGTH_BYTES = 3
_PACK_ID_BYTES_MAX = 255
RECIPE_BYTES_MAX = (
    _HEADER.size
    + STRETCH_BLOCKS * (1 + _PACK_ID_BYTES_MAX + _RUN.size + BLOCK_ID_BYTES + _LENGTH_BYTES + 4)
    + _CHECKSUM_BYTES
)


class BlockPlace(NamedTuple):
    """Where a stored block is: in which pack, at which offset, how long, and the CRC-32 of its stored
    bytes."""

    pack_id: str
    offset: int
    stored_bytes: int
    crc: int


class Run(NamedTuple):
    """`block_count` blocks of the stretch, from `first_block` on, one after another in one pack."""

    pack_id: str
    offset: int
    first_block: int
    block_count: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One stretch. `block_ids` are joined; `ends[i]` is the stored length of blocks 0 … i together."""

    plain_bytes: int
    runs: tuple[Run, ...]
    block_ids: bytes
    stored_lengths: Sequence[int]
    crcs: Sequence[int]
    ends: Sequence[int] = field(repr=False)

    @property
    def block_count(self) -> int:
        return len(self.crcs)

    @property
    def stored_bytes(self) -> int:
        return self.ends[-1] if self.ends else 0

    def block_id(self, index: int) -> bytes:
        return self.block_ids[index * BLOCK_ID_BYTES : (index + 1) * BLOCK_ID_BYTES]

    def places(self) -> list[BlockPlace]:
        """The place of every block, in order."""
        found = []
        for run in self.runs:
            offset = run.offset
            for index in range(run.first_block, run.first_block + run.block_count):
                length = self.stored_lengths[index]
                found.append(BlockPlace(run.pack_id, offset, length, self.crcs[index]))
                offset += length
        return found

    def stored_length(self, *, first_block: int, block_count: int) -> int:
        """The stored length of these consecutive blocks together."""
        before = self.ends[first_block - 1] if first_block else 0
        return self.ends[first_block + block_count - 1] - before

    def pack_ids(self) -> set[str]:
        return {run.pack_id for run in self.runs}


def build_recipe(*, plain_bytes: int, block_ids: bytes, places: Sequence[BlockPlace]) -> Recipe:
    """The recipe of a stretch of `plain_bytes` whose blocks have these ids (joined) and places, in order."""
    count = len(places)
    if (
        count != block_count(plain_bytes)
        or count * BLOCK_ID_BYTES != len(block_ids)
        or count > STRETCH_BLOCKS
    ):
        raise ValueError(f"{count} places do not make a stretch of {plain_bytes} bytes")
    lengths = [place.stored_bytes for place in places]
    return Recipe(
        plain_bytes=plain_bytes,
        runs=tuple(_join_runs(places)),
        block_ids=block_ids,
        stored_lengths=array("I", lengths),
        crcs=array("I", [place.crc for place in places]),
        ends=array("I", accumulate(lengths)),
    )


def _join_runs(places: Sequence[BlockPlace]) -> list[Run]:
    runs: list[Run] = []
    next_offset = -1
    for index, place in enumerate(places):
        if runs and runs[-1].pack_id == place.pack_id and next_offset == place.offset:
            runs[-1] = runs[-1]._replace(block_count=runs[-1].block_count + 1)
        else:
            runs.append(Run(place.pack_id, place.offset, index, 1))
        next_offset = place.offset + place.stored_bytes
    return runs


def encode_recipe(recipe: Recipe) -> bytes:
    """The stored bytes of a recipe; canonical."""
    pack_ids = list(dict.fromkeys(run.pack_id for run in recipe.runs))
    pack_index = {pack_id: index for index, pack_id in enumerate(pack_ids)}
    parts = [
        _HEADER.pack(
            _MAGIC,
            _VERSION,
            0,
            BLOCK_BYTES,
            recipe.plain_bytes,
            recipe.block_count,
            len(pack_ids),
            len(recipe.runs),
        )
    ]
    parts += [bytes([len(pack_id)]) + pack_id.encode("ascii") for pack_id in pack_ids]
    parts += [_RUN.pack(pack_index[run.pack_id], run.offset, run.block_count) for run in recipe.runs]
    parts.append(recipe.block_ids)
    parts += [length.to_bytes(_LENGTH_BYTES, "little") for length in recipe.stored_lengths]
    parts.append(struct.pack(f"<{recipe.block_count}I", *recipe.crcs))
    body = b"".join(parts)
    return body + blake3(body).digest(_CHECKSUM_BYTES)


def recipe_hash(encoded: bytes) -> str:
    """The name of a recipe: 64 hex digits."""
    return blake3(encoded).hexdigest()


def decode_recipe(data: bytes, *, object_name: str) -> Recipe:
    """The recipe in `data`. Raises IntegrityError naming `object_name` for anything that encode would not
    write."""
    reader = _Reader(data, object_name)
    reader.check_sum()
    magic, version, reserved, block_bytes, plain_bytes, count, pack_count, run_count = reader.header()
    if magic != _MAGIC or version != _VERSION or reserved != 0 or block_bytes != BLOCK_BYTES:
        raise IntegrityError(object_name, "is not a recipe that this version reads")
    if count > STRETCH_BLOCKS or count != block_count(plain_bytes) or max(pack_count, run_count) > count:
        raise IntegrityError(object_name, "has counts that do not agree")
    pack_ids = [reader.pack_id() for _ in range(pack_count)]
    runs = reader.runs(run_count, pack_ids, count)
    block_ids = reader.take(count * BLOCK_ID_BYTES)
    lengths = _from_u24(reader.take(count * _LENGTH_BYTES))
    crcs = _from_u32(reader.take(count * 4))
    reader.check_end()
    if any(not 0 < length <= STORED_BYTES_MAX for length in lengths):
        raise IntegrityError(object_name, "has a stored length out of bounds")
    return Recipe(
        plain_bytes=plain_bytes,
        runs=runs,
        block_ids=block_ids,
        stored_lengths=lengths,
        crcs=crcs,
        ends=array("I", accumulate(lengths)),
    )


class _Reader:
    """Takes a recipe's bytes apart, front to back, never past the checksum."""

    def __init__(self, data: bytes, object_name: str) -> None:
        self._data = data
        self._name = object_name
        self._at = 0
        self._end = len(data) - _CHECKSUM_BYTES

    def check_sum(self) -> None:
        if self._end < _HEADER.size:
            raise IntegrityError(self._name, "is too short for a recipe")
        if blake3(self._data[: self._end]).digest(_CHECKSUM_BYTES) != self._data[self._end :]:
            raise IntegrityError(self._name, "does not match its checksum")

    def check_end(self) -> None:
        if self._at != self._end:
            raise IntegrityError(self._name, "has bytes that belong to nothing")

    def take(self, length: int) -> bytes:
        if self._at + length > self._end:
            raise IntegrityError(self._name, "ends in the middle of a field")
        self._at += length
        return self._data[self._at - length : self._at]

    def header(self) -> tuple[bytes, int, int, int, int, int, int, int]:
        magic, version, reserved, block_bytes, plain, count, packs, runs = _HEADER.unpack(
            self.take(_HEADER.size)
        )
        return magic, version, reserved, block_bytes, plain, count, packs, runs

    def pack_id(self) -> str:
        text = self.take(self.take(1)[0]).decode("ascii", errors="replace")
        if not is_pack_id(text):
            raise IntegrityError(self._name, f"names a pack {text!r}, which cannot be one")
        return sys.intern(text)

    def runs(self, run_count: int, pack_ids: list[str], count: int) -> tuple[Run, ...]:
        found: list[Run] = []
        first_block = 0
        for _ in range(run_count):
            pack, offset, blocks = _RUN.unpack(self.take(_RUN.size))
            if (
                pack >= len(pack_ids)
                or blocks == 0
                or blocks > count - first_block
                or offset > PACK_BYTES_MAX
            ):
                raise IntegrityError(self._name, "has a run of blocks out of bounds")
            found.append(Run(pack_ids[pack], offset, first_block, blocks))
            first_block += blocks
        if first_block != count:
            raise IntegrityError(self._name, "has runs that do not cover its blocks")
        return tuple(found)


def _from_u24(data: bytes) -> Sequence[int]:
    # Widened to four bytes by slices, which is far faster than one int.from_bytes per length.
    wide = bytearray(len(data) // _LENGTH_BYTES * 4)
    for byte in range(_LENGTH_BYTES):
        wide[byte::4] = data[byte::_LENGTH_BYTES]
    return _from_u32(bytes(wide))


def _from_u32(data: bytes) -> Sequence[int]:
    values = array("I")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values
