"""Gzip members: the units that a gzip stream can be cut into and put together from.

A member made by `stored_member` holds its data uncompressed, so its bytes follow from the format (RFC 1951,
1952) alone: the same on every machine and with every version of a compressor. What must be reproducible uses
it.
"""

import io
import struct

from isal import igzip, igzip_lib, isal_zlib

Buffer = bytes | memoryview

_WBITS = 31  # with a gzip header and trailer
_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no flags, no time, unknown system
_STORED_BYTES_MAX = 65535
_STORED_HEADER = struct.Struct("<BHH")
_TRAILER = struct.Struct("<II")


def compress_member(plain: Buffer, *, level: int = 1) -> bytes:
    """One compressed member, without name or time; equal input gives equal bytes nearly always, never surely."""
    return isal_zlib.compress(plain, level, wbits=_WBITS)


def inflate_member(member: Buffer, *, plain_bytes: int) -> bytes:
    """The `plain_bytes` plain bytes of exactly one member; the CRC in it is checked.

    Never makes more than `plain_bytes` + 1 bytes. Raises ValueError, with the reason, for anything else.
    """
    inflater = isal_zlib.decompressobj(_WBITS)
    try:
        plain = inflater.decompress(member, plain_bytes + 1)
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # the stubs call this class an instance
        raise ValueError(f"cannot be inflated: {error}") from None
    if len(plain) != plain_bytes or not inflater.eof or inflater.unused_data:
        raise ValueError(f"is not one gzip member of {plain_bytes} plain bytes")
    return plain


def inflate_members(members: bytes, into: memoryview) -> None:
    """Fill `into` with the plain bytes of members that stand end to end, in one stretch of native code.

    Their CRCs are checked; where one member ends and the next begins is not. Never makes more than 8 KiB too much.
    Raises ValueError, with the reason, unless they give exactly as many bytes.
    """
    done = 0
    try:
        with igzip.IGzipFile(fileobj=io.BytesIO(members), mode="rb") as stream:  # type: ignore[no-untyped-call]
            while done < len(into) and (count := stream.readinto(into[done:])):
                done += count
            is_longer = bool(stream.read(1))
    except (OSError, EOFError, igzip_lib.IsalError) as error:  # type: ignore[misc]  # as above
        raise ValueError(f"cannot be inflated: {error}") from None
    if done < len(into) or is_longer:
        raise ValueError(f"are not gzip members of {len(into)} plain bytes together")


def stored_member(plain: bytes) -> bytes:
    """One member that holds `plain` uncompressed."""
    parts = [_HEADER]
    last_start = max(0, len(plain) - 1) // _STORED_BYTES_MAX * _STORED_BYTES_MAX
    for start in range(0, last_start + 1, _STORED_BYTES_MAX):
        piece = plain[start : start + _STORED_BYTES_MAX]
        parts.append(_STORED_HEADER.pack(start == last_start, len(piece), len(piece) ^ 0xFFFF))
        parts.append(piece)
    parts.append(_TRAILER.pack(isal_zlib.crc32(plain), len(plain) & 0xFFFFFFFF))
    return b"".join(parts)
