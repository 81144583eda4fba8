"""Blocks on their way to a pack: in order, bounded, and nobody waits for somebody who is gone."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ebbtide.errors import SnapshotUnusable, StorageFull
from ebbtide.repository import pack_stream
from ebbtide.repository.pack_stream import PackAbandoned, PackStream
from ebbtide.testing.snapshots import new_store, sources_of, store_tree, write_tree
from ebbtide.testing.storage import MemoryStorage

SECONDS = 60


def test_blocks_come_in_order_and_wait_for_room() -> None:
    stream = PackStream(bytes_max=2 * pack_stream.TAKEN_BYTES_MIN)
    blocks = [bytes([number % 256]) * 100_000 for number in range(100)]
    with ThreadPoolExecutor(1) as threads:
        taken = threads.submit(lambda: list(stream))
        assert all(stream.add(block) for block in blocks)
        stream.finish()
        assert blocks == taken.result(SECONDS)


def test_who_adds_is_told_when_nobody_takes_any_more() -> None:
    stream = PackStream(bytes_max=10)
    assert stream.add(bytes(10))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(stream.add, bytes(10))
        stream.stop()
        assert not waiting.result(SECONDS)


def test_an_abandoned_pack_ends_with_an_error() -> None:
    stream = PackStream()
    stream.add(b"block")
    stream.abandon()
    with pytest.raises(PackAbandoned):
        list(stream)


def test_a_finished_one_cannot_be_abandoned() -> None:
    stream = PackStream()
    stream.add(b"block")
    stream.finish()
    stream.abandon()
    assert list(stream) == [b"block"]


class FullStorage(MemoryStorage):
    """Takes the beginning of a pack, then has no space left."""

    def put(self, name: str, chunks: Any) -> int:
        if "/packs/" in name:
            next(iter(chunks))
            raise StorageFull("put", name)
        return super().put(name, chunks)


def test_a_full_storage_is_noticed_in_the_middle_of_a_pack(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path, {"a.wt": random_bytes(2 * pack_stream.QUEUE_BYTES_MAX)})
    with pytest.raises(StorageFull):
        store_tree(new_store(FullStorage()), sources_of(tmp_path), 1, pack_bytes=10**9)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("pack")]


def test_a_pack_is_not_stored_when_the_snapshot_ends_before_it(tmp_path: Path) -> None:
    storage = MemoryStorage()
    write_tree(tmp_path, {"a.wt": random_bytes(6_000_000), "b.wt": b"gone"})
    sources = sources_of(tmp_path)
    (tmp_path / "b.wt").unlink()
    with pytest.raises(SnapshotUnusable, match=r"b\.wt vanished"):
        store_tree(new_store(storage), sources, 1, pack_bytes=10**9)
    assert not [name for name in storage.objects if "/packs/" in name]


def random_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)
