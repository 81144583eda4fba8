"""The program of a compressor: reads, hashes and compresses pieces of files, and nothing else.

Started by `repository.compressor`, which is the other end of its pipes; one thread, no state but the piece in hand.

    parent → child   path length u32 | offset u64 | length u32 | path        read and hash a piece
    child → parent   status u8 | count u32 | ids, 16 bytes each               (little-endian, over its pipes)
    parent → child   one byte a block: 1 for those to compress
    child → parent   status u8 | count u32 | (stored length u32, CRC u32) each
                     the stored bytes, one after another, are in the memory that both share

It writes nothing but the shared memory and its pipe, and imports little: a snapshot waits for its start.
Crash: it ends with its parent's pipe.
"""

import mmap
import os
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ebbtide.repository.block import (
    BLOCK_BYTES,
    STORED_EXCESS_MAX,
    block_count,
    block_id,
    encode_block,
    stored_crc,
)
from ebbtide.repository.gzip_member import Buffer

READY = b"+"
OK, SHORT, FAILED = 0, 1, 2
REQUEST = struct.Struct("<IQI")
ANSWER = struct.Struct("<BI")
STORED = struct.Struct("<II")

Stored = tuple[Buffer, int]
"""The stored bytes of a block and their CRC."""


class PieceInHand:
    """A piece that was read: the ids of its blocks, and their stored form on demand. Here, in this thread."""

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data)
        self.ids = [block_id(self._block(index)) for index in range(block_count(len(self._view)))]

    def compress(self, indexes: Sequence[int]) -> list[Stored]:
        """The stored form of these blocks, in that order."""
        stored = [encode_block(self._block(index)) for index in indexes]
        return [(one, stored_crc(one)) for one in stored]

    def _block(self, index: int) -> memoryview:
        return self._view[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]


def memory_bytes(piece_bytes: int) -> int:
    return piece_bytes + block_count(piece_bytes) * STORED_EXCESS_MAX


def write_all(pipe: BinaryIO, data: Buffer | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) :]


def read_exactly(pipe: BinaryIO, length: int) -> bytes | None:
    """`length` bytes, or None where the pipe ends before."""
    parts = []
    while length:
        part = pipe.read(length)
        if not part:
            return None
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def main(arguments: list[str]) -> None:
    """Serve the parent until its pipe ends."""
    # A Ctrl-C goes to everyone at the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    memory, piece_bytes = int(arguments[0]), int(arguments[1])
    shared = memoryview(mmap.mmap(memory, memory_bytes(piece_bytes)))
    buffer = memoryview(bytearray(piece_bytes))
    with open(0, "rb", buffering=0) as requests, open(1, "wb", buffering=0) as answers:
        write_all(answers, READY)
        while _serve_piece(requests, answers, buffer, shared):
            pass


def _serve_piece(requests: BinaryIO, answers: BinaryIO, buffer: memoryview, shared: memoryview) -> bool:
    """One piece; False where the parent has no more."""
    header = read_exactly(requests, REQUEST.size)
    if header is None:
        return False
    name_bytes, offset, length = REQUEST.unpack(header)
    name = read_exactly(requests, name_bytes)
    if name is None:
        return False
    try:
        whole = read_into(Path(os.fsdecode(name)), buffer[:length], offset=offset)
    except OSError:
        write_all(answers, ANSWER.pack(FAILED, 0))
        return True
    if not whole:
        write_all(answers, ANSWER.pack(SHORT, 0))
        return True
    piece = PieceInHand(buffer[:length])
    write_all(answers, ANSWER.pack(OK, len(piece.ids)) + b"".join(piece.ids))
    chosen = read_exactly(requests, len(piece.ids))
    if chosen is None:
        return False
    answer = []
    start = 0
    for index, is_chosen in enumerate(chosen):
        if is_chosen:
            ((stored, crc),) = piece.compress([index])
            shared[start : start + len(stored)] = stored
            start += len(stored)
            answer.append(STORED.pack(len(stored), crc))
    write_all(answers, ANSWER.pack(OK, len(answer)) + b"".join(answer))
    return True


def read_into(path: Path, buffer: memoryview, *, offset: int) -> bool:
    """Fill the buffer with the file's bytes from `offset` on; False where it is gone or ends before."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            done = 0
            while done < len(buffer) and (count := file.readinto(buffer[done:])):
                done += count
    except FileNotFoundError:
        return False
    return done == len(buffer)


if __name__ == "__main__":
    main(sys.argv[1:])
