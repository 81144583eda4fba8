"""Storing slices beside the thread that reads: in order, bounded, and never past a failure."""

import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from ebbtide.backup.archive_pipeline import ArchiverStopped, SlicePipeline, StoredSlice
from ebbtide.errors import StorageFull
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.draft import SliceDraft
from ebbtide.testing.oplog import make_entry, make_optime
from ebbtide.testing.snapshots import new_store
from ebbtide.testing.storage import Faults, FaultyStorage, MemoryStorage

NOW = datetime(2026, 5, 1, tzinfo=UTC)
WAIT_SECONDS = 60.0


class SlowStorage(MemoryStorage):
    """Stores slices only when it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.entered = threading.Event()

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        if "/oplog/" in name:
            self.entered.set()
            self.open.wait(WAIT_SECONDS)
        return super().put(name, chunks)


def draft(second: int) -> SliceDraft:
    made = SliceDraft(predecessor=make_optime(second - 1) if second > 1 else None, opened=0.0)
    made.add(make_entry(second))
    return made


def pipeline(
    archive: OplogArchive, stored: list[StoredSlice], stopping: threading.Event | None = None
) -> SlicePipeline:
    def check() -> None:
        if stopping is not None and stopping.is_set():
            raise ArchiverStopped("stop")

    return SlicePipeline(archive, on_stored=stored.append, check=check, name="test")


def submit_all(made: SlicePipeline, seconds: Iterable[int]) -> None:
    for second in seconds:
        made.submit(draft(second), complete_through=NOW)


def test_slices_are_stored_in_their_order_and_told() -> None:
    archive = OplogArchive(new_store(MemoryStorage()))
    stored: list[StoredSlice] = []
    made = pipeline(archive, stored)
    submit_all(made, range(1, 7))
    deadline = time.monotonic() + WAIT_SECONDS
    while not made.is_idle and time.monotonic() < deadline:
        time.sleep(0.01)
    made.stop()
    assert [s.piece.first for s in stored] == [make_optime(second) for second in range(1, 7)]
    assert len(archive.ranges()) == 1


def test_a_reader_that_is_faster_than_the_storage_waits() -> None:
    storage = SlowStorage()
    stored: list[StoredSlice] = []
    stopping = threading.Event()
    made = pipeline(OplogArchive(new_store(storage)), stored, stopping)
    submitted: list[int] = []

    def read() -> None:
        for second in range(1, 10):
            made.submit(draft(second), complete_through=NOW)
            submitted.append(second)

    reader = threading.Thread(target=read)
    reader.start()
    assert storage.entered.wait(WAIT_SECONDS)
    # One is being stored, one waits; whatever the reader does, no third one gets in.
    assert len(submitted) <= 2
    assert reader.is_alive()
    assert not made.is_idle
    storage.open.set()
    reader.join(WAIT_SECONDS)
    made.stop()
    assert submitted == list(range(1, 10))


def test_a_reader_that_waits_hears_that_it_shall_stop() -> None:
    storage = SlowStorage()
    stopping = threading.Event()
    made = pipeline(OplogArchive(new_store(storage)), [], stopping)
    submit_all(made, (1, 2))
    stopping.set()
    with pytest.raises(ArchiverStopped):
        submit_all(made, range(3, 10))
    storage.open.set()
    made.stop()


def test_nothing_is_stored_past_a_failure() -> None:
    memory = MemoryStorage()
    store = new_store(memory)
    store.storage = FaultyStorage(memory, Faults(disk_full_at_bytes=1))
    archive = OplogArchive(store)
    made = pipeline(archive, [])
    with pytest.raises(StorageFull):
        submit_all(made, range(1, 1000))
    store.storage = memory
    with pytest.raises(StorageFull):
        made.submit(draft(2), complete_through=NOW)
    made.stop()
    assert archive.slices() == ()


def test_a_stop_lets_go_of_what_waits() -> None:
    storage = SlowStorage()
    archive = OplogArchive(new_store(storage))
    made = pipeline(archive, [])
    made.submit(draft(1), complete_through=NOW)
    made.submit(draft(2), complete_through=NOW)
    threading.Timer(0.05, storage.open.set).start()
    made.stop()
    assert len(archive.slices()) <= 1
