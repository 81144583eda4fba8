"""Storages for tests: one in memory, and one that fails as told.

`FaultyStorage(inner, faults)` counts operations from 1, each `put`, `get`, `get_range`, `size`, `delete` and
each start of an `iter_objects` (a `put_many` counts as its puts, in order), and injects exactly these faults:

    fail_operation n       the nth operation raises StorageError and does nothing
    disk_full_at_bytes n   a put that would make the sum of bytes put exceed n raises StorageFull and stores
    nothing lose_put n             the nth put returns as if done, but stores nothing
    tear_put n             the nth put returns as if done, but only the first half of the object is stored
    flip_bit (name, bit)   every read of `name` sees this bit of the object inverted (bit 0: lowest of byte 0)
    truncate (name, size)  every read of `name` sees only its first `size` bytes
    crash_before_put n     SimulatedCrash is raised instead of the nth put
    crash_after_put n      SimulatedCrash is raised when the nth put is done
    crash_at_operation n   SimulatedCrash is raised instead of the nth operation

After a simulated crash every further operation raises SimulatedCrash, so no clean-up of the "dead" process
can work.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ebbtide.errors import IntegrityError, ObjectNotFound, StorageError, StorageFull
from ebbtide.storage.protocol import Storage, StoredObject, check_name


class SimulatedCrash(BaseException):
    """The process "died" here. Not an Exception, so that no handler for errors survives it."""


class MemoryStorage:
    """Objects in a dictionary. `objects` may be read and changed by tests."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        check_name(name)
        data = b"".join(chunks)
        self.objects[name] = data
        return len(data)

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> int:
        return sum(self.put(name, [data]) for name, data in objects)

    def get(self, name: str, *, limit: int) -> bytes:
        data = self._find(name, "get")
        if len(data) > limit:
            raise IntegrityError(name, f"is longer than the {limit} bytes that it may have")
        return data

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        data = self._find(name, "get range of")[start : start + length]
        if len(data) != length:
            raise IntegrityError(name, f"ends {length - len(data)} bytes before offset {start + length}")
        return data

    def size(self, name: str) -> int:
        return len(self._find(name, "size of"))

    def iter_objects(self, prefix: str) -> Iterator[StoredObject]:
        for name, data in list(self.objects.items()):
            if name.startswith(prefix):
                yield StoredObject(name=name, size_bytes=len(data))

    def delete(self, name: str) -> None:
        self.objects.pop(check_name(name), None)

    def free_bytes(self) -> int | None:
        return None

    def total_bytes(self) -> int | None:
        return None

    def _find(self, name: str, operation: str) -> bytes:
        try:
            return self.objects[check_name(name)]
        except KeyError:
            raise ObjectNotFound(name, operation=operation) from None


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong; see the module's docstring. None means never."""

    fail_operation: int | None = None
    disk_full_at_bytes: int | None = None
    lose_put: int | None = None
    tear_put: int | None = None
    flip_bit: tuple[str, int] | None = None
    truncate: tuple[str, int] | None = None
    crash_before_put: int | None = None
    crash_after_put: int | None = None
    crash_at_operation: int | None = None


class FaultyStorage:
    """`inner` with `faults`. `operations` and `puts` count what was asked for so far."""

    def __init__(self, inner: Storage, faults: Faults) -> None:
        self.inner = inner
        self.faults = faults
        self.operations = 0
        self.puts = 0
        self.put_bytes = 0
        self._crashed = False
        self._lock = threading.RLock()

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        data = b"".join(chunks)
        # One put at a time, so that "the nth" is well defined.
        with self._lock:
            self._count("put", name)
            self.puts += 1
            if self.puts == self.faults.crash_before_put:
                self._crash()
            self._store(name, data)
            if self.puts == self.faults.crash_after_put:
                self._crash()
        return len(data)

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> int:
        return sum(self.put(name, [data]) for name, data in objects)

    def get(self, name: str, *, limit: int) -> bytes:
        self._count("get", name)
        if not self._spoils(name):
            return self.inner.get(name, limit=limit)
        data = self._spoiled(name)
        if len(data) > limit:
            raise IntegrityError(name, f"is longer than the {limit} bytes that it may have")
        return data

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        self._count("get range of", name)
        if not self._spoils(name):
            return self.inner.get_range(name, start=start, length=length)
        data = self._spoiled(name)[start : start + length]
        if len(data) != length:
            raise IntegrityError(name, f"ends {length - len(data)} bytes before offset {start + length}")
        return data

    def size(self, name: str) -> int:
        self._count("size of", name)
        return len(self._spoiled(name)) if self._spoils(name) else self.inner.size(name)

    def iter_objects(self, prefix: str) -> Iterator[StoredObject]:
        self._count("list", prefix)
        yield from self.inner.iter_objects(prefix)

    def delete(self, name: str) -> None:
        self._count("delete", name)
        self.inner.delete(name)

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()

    def total_bytes(self) -> int | None:
        return self.inner.total_bytes()

    def _count(self, operation: str, name: str) -> None:
        with self._lock:
            if self._crashed:
                raise SimulatedCrash
            self.operations += 1
            if self.operations == self.faults.crash_at_operation:
                self._crash()
            if self.operations == self.faults.fail_operation:
                raise StorageError(operation, name, "injected failure")

    def _store(self, name: str, data: bytes) -> None:
        limit = self.faults.disk_full_at_bytes
        if limit is not None and self.put_bytes + len(data) > limit:
            raise StorageFull("put", name)
        self.put_bytes += len(data)
        if self.puts == self.faults.lose_put:
            return
        self.inner.put(name, [data[: len(data) // 2] if self.puts == self.faults.tear_put else data])

    def _crash(self) -> None:
        self._crashed = True
        raise SimulatedCrash

    def _spoils(self, name: str) -> bool:
        return any(
            fault is not None and fault[0] == name for fault in (self.faults.flip_bit, self.faults.truncate)
        )

    def _spoiled(self, name: str) -> bytes:
        data = bytearray(self.inner.get(name, limit=2**40))
        if self.faults.flip_bit is not None and self.faults.flip_bit[0] == name:
            data[self.faults.flip_bit[1] // 8] ^= 1 << self.faults.flip_bit[1] % 8
        if self.faults.truncate is not None and self.faults.truncate[0] == name:
            del data[self.faults.truncate[1] :]
        return bytes(data)
