"""One run over the oplog of a single member, in a process of its own, so that the growth of its memory is known.

    python -m bench.oplog_run read HOST:PORT                  every entry in raw batches; what was read is dropped
    python -m bench.oplog_run archive HOST:PORT REPOSITORY    the same entries into an oplog archive, all durable

Prints one JSON object: `seconds` and `entry_bytes` of the work alone, `rss_growth_bytes` from before the work to its peak.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, cast

from pymongo import MongoClient

from bench.memory import peak_bytes
from ebbtide.backup.archive_pipeline import SlicePipeline
from ebbtide.clock import SystemClock
from ebbtide.domain.optime import OpTime
from ebbtide.mongod.deployment import connect_to_member
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.draft import SLICE_BYTES_TARGET, SliceDraft
from ebbtide.oplog.tail import OplogTail, find_newest, find_oldest
from ebbtide.repository.repository import never_cancelled
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.testing.snapshots import new_store

Client = MongoClient[dict[str, Any]]


def main(arguments: list[str]) -> int:
    work, address = arguments[0], arguments[1]
    with connect_to_member(address, None) as client:
        ends = find_oldest(client), find_newest(client)
        if ends[0] is None or ends[1] is None:
            raise ValueError("the oplog is empty")
        before = _rss_bytes()
        started = time.perf_counter()
        if work == "read":
            entry_bytes = _read(client, ends[0], ends[1])
        else:
            entry_bytes = _archive(client, ends[0], ends[1], Path(arguments[2]))
        seconds = time.perf_counter() - started
    growth = peak_bytes() - before
    sys.stdout.write(
        json.dumps({"seconds": seconds, "entry_bytes": entry_bytes, "rss_growth_bytes": growth}) + "\n"
    )
    return 0


def _rss_bytes() -> int:
    """Resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _read(client: Client, first: OpTime, last: OpTime) -> int:
    bounds = {"$gte": first.timestamp.to_bson(), "$lte": last.timestamp.to_bson()}
    return sum(len(cast(bytes, batch)) for batch in client.local["oplog.rs"].find_raw_batches({"ts": bounds}))


def _archive(client: Client, first: OpTime, last: OpTime, repository: Path) -> int:
    """As an archiver does that catches up, without its looks at the catalog."""
    archive = OplogArchive(new_store(DirectoryStorage(repository)))
    pipeline = SlicePipeline(archive, on_stored=lambda _: None, check=never_cancelled, name="bench")
    tail = OplogTail(client, first, includes_start=True)
    draft = SliceDraft(predecessor=None, opened=0.0)
    while True:
        draft.add(tail.next_batch())
        is_done = draft.last is not None and draft.last >= last
        if draft.plain_bytes >= SLICE_BYTES_TARGET or is_done:
            pipeline.submit(draft, complete_through=SystemClock().now())
            draft = SliceDraft(predecessor=draft.last, opened=0.0)
        if is_done:
            break
    while not pipeline.is_idle:
        time.sleep(0.002)
    pipeline.stop()
    tail.close()
    return sum(piece.plain_bytes for piece in archive.slices())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
