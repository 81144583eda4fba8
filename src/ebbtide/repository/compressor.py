"""Compressors: processes that read, hash and compress pieces of files for the threads of one snapshot.

One interpreter runs Python in one thread at a time, and handing that right over several times a block leaves
processors idle. So a large snapshot has children (`compressor_program`), each asked for a piece of some MiB at a
time.

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

from ebbtide.repository.block import block_count
from ebbtide.repository.compressor_program import (
    ANSWER,
    BLOCK,
    FAILED,
    READY,
    REQUEST,
    SHORT,
    PieceBlock,
    memory_bytes,
    read_exactly,
    write_all,
)
from ebbtide.repository.gzip_member import Buffer

_log = structlog.get_logger()


class CompressorLost(Exception):
    """A child died, or could not do what it was asked; whoever asked does it without."""


class Compressor:
    """One child. One thread at a time uses it."""

    def __init__(self, *, piece_bytes: int) -> None:
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

    def read(
        self, path: Path, *, offset: int, length: int, same_place: Sequence[bytes] = ()
    ) -> list[PieceBlock] | None:
        """The blocks of a piece, as `read_blocks` gives them; None where the file is gone or too short.

        Their stored bytes are views of one buffer, in which they stand end to end. Raises CompressorLost, also where
        the file cannot be read.
        """
        name = os.fsencode(path)
        request = REQUEST.pack(len(name), offset, length, len(same_place))
        self._send(b"".join((request, name, *same_place)))
        status, count, stored_bytes = ANSWER.unpack(self._receive(ANSWER.size))
        if status == FAILED:
            raise CompressorLost("it failed")
        if status == SHORT:
            return None
        if count != block_count(length):
            raise CompressorLost(f"it counted {count} blocks")
        return list(self._iter_blocks(count, stored_bytes))

    def _iter_blocks(self, count: int, stored_bytes: int) -> Iterator[PieceBlock]:
        start = count * BLOCK.size
        answer = memoryview(os.pread(self._memory, start + stored_bytes, 0))
        for identity, length, crc in BLOCK.iter_unpack(answer[:start]):
            yield PieceBlock(identity, answer[start : start + length], crc)
            start += length
        if start != len(answer):
            raise CompressorLost("its blocks are not all there")

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


class Compressors:
    """Up to `count` children for the threads of one snapshot; with 0 there are none. Leaving the `with` ends them."""

    def __init__(self, count: int, *, piece_bytes: int) -> None:
        self._count = count
        self._piece_bytes = piece_bytes
        self._all: list[Compressor] = []
        self._idle: list[Compressor] = []
        self._lent_count = 0
        self._changed = threading.Condition()

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
        """A child that is ready; waits where all are lent. None where there is none, or none has come up yet.

        One that is lost while it is lent is not lent again.
        """
        compressor = self._take()
        is_lost = True
        try:
            yield compressor
            is_lost = False
        finally:
            if compressor is not None:
                self._give_back(compressor, is_lost=is_lost)

    def _take(self) -> Compressor | None:
        with self._changed:
            while True:
                found = self._find_ready()
                if found is not None:
                    self._idle.remove(found)
                    self._lent_count += 1
                    return found
                if self._lent_count == 0:
                    return None
                self._changed.wait()

    def _find_ready(self) -> Compressor | None:
        for compressor in list(self._idle):
            try:
                if compressor.is_ready():
                    return compressor
            except CompressorLost as lost:
                _log.warning("compressor.lost", problem=str(lost))
                self._idle.remove(compressor)
        return None

    def _give_back(self, compressor: Compressor, *, is_lost: bool) -> None:
        """Whatever broke off the talk with a child, its next answer would be that to another question."""
        with self._changed:
            self._lent_count -= 1
            if is_lost:
                _log.warning("compressor.lost", problem="its piece is done without it")
            else:
                self._idle.append(compressor)
            self._changed.notify_all()
