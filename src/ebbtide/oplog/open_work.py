"""Records of open work, stored beside the slices of a part's oplog archive.

Layout, little-endian (docs/formats/oplog.md):

    magic 8 | version u16 | at u64 | BSON document of OpenWork | BLAKE3 32

The object's name is `open-work/` and `at`, the oplog timestamp after which this was open, as 16 hex digits.

Invariant: a record is written once; a second one of the same moment would say the same, or less exactly.
Crash: a record is there or not. One that no chain needs is harmless.
"""

import re
import struct

import bson
from blake3 import blake3
from bson.errors import InvalidBSON

from ebbtide.domain.consistent_point import OpenWork
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import IntegrityError
from ebbtide.repository.repository import ReplicaSetStore

FOLDER = "open-work/"

RECORD_BYTES_MAX = 16 * 1024 * 1024
"""Some hundred bytes for each transaction: so many are never open at once."""

_MAGIC = b"EBOPEN\r\n"
_VERSION = 1
_HEADER = struct.Struct("<8sHQ")
_CHECKSUM_BYTES = 32
_NAME = re.compile(rf"(?:{FOLDER})?([0-9a-f]{{16}})")


class OpenWorkStore:
    """The records of one part. Safe to use from many threads."""

    def __init__(self, store: ReplicaSetStore) -> None:
        self._store = store

    def moments(self) -> list[OplogTimestamp]:
        """Of which moments there are records, oldest first. Raises StorageError."""
        found = (_NAME.fullmatch(name) for name in self._store.sizes(FOLDER))
        return sorted(OplogTimestamp.from_packed(int(match[1], 16)) for match in found if match)

    def put(self, at: OplogTimestamp, work: OpenWork) -> None:
        """Store a record. Idempotent. Raises StorageError."""
        self._store.storage.put(self._store.object_name(_name(at)), [encode_record(at, work)])

    def load(self, at: OplogTimestamp) -> OpenWork:
        """Raises ObjectNotFound, IntegrityError, StorageError."""
        name = self._store.object_name(_name(at))
        return decode_record(self._store.storage.get(name, limit=RECORD_BYTES_MAX), at=at, object_name=name)

    def delete(self, at: OplogTimestamp) -> None:
        """Remove a record. Idempotent."""
        self._store.delete_object(_name(at))


def _name(at: OplogTimestamp) -> str:
    return f"{FOLDER}{at.packed:016x}"


def encode_record(at: OplogTimestamp, work: OpenWork) -> bytes:
    body = _HEADER.pack(_MAGIC, _VERSION, at.packed) + bson.encode(work.to_document())
    return body + blake3(body).digest()


def decode_record(data: bytes, *, at: OplogTimestamp, object_name: str) -> OpenWork:
    """Raises IntegrityError for anything that is no record of this moment."""
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if len(body) < _HEADER.size or blake3(body).digest() != checksum:
        raise IntegrityError(object_name, "does not match its checksum")
    if _HEADER.unpack_from(body) != (_MAGIC, _VERSION, at.packed):
        raise IntegrityError(object_name, "is no record of open work of the moment in its name")
    try:
        return OpenWork.from_document(bson.decode(body[_HEADER.size :]))
    except (InvalidBSON, ValueError) as error:
        raise IntegrityError(object_name, str(error)) from None
