"""The program of a compressor: reads, hashes and compresses pieces of files, and nothing else.

Started by `repository.compressor`, which is the other end of its pipes; one thread, no state but the piece in hand.

    parent → child   path length u32 | offset u64 | length u32 | count u32 | path | that many ids, 16 bytes each
    child → parent   status u8 | count u32 | stored length of all u32              (little-endian, over its pipes)
                     in the memory that both share: an id, a stored length u32 and a CRC u32 for each block, then
                     the stored bytes, one after another

The ids that it is told are those of the blocks that the parent snapshot has at these places. A block that is equal, or
that the piece had before, gets the stored length 0.

It writes nothing but the shared memory and its pipe, and imports little: a snapshot waits for its start.
Crash: it ends with its parent's pipe.
"""

import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ebbtide.repository.block import (
    BLOCK_BYTES,
    BLOCK_ID_BYTES,
    STORED_EXCESS_MAX,
    block_count,
    block_id,
    encode_block,
    stored_crc,
)
from ebbtide.repository.gzip_member import Buffer

READY = b"+"
OK, SHORT, FAILED = 0, 1, 2
REQUEST = struct.Struct("<IQII")
ANSWER = struct.Struct("<BII")
BLOCK = struct.Struct(f"<{BLOCK_ID_BYTES}sII")


class PieceBlock(NamedTuple):
    """A block of a piece: its id, its stored bytes and their CRC. They are empty where it is stored already."""

    id: bytes
    stored: Buffer
    crc: int


def read_blocks(
    piece: memoryview, same_place: Sequence[bytes], is_known: Callable[[bytes], bool] = lambda _: False
) -> Iterator[PieceBlock]:
    """The blocks of a piece, in order. Not compressed are those whose id is known, equal to that in `same_place`, or
    that of an earlier block of the piece."""
    seen: set[bytes] = set()
    for index in range(block_count(len(piece))):
        block = piece[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
        identity = block_id(block)
        is_same = index < len(same_place) and same_place[index] == identity
        if is_same or identity in seen or is_known(identity):
            yield PieceBlock(identity, b"", 0)
        else:
            seen.add(identity)
            stored = encode_block(block)
            yield PieceBlock(identity, stored, stored_crc(stored))


def memory_bytes(piece_bytes: int) -> int:
    return piece_bytes + block_count(piece_bytes) * (BLOCK.size + STORED_EXCESS_MAX)


def split_ids(ids: bytes) -> list[bytes]:
    return [ids[start : start + BLOCK_ID_BYTES] for start in range(0, len(ids), BLOCK_ID_BYTES)]


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
    name_bytes, offset, length, count = REQUEST.unpack(header)
    name = read_exactly(requests, name_bytes)
    same_place = read_exactly(requests, count * BLOCK_ID_BYTES)
    if name is None or same_place is None:
        return False
    piece = buffer[:length]
    try:
        whole = read_into(Path(os.fsdecode(name)), piece, offset=offset)
    except OSError:
        write_all(answers, ANSWER.pack(FAILED, 0, 0))
        return True
    if not whole:
        write_all(answers, ANSWER.pack(SHORT, 0, 0))
        return True
    begin = end = block_count(length) * BLOCK.size
    for index, block in enumerate(read_blocks(piece, split_ids(same_place))):
        shared[end : end + len(block.stored)] = block.stored
        end += len(block.stored)
        BLOCK.pack_into(shared, index * BLOCK.size, block.id, len(block.stored), block.crc)
    write_all(answers, ANSWER.pack(OK, block_count(length), end - begin))
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
