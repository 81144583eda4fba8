"""Moved packs: where the living blocks of a pack went when prune wrote them together with those of others.

`moved/<pack id>`, JSON (docs/formats/prune.md): a list of extents, each some bytes of the old pack, and the pack and
offset at which the same bytes stand now. Recipes keep naming the old pack, so no recipe and no manifest changes.

Invariants
  * it is written once, when the packs that it names are durable, and before the old pack may go; never changed
  * extents are sorted and do not overlap; each run of blocks that a snapshot needed lies inside of one
  * a pack that was written so is named by no recipe and is never moved again: one look is always enough
Crash: with it, the old pack is superfluous; without it, the new packs are, and prune sweeps them.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from blake3 import blake3

from ebbtide.errors import IntegrityError
from ebbtide.repository.pack import PACK_BYTES_MAX, is_pack_id
from ebbtide.repository.untrusted import parse_json

MOVED_BYTES_MAX = 8 * 1024 * 1024

_FORMAT = "ebbtide-moved-pack"
_VERSION = 1


class Extent(NamedTuple):
    """`length` bytes from `offset` of the old pack stand at `new_offset` of the pack `pack_id`."""

    offset: int
    length: int
    pack_id: str
    new_offset: int

    @property
    def end(self) -> int:
        return self.offset + self.length


def find_extent(extents: Sequence[Extent], *, start: int, length: int) -> Extent | None:
    """The extent that holds all of these bytes of the old pack; None if none does."""
    index = bisect_right(extents, start, key=lambda extent: extent.offset) - 1
    if index < 0 or extents[index].end < start + length:
        return None
    return extents[index]


def merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted (start, end) ranges that cover the same bytes; ranges that touch become one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def encode_moved(pack_id: str, extents: Sequence[Extent]) -> bytes:
    """The stored bytes."""
    return _render(
        {"format": _FORMAT, "version": _VERSION, "pack": pack_id, "extents": [list(e) for e in extents]}
    )


def decode_moved(data: bytes, *, pack_id: str, object_name: str) -> tuple[Extent, ...]:
    """The extents of that pack. Raises IntegrityError naming `object_name`."""
    fields = parse_json(data, object_name=object_name)
    values = {name: value for name, value in json.loads(data).items() if name != "checksum"}
    if _render(values) != data:
        raise IntegrityError(object_name, "does not match its checksum")
    known = (_FORMAT, _VERSION, pack_id)
    if (fields.text("format"), fields.integer("version"), fields.text("pack")) != known:
        raise IntegrityError(object_name, "is not what this version reads, or of another pack")
    extents = tuple(_extent(item, object_name) for item in fields.items("extents"))
    if any(a.end > b.offset for a, b in pairwise(extents)):
        raise IntegrityError(object_name, "has extents that overlap")
    return extents


def _extent(item: object, object_name: str) -> Extent:
    match item:
        case [int(offset), int(length), str(pack_id), int(new_offset)] if (
            is_pack_id(pack_id)
            and length > 0
            and offset >= 0
            and new_offset >= 0
            and max(offset, new_offset) + length <= PACK_BYTES_MAX
        ):
            return Extent(offset, length, pack_id, new_offset)
    raise IntegrityError(object_name, "has an extent out of bounds")


def _render(values: Mapping[str, object]) -> bytes:
    # As repository.json: rendering again and comparing bytes leaves no bit out of the checksum.
    body = json.dumps(values, indent=1)
    return (json.dumps({**values, "checksum": blake3(body.encode()).hexdigest()}, indent=1) + "\n").encode()
