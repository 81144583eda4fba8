"""Raw oplog entries: whole BSON documents end to end, as the server sends them and as slices store them.

Nothing is decoded but where somebody asks for an optime: a walk over the length prefixes finds the documents.
"""

import struct
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument

from ebbtide.domain.optime import OplogTimestamp, OpTime

Document = dict[str, Any]

ENTRY_BYTES_MAX = 16 * 1024 * 1024 + 64 * 1024
"""An entry holds a document of up to 16 MiB and some words around it; the server's own limit is 16 MiB + 16 KiB."""

_ENTRY_BYTES_MIN = 5
_LENGTH = struct.Struct("<i")
_LAZY: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument, tz_aware=True)


@dataclass(frozen=True, kw_only=True)
class EntryRun:
    """`count` entries in a row: bytes `start` … `end`−1 of what was walked; the last entry begins at `last_start`."""

    start: int
    end: int
    count: int
    last_start: int


def walk_entries(raw: bytes, *, run_bytes: int) -> list[EntryRun]:
    """The entries in `raw`, in runs that end with the entry that reaches `run_bytes`.

    Raises ValueError where `raw` is not whole documents of a bearable length, end to end.
    """
    runs: list[EntryRun] = []
    unpack = _LENGTH.unpack_from
    total = len(raw)
    start = offset = last = count = 0
    while offset < total:
        if total - offset < _ENTRY_BYTES_MIN:
            raise ValueError("ends inside an entry")
        (length,) = unpack(raw, offset)
        if not _ENTRY_BYTES_MIN <= length <= ENTRY_BYTES_MAX:
            raise ValueError(f"has an entry of {length} bytes")
        last = offset
        offset += length
        count += 1
        if offset - start >= run_bytes:
            runs.append(EntryRun(start=start, end=offset, count=count, last_start=last))
            start, count = offset, 0
    if offset != total:
        raise ValueError("ends inside an entry")
    if count:
        runs.append(EntryRun(start=start, end=offset, count=count, last_start=last))
    return runs


def entry_starts(raw: bytes) -> list[int]:
    """Where each entry begins. Raises ValueError as `walk_entries` does."""
    starts: list[int] = []
    unpack = _LENGTH.unpack_from
    total = len(raw)
    offset = 0
    while offset < total:
        if total - offset < _ENTRY_BYTES_MIN:
            raise ValueError("ends inside an entry")
        (length,) = unpack(raw, offset)
        if not _ENTRY_BYTES_MIN <= length <= ENTRY_BYTES_MAX:
            raise ValueError(f"has an entry of {length} bytes")
        starts.append(offset)
        offset += length
    if offset != total:
        raise ValueError("ends inside an entry")
    return starts


def optime_at(raw: bytes, start: int) -> OpTime:
    """The optime of the entry that begins at `start`. Raises ValueError where there is no entry."""
    return OpTime.from_entry(_entry_at(raw, start))


def wall_at(raw: bytes, start: int) -> datetime | None:
    """When the entry that begins at `start` was made, by its primary's clock; None where it does not say."""
    wall = _entry_at(raw, start).get("wall")
    return wall if isinstance(wall, datetime) else None


def _entry_at(raw: bytes, start: int) -> Document:
    """The entry's top level: what it does is looked at by nobody here, and may be 16 MiB."""
    (length,) = _LENGTH.unpack_from(raw, start)
    try:
        document = RawBSONDocument(raw[start : start + length], _LAZY)
        return {name: document.get(name) for name in ("ts", "t", "wall")}
    except InvalidBSON as error:
        raise ValueError(f"has an entry that is no BSON: {error}") from None


def first_beyond(raw: bytes, starts: list[int], timestamp: OplogTimestamp) -> int:
    """The index in `starts` of the first entry beyond `timestamp`; their number where there is none.

    Entries are in the order of their timestamps, so only a few are looked at.
    """
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        if optime_at(raw, starts[middle]).timestamp <= timestamp:
            low = middle + 1
        else:
            high = middle
    return low
