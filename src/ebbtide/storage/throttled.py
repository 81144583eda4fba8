"""A limit on bytes per second, and a storage that keeps to it when it writes.

The rule is `domain.bounds.draw`; here is the clock that waits. Reading back is not limited: a restore is wanted at
once, and prune reads little.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Self

from ebbtide.clock import Clock
from ebbtide.domain.bounds import Bucket, draw
from ebbtide.storage.protocol import Storage, StoredObject

WAIT_SECONDS_MAX = 0.25
"""A wait is cut into such pieces, so that whoever waits hears soon that it shall stop."""


class RateLimit:
    """At most so many bytes per second over all threads that call `take`."""

    def __init__(self, bytes_per_second: float, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._bucket = Bucket.full(bytes_per_second, at=clock.monotonic())

    def take(self, amount: int, *, check: Callable[[], None] | None = None) -> None:
        """Return once `amount` bytes may be moved. Raises whatever `check` raises while it waits."""
        with self._lock:
            self._bucket, seconds = draw(self._bucket, amount, at=self._clock.monotonic())
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            if check is not None:
                check()
            self._clock.sleep(min(left, WAIT_SECONDS_MAX))


class ThrottledStorage:
    """`inner`, written to no faster than `writes` allows."""

    def __init__(self, inner: Storage, *, writes: RateLimit) -> None:
        self.inner = inner
        self._writes = writes
        self._check: Callable[[], None] | None = None

    def checked_by(self, check: Callable[[], None]) -> Self:
        """The same storage and the same limit, but whoever waits for it stops when `check` raises: the put raises that,
        and stores nothing."""
        checked = copy.copy(self)
        checked._check = check
        return checked

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        return self.inner.put(name, self._slowly(chunks))

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> int:
        return self.inner.put_many(self._objects_slowly(objects))

    def get(self, name: str, *, limit: int) -> bytes:
        return self.inner.get(name, limit=limit)

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        return self.inner.get_range(name, start=start, length=length)

    def size(self, name: str) -> int:
        return self.inner.size(name)

    def iter_objects(self, prefix: str) -> Iterator[StoredObject]:
        return self.inner.iter_objects(prefix)

    def delete(self, name: str) -> None:
        self.inner.delete(name)

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()

    def total_bytes(self) -> int | None:
        return self.inner.total_bytes()

    def _slowly(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._writes.take(len(chunk), check=self._check)
            yield chunk

    def _objects_slowly(self, objects: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        for name, data in objects:
            self._writes.take(len(data), check=self._check)
            yield name, data


def stoppable(storage: Storage, check: Callable[[], None]) -> Storage:
    """`storage`; where it waits for a rate, the waiting ends when `check` raises."""
    return storage.checked_by(check) if isinstance(storage, ThrottledStorage) else storage
