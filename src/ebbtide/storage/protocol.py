"""Bytes by name: what every storage promises.

Names are relative POSIX paths ("a/b/c"), checked by `check_name`. An object is written whole or not at all
and is never changed in place; it can be overwritten or deleted. All methods may be called from any thread.

Errors: ObjectNotFound where said; StorageFull when there is no space; StorageError for everything else that
the storage refuses; IntegrityError when an object is shorter than the caller knows it to be.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ebbtide.errors import InvalidInput

NAME_BYTES_MAX = 1000
"""Length of a whole name; object stores allow 1024."""

PART_BYTES_MAX = 255
"""Length of one part between slashes: what Linux filesystems allow."""

RESERVED_TOP = "tmp"
"""No name may begin with this part: a directory storage keeps unfinished objects there."""

_PART = re.compile(r"[A-Za-z0-9._%+=@~-]+")


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object in a listing."""

    name: str
    size_bytes: int


class Storage(Protocol):
    """A place for objects."""

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        """Store the concatenated chunks under `name`; the length in bytes is returned.

        Atomic: readers see the object before, or all of the new one. Durable on return. Overwrites; so
        idempotent. An exception raised by `chunks` passes through unchanged and nothing is stored. After any
        other error the object may or may not be there; a partial one never is. `chunks` is read once, in this
        thread.
        """

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> int:
        """Store many small objects, each as by `put`, in any order; the sum of lengths is returned.

        All are durable on return; after an error any of them may be there. Much faster than as many `put`s.
        """

    def get(self, name: str, *, limit: int) -> bytes:
        """The whole object. ObjectNotFound if absent, IntegrityError if it is longer than `limit` bytes."""

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        """Exactly `length` bytes from offset `start` (0 is the first byte).

        ObjectNotFound if absent, IntegrityError if the object ends earlier.
        """

    def size(self, name: str) -> int:
        """The object's length in bytes. ObjectNotFound if absent."""

    def iter_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Every object whose name begins with `prefix` (any string, "" for all), in no particular order.

        What is put or deleted meanwhile may or may not be listed.
        """

    def delete(self, name: str) -> None:
        """Remove the object. Idempotent: nothing happens if it is absent. Durable on return."""

    def free_bytes(self) -> int | None:
        """Space left for new objects, or None where the storage cannot tell."""

    def total_bytes(self) -> int | None:
        """Space for objects, taken or not, or None where the storage cannot tell."""


def check_name(name: str) -> str:
    """`name` itself, if it is a valid object name.

    Raises InvalidInput for an absolute, not normalised, over-long or reserved name, or for characters outside
    of letters, digits and ``._%+=@~-``.
    """
    parts = name.split("/")
    if len(name) > NAME_BYTES_MAX or parts[0] == RESERVED_TOP:
        raise InvalidInput("object name", expected="a short relative path outside of tmp/", got=name)
    for part in parts:
        if part in (".", "..") or len(part) > PART_BYTES_MAX or not _PART.fullmatch(part):
            raise InvalidInput("object name", expected="a normalised relative path", got=name)
    return name
