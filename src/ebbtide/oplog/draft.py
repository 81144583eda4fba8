"""A slice in the making: raw entries as they come, until it is closed and compressed.

Threads: one fills it; after that another one may compress it.
"""

from dataclasses import dataclass, field
from datetime import datetime

from ebbtide.domain.oplog import OplogSlice
from ebbtide.domain.optime import OpTime
from ebbtide.oplog.entries import optime_at, walk_entries, wall_at
from ebbtide.oplog.slice import MEMBER_BYTES, Member, compress_entries, stored_length

SLICE_BYTES_TARGET = 16 * 1024 * 1024
"""Plain bytes after which a slice closes."""


@dataclass(kw_only=True)
class SliceDraft:
    """Entries after `predecessor`; `opened` is when the first came, in seconds of a steady clock."""

    predecessor: OpTime | None
    opened: float
    first: OpTime | None = None
    last: OpTime | None = None
    last_wall: datetime | None = None
    entry_count: int = 0
    plain_bytes: int = 0
    _runs: list[tuple[memoryview, int]] = field(default_factory=list)

    def add(self, raw: bytes) -> None:
        """More entries. Raises ValueError where `raw` is not whole entries that follow those before."""
        runs = walk_entries(raw, run_bytes=MEMBER_BYTES)
        if not runs:
            return
        first, last = optime_at(raw, 0), optime_at(raw, runs[-1].last_start)
        before = self.last or self.predecessor
        if (before is not None and first.timestamp <= before.timestamp) or last.timestamp < first.timestamp:
            raise ValueError(f"entries from {first} to {last} came after {before}")
        view = memoryview(raw)
        self._runs += [(view[run.start : run.end], run.count) for run in runs]
        self.first = self.first or first
        self.last, self.last_wall = last, wall_at(raw, runs[-1].last_start)
        self.entry_count += sum(run.count for run in runs)
        self.plain_bytes += len(raw)

    def compress(self) -> tuple[OplogSlice, list[Member]]:
        """The slice and its members; the entries are let go on the way. Raises ValueError for an empty draft."""
        if self.first is None or self.last is None:
            raise ValueError("a slice holds at least one entry")
        members = []
        gathered: list[memoryview] = []
        size = count = 0
        runs, self._runs = self._runs[::-1], []
        while runs:
            view, entries = runs.pop()
            gathered.append(view)
            size, count = size + len(view), count + entries
            if size >= MEMBER_BYTES or not runs:
                members.append(compress_entries(b"".join(gathered), entry_count=count))
                gathered, size, count = [], 0, 0
        piece = OplogSlice(
            predecessor=self.predecessor,
            first=self.first,
            last=self.last,
            entry_count=self.entry_count,
            plain_bytes=self.plain_bytes,
            stored_bytes=stored_length(members),
        )
        return piece, members
