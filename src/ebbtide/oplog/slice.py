"""Slices of the oplog archive: some seconds of raw entries in one object.

Layout, little-endian (docs/formats/oplog.md):

    magic 8 | version u16 | flags u16 | predecessor, first, last: ts u64, term i64 each | entries u64 | plain bytes u64
    | members u32 | { plain bytes u32 | entries u32 | stored bytes u32 | gzip member }* | BLAKE3 32

The object's name repeats the header, so that a listing alone tells what the archive covers:

    oplog/<first>-<last>-<predecessor>-<entries>-<plain bytes>      an optime is 16 hex digits of ts, a dot, the term

Invariants
  * a slice is written once and never changed; what its name says is what its header says
  * a member holds whole entries; members are about 1 MiB, more where one entry is larger
Crash: nothing, or the whole slice.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3

from ebbtide.domain.oplog import OplogSlice
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.errors import IntegrityError
from ebbtide.oplog.entries import ENTRY_BYTES_MAX, optime_at, walk_entries
from ebbtide.repository.gzip_member import Buffer, compress_member, inflate_member

FOLDER = "oplog/"

MEMBER_BYTES = 1024 * 1024
"""Plain bytes after which a member ends: enough to compress well, little to inflate for one entry."""

SLICE_PLAIN_BYTES_MAX = 128 * 1024 * 1024
"""No slice is longer: one closes with the batch that passes its target, and a batch is about 16 MiB."""

_MAGIC = b"EBOPLG\r\n"
_VERSION = 1
_FLAGS_PLAIN_GZIP = 0
_HEADER = struct.Struct("<8sHHQqQqQqQQI")
_MEMBER = struct.Struct("<III")
_CHECKSUM_BYTES = 32
_MEMBERS_MAX = 1_000_000
_MEMBER_PLAIN_BYTES_MAX = MEMBER_BYTES + ENTRY_BYTES_MAX
_MEMBER_STORED_BYTES_MAX = _MEMBER_PLAIN_BYTES_MAX + _MEMBER_PLAIN_BYTES_MAX // 100 + 1024
"""What cannot be compressed grows by less than one part in a hundred."""

_NOBODY = "begin"
_OPTIME = r"([0-9a-f]{16})\.(-1|[0-9]{1,19})"
_NAME = re.compile(rf"{_OPTIME}-{_OPTIME}-(?:{_NOBODY}|{_OPTIME})-([0-9]{{1,12}})-([0-9]{{1,12}})")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A compressed run of entries."""

    stored: Buffer
    entry_count: int
    plain_bytes: int


def compress_entries(raw: bytes, *, entry_count: int) -> Member:
    """One member of whole entries."""
    return Member(stored=compress_member(raw), entry_count=entry_count, plain_bytes=len(raw))


# --- names ------------------------------------------------------------------------------------------------------------


def slice_object_name(piece: OplogSlice) -> str:
    """The slice's name below its replica set's prefix."""
    predecessor = _NOBODY if piece.predecessor is None else _optime_text(piece.predecessor)
    ends = f"{_optime_text(piece.first)}-{_optime_text(piece.last)}-{predecessor}"
    return f"{FOLDER}{ends}-{piece.entry_count}-{piece.plain_bytes}"


def find_slice_in_name(name: str, *, stored_bytes: int) -> OplogSlice | None:
    """What the name of an object (below its replica set's prefix) says; None where it is no slice's name."""
    match = _NAME.fullmatch(name.removeprefix(FOLDER))
    if match is None:
        return None
    first, last = _parse_optime(match[1], match[2]), _parse_optime(match[3], match[4])
    predecessor = None if match[5] is None else _parse_optime(match[5], match[6])
    piece = OplogSlice(
        predecessor=predecessor,
        first=first,
        last=last,
        entry_count=int(match[7]),
        plain_bytes=int(match[8]),
        stored_bytes=stored_bytes,
    )
    return piece if _is_possible(piece) else None


def _optime_text(optime: OpTime) -> str:
    return f"{optime.timestamp.packed:016x}.{optime.term}"


def _parse_optime(timestamp: str, term: str) -> OpTime:
    return OpTime(OplogTimestamp.from_packed(int(timestamp, 16)), min(int(term), 2**63 - 1))


def _is_possible(piece: OplogSlice) -> bool:
    in_order = piece.first <= piece.last and (piece.predecessor is None or piece.predecessor < piece.first)
    return in_order and 0 < piece.entry_count <= piece.plain_bytes <= SLICE_PLAIN_BYTES_MAX


