"""Batches of raw documents, as a cursor hands them out: whole BSON documents, end to end.

Nothing is decoded. What plain insertion would change is found by its bytes: the server puts the current time into a
top-level `Timestamp(0, 0)` (all versions; `bypassEmptyTsReplacement` came with 8.0), except in `_id`.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from bson import Timestamp
from bson.raw_bson import RawBSONDocument

from ebbtide.restore.load.inventory import RAW

_LENGTH = struct.Struct("<i")
_DOCUMENT_BYTES_MIN = 5
_MAYBE_EMPTY_TIMESTAMP = re.compile(rb"\x11[^\x00\x11]*\x00{9}")
"""Type, name, end of the name, eight zeros. In other places of a document these bytes mean something else."""


class Documents:
    """Documents end to end, sent as they are: PyMongo copies `raw` into the command without looking into it.

    `_type_marker` is how bson knows an object whose `raw` is to be copied; with bson's own RawBSONDocument, one object
    per document, a third of a writer's time goes into making them.
    """

    _type_marker = RawBSONDocument._type_marker

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Documents end to end. `starts` are their offsets, and the end of the last."""

    raw: bytes
    starts: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[RawBSONDocument]:
        for index in range(self.count):
            yield self.document(index)

    def document(self, index: int) -> RawBSONDocument:
        return RawBSONDocument(self.raw[self.starts[index] : self.starts[index + 1]], RAW)


def as_batch(raw: bytes) -> Batch:
    """Raises ValueError where the bytes are not whole documents."""
    unpack, starts, offset, end = _LENGTH.unpack_from, [0], 0, len(raw)
    while offset <= end - _DOCUMENT_BYTES_MIN:
        (length,) = unpack(raw, offset)
        if length < _DOCUMENT_BYTES_MIN:
            raise ValueError(f"a document of {length} bytes")
        offset += length
        starts.append(offset)
    if offset != end:
        raise ValueError("the last document is cut off")
    return Batch(raw=raw, starts=tuple(starts))


def join(documents: list[RawBSONDocument]) -> Batch:
    """A batch of these."""
    return as_batch(b"".join(bytes(document.raw) for document in documents))


def may_hold_empty_timestamp(raw: bytes) -> bool:
    """Whether some document may have one, anywhere; false for nearly all batches, in one pass of native code."""
    return _MAYBE_EMPTY_TIMESTAMP.search(raw) is not None


def is_changed_by_insertion(document: RawBSONDocument) -> bool:
    """Whether the server would put the current time into a top-level field of it."""
    return may_hold_empty_timestamp(bytes(document.raw)) and any(
        name != "_id" and _is_empty_timestamp(value) for name, value in document.items()
    )


def _is_empty_timestamp(value: object) -> bool:
    return isinstance(value, Timestamp) and value.time == 0 and value.inc == 0
