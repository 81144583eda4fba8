"""Which bytes of a file a request is about: Range, If-Range, If-Match and If-None-Match (RFC 9110).

Pure. A range that is malformed, of another unit, or one of several is ignored, as the RFC allows: the whole file is
sent then.
"""

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Whole:
    """All of the file."""


@dataclass(frozen=True)
class Part:
    """Bytes `first` … `end`−1; never empty, never past the end of the file."""

    first: int
    end: int


@dataclass(frozen=True)
class Unsatisfiable:
    """A range that begins after the end of the file."""


def resolve_range(
    header: str | None, *, if_range: str | None, etag: str, length_bytes: int
) -> Whole | Part | Unsatisfiable:
    """What a GET asks for. A date in If-Range never matches: the file has a strong ETag, and no date."""
    match = None if header is None else _ONE_RANGE.fullmatch(header.strip())
    if match is None or (if_range is not None and if_range.strip() != etag):
        return Whole()
    first_text, last_text = match.groups()
    if not first_text:
        if not last_text:
            return Whole()
        suffix = min(int(last_text), length_bytes)
        return Part(length_bytes - suffix, length_bytes) if suffix > 0 else Unsatisfiable()
    first = int(first_text)
    last = int(last_text) if last_text else length_bytes - 1
    if last_text and last < first:
        return Whole()
    if first >= length_bytes:
        return Unsatisfiable()
    return Part(first, min(last + 1, length_bytes))


def is_listed(etag: str, header: str | None, *, weakly: bool) -> bool:
    """Whether a header of entity tags names `etag`; `*` names every one. `weakly` also counts `W/` forms."""
    if header is None:
        return False
    tags = [tag.strip() for tag in header.split(",")]
    return "*" in tags or etag in tags or (weakly and f"W/{etag}" in tags)