# --- writing ----------------------------------------------------------------------------------------------------------


def slice_chunks(piece: OplogSlice, members: list[Member]) -> Iterator[bytes]:
    """The bytes of a slice, streamed. Raises ValueError where the members are not what `piece` says."""
    entries, plain = sum(m.entry_count for m in members), sum(m.plain_bytes for m in members)
    if (entries, plain) != (piece.entry_count, piece.plain_bytes) or not _is_possible(piece):
        raise ValueError("the members of a slice are not what its header says")
    hasher = blake3()
    for chunk in [_header(piece, len(members)), *map(_member_bytes, members)]:
        hasher.update(chunk)
        yield chunk
    yield hasher.digest()


def stored_length(members: list[Member]) -> int:
    """Bytes of a slice that has these members."""
    return _HEADER.size + _CHECKSUM_BYTES + sum(_MEMBER.size + len(m.stored) for m in members)


def _member_bytes(member: Member) -> bytes:
    return _MEMBER.pack(member.plain_bytes, member.entry_count, len(member.stored)) + bytes(member.stored)


def _header(piece: OplogSlice, member_count: int) -> bytes:
    before = piece.predecessor
    return _HEADER.pack(
        _MAGIC,
        _VERSION,
        _FLAGS_PLAIN_GZIP,
        *((0, 0) if before is None else (before.timestamp.packed, before.term)),
        *(piece.first.timestamp.packed, piece.first.term),
        *(piece.last.timestamp.packed, piece.last.term),
        piece.entry_count,
        piece.plain_bytes,
        member_count,
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def slice_bytes_max(piece: OplogSlice) -> int:
    """No object that holds this slice is longer."""
    return piece.plain_bytes + piece.plain_bytes // 50 + 1024 * 1024


def decode_slice(data: bytes, *, piece: OplogSlice, object_name: str) -> Iterator[Member]:
    """The members of the slice `piece`, still compressed, after the whole object was checked.

    Raises IntegrityError before it gives anything.
    """
    if len(data) < _HEADER.size + _CHECKSUM_BYTES:
        raise IntegrityError(object_name, "is too short for a slice of the oplog")
    body = memoryview(data)[:-_CHECKSUM_BYTES]
    if blake3(body).digest() != data[-_CHECKSUM_BYTES:]:
        raise IntegrityError(object_name, "does not match its checksum")
    (member_count,) = struct.unpack_from("<I", data, _HEADER.size - 4)
    if member_count > _MEMBERS_MAX or bytes(body[: _HEADER.size]) != _header(piece, member_count):
        raise IntegrityError(object_name, "its header is not what its name says, or is of another version")
    return iter(_members(body, member_count, object_name))


def _members(body: memoryview, count: int, object_name: str) -> list[Member]:
    members = []
    offset = _HEADER.size
    for _ in range(count):
        if len(body) - offset < _MEMBER.size:
            raise IntegrityError(object_name, "ends inside a member")
        plain, entries, stored = _MEMBER.unpack_from(body, offset)
        offset += _MEMBER.size
        if plain > _MEMBER_PLAIN_BYTES_MAX or not 0 < stored <= min(
            _MEMBER_STORED_BYTES_MAX, len(body) - offset
        ):
            raise IntegrityError(object_name, "has a member of an impossible length")
        members.append(Member(stored=body[offset : offset + stored], entry_count=entries, plain_bytes=plain))
        offset += stored
    if offset != len(body):
        raise IntegrityError(object_name, "has bytes after its last member")
    return members


def inflate_entries(member: Member, *, object_name: str) -> bytes:
    """The raw entries of a member: as many as it says. Raises IntegrityError."""
    try:
        raw = inflate_member(member.stored, plain_bytes=member.plain_bytes)
        count = sum(run.count for run in walk_entries(raw, run_bytes=MEMBER_BYTES))
    except ValueError as error:
        raise IntegrityError(object_name, f"a member {error}") from None
    if count != member.entry_count:
        raise IntegrityError(object_name, "a member has another number of entries than it says")
    return raw


def check_ends(piece: OplogSlice, *, first: bytes, last: bytes, object_name: str) -> None:
    """Compare the ends that the header names with the entries of the first and the last member. Raises IntegrityError."""
    try:
        last_start = walk_entries(last, run_bytes=len(last))[-1].last_start
        ends = (optime_at(first, 0), optime_at(last, last_start))
    except ValueError as error:
        raise IntegrityError(object_name, f"a member {error}") from None
    if ends != (piece.first, piece.last):
        raise IntegrityError(object_name, "does not begin and end with the entries that its header names")
