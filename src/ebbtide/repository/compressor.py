"""Compressors: processes that read, hash and compress pieces of files for the threads of one snapshot.

One interpreter runs Python in one thread at a time, and handing that right over several times a block leaves
processors idle. So a large snapshot has a child for each thread (`compressor_program`), asked once or twice for a
piece of some MiB.

Invariants
  * the parent decides alone what is stored; a child writes nothing but the memory that both share
  * only a whole answer is used; a child that is lost costs speed, for the thread then does the piece itself
Crash: when the parent is gone its pipes end, and so do the children; the shared memory has no name and goes with them.
"""

import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import structlog

from ebbtide.repository.block import BLOCK_ID_BYTES, block_count
from ebbtide.repository.compressor_program import (
    ANSWER,
    FAILED,
    READY,
    REQUEST,
    SHORT,
    STORED,
    Stored,
    memory_bytes,
    read_exactly,
    write_all,
)
from ebbtide.repository.gzip_member import Buffer

_log = structlog.get_logger()


class CompressorLost(Exception):
    """A child died, or could not do what it was asked; whoever asked does it without."""


class Compressor:
    """One child. One thread at a time uses it, for one piece at a time: `read`, then `compress` once."""

    def __init__(self, *, piece_bytes: int) -> None:
        self.ids: list[bytes] = []
        self._is_ready = False
        self._memory = os.memfd_create("ebbtide-compressor", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._memory, memory_bytes(piece_bytes))
            # -P: what lies in the current directory must not pass for a library.
            command = [sys.executable, "-P", "-m", "ebbtide.repository.compressor_program"]
            self._process = subprocess.Popen(
                [*command, str(self._memory), str(piece_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(self._memory,),
                bufsize=0,
            )
        except BaseException:
            os.close(self._memory)
            raise

    def is_ready(self) -> bool:
        """Whether it has come up; does not wait. Raises CompressorLost."""
        if not self._is_ready:
            poller = select.poll()
            poller.register(self._from_child, select.POLLIN | select.POLLHUP)
            if not poller.poll(0):
                return False
            if self._receive(len(READY)) != READY:
                raise CompressorLost("it did not come up")
            self._is_ready = True
        return True

    def read(self, path: Path, *, offset: int, length: int) -> Self | None:
        """Itself with the `ids` of the piece's blocks; None where the file is gone or too short.

        Raises CompressorLost, also where the file cannot be read.
        """
        name = os.fsencode(path)
        self._send(REQUEST.pack(len(name), offset, length) + name)
        status, count = self._answer()
        if status == SHORT:
            return None
        if count != block_count(length):
            raise CompressorLost(f"it counted {count} blocks")
        ids = self._receive(count * BLOCK_ID_BYTES)
        self.ids = [
            ids[start : start + BLOCK_ID_BYTES] for start in range(0, count * BLOCK_ID_BYTES, BLOCK_ID_BYTES)
        ]
        return self

    def compress(self, indexes: Sequence[int]) -> list[Stored]:
        """The stored form of these blocks of the piece, in ascending order. Raises CompressorLost."""
        chosen = bytearray(len(self.ids))
        for index in indexes:
            chosen[index] = 1
        self._send(chosen)
        _, count = self._answer()
        if count != len(indexes):
            raise CompressorLost(f"it compressed {count} blocks")
        lengths = list(STORED.iter_unpack(self._receive(count * STORED.size)))
        total = sum(length for length, _ in lengths)
        together = memoryview(os.pread(self._memory, total, 0))
        if len(together) != total:
            raise CompressorLost("its blocks are not all there")
        stored: list[Stored] = []
        start = 0
        for length, crc in lengths:
            stored.append((together[start : start + length], crc))
            start += length
        return stored

    def close(self) -> None:
        """End the child and forget the shared memory."""
        # It has nothing to finish, and a Python that ends by itself takes its time.
        self._process.kill()
        self._process.wait()
        self._to_child.close()
        self._from_child.close()
        os.close(self._memory)

    @property
    def _to_child(self) -> BinaryIO:
        if self._process.stdin is None:
            raise CompressorLost("it has no pipe")
        return self._process.stdin  # type: ignore[return-value]

    @property
    def _from_child(self) -> BinaryIO:
        if self._process.stdout is None:
            raise CompressorLost("it has no pipe")
        return self._process.stdout  # type: ignore[return-value]

    def _send(self, data: Buffer | bytearray) -> None:
        try:
            write_all(self._to_child, data)
        except OSError as error:
            raise CompressorLost(str(error)) from error

    def _receive(self, length: int) -> bytes:
        data = read_exactly(self._from_child, length)
        if data is None:
            raise CompressorLost("it ended")
        return data

    def _answer(self) -> tuple[int, int]:
        status, count = ANSWER.unpack(self._receive(ANSWER.size))
        if status == FAILED:
            raise CompressorLost("it failed")
        return status, count


class Compressors:
    """Up to `count` children for the threads of one snapshot; with 0 there are none. Leaving the `with` ends them."""

    def __init__(self, count: int, *, piece_bytes: int) -> None:
        self._count = count
        self._piece_bytes = piece_bytes
        self._idle: list[Compressor] = []
        self._all: list[Compressor] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._all.append(Compressor(piece_bytes=self._piece_bytes))
        except OSError as error:
            _log.warning("compressor.not_started", problem=str(error))
        self._idle = list(self._all)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for compressor in self._all:
            compressor.close()

    @contextmanager
    def borrow(self) -> Iterator[Compressor | None]:
        """A child that is ready, or None. One that is lost while it is lent is not lent again."""
        compressor = self._take()
        try:
            yield compressor
        except BaseException as error:
            # Whatever broke off the talk with the child: its next answer would be that to another question.
            if compressor is not None:
                _log.warning("compressor.lost", problem=str(error) or type(error).__name__)
            raise
        if compressor is not None:
            with self._lock:
                self._idle.append(compressor)

    def _take(self) -> Compressor | None:
        with self._lock:
            for compressor in list(self._idle):
                try:
                    if compressor.is_ready():
                        self._idle.remove(compressor)
                        return compressor
                except CompressorLost as lost:
                    _log.warning("compressor.lost", problem=str(lost))
                    self._idle.remove(compressor)
        return None
