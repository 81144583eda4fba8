"""The blocks of an open pack, on their way from the thread that places them to the one that writes them.

A pack is written while it fills, so that no whole pack is ever in memory: at most QUEUE_BYTES_MAX of it wait, and as
much is being written; who adds more waits for the storage.

Crash: as that of the storage's put; nothing has the pack's name before its last byte is durable.
"""

import threading
from collections import deque
from collections.abc import Iterator

from ebbtide.repository.gzip_member import Buffer

QUEUE_BYTES_MAX = 16 * 1024 * 1024
"""Bridges the moments in which a storage takes nothing."""

TAKEN_BYTES_MIN = 1024 * 1024


class PackAbandoned(Exception):
    """The pack will not be finished: whoever writes it must not store it."""


class PackStream:
    """One thread adds blocks and then finishes or abandons; another one iterates over them, once, and then stops."""

    def __init__(self, *, bytes_max: int = QUEUE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._blocks: deque[Buffer] = deque()
        self._bytes = 0
        self._is_finished = False
        self._is_abandoned = False
        self._is_stopped = False
        self._changed = threading.Condition()

    def add(self, block: Buffer) -> bool:
        """Wait for room, and add a block; False where nobody takes it any more."""
        with self._changed:
            while self._bytes >= self._bytes_max and not self._is_stopped:
                self._changed.wait()
            self._blocks.append(block)
            self._bytes += len(block)
            if self._bytes >= TAKEN_BYTES_MIN:
                self._changed.notify_all()
            return not self._is_stopped

    def finish(self) -> None:
        """No block follows."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Let whoever iterates end with PackAbandoned, unless all was finished before."""
        with self._changed:
            self._is_abandoned = not self._is_finished
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody takes blocks any more; call it however the writing ended."""
        with self._changed:
            self._is_stopped = True
            self._blocks.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Buffer]:
        while blocks := self._take():
            yield from blocks

    def _take(self) -> list[Buffer]:
        """What waits, once it is worth a hand-over between threads; nothing at the end."""
        with self._changed:
            while not (self._bytes >= TAKEN_BYTES_MIN or self._is_finished or self._is_abandoned):
                self._changed.wait()
            if self._is_abandoned:
                raise PackAbandoned
            blocks = list(self._blocks)
            self._blocks.clear()
            self._bytes = 0
            self._changed.notify_all()
            return blocks
