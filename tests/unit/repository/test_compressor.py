"""Processes that compress: the same answers as without them, and no harm where one is lost."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest

from ebbtide.domain.progress import NoProgress
from ebbtide.repository import source, writer
from ebbtide.repository.block import BLOCK_BYTES, block_id, decode_block, stored_crc
from ebbtide.repository.compressor import Compressor, CompressorLost, Compressors
from ebbtide.repository.compressor_program import read_blocks
from ebbtide.repository.repository import never_cancelled
from ebbtide.repository.verify import verify_snapshot
from ebbtide.testing.snapshots import new_store, read_tree, restore, take, write_tree
from ebbtide.testing.storage import MemoryStorage

PIECE_BYTES = 8 * BLOCK_BYTES


def wait_until_ready(compressor: Compressor) -> None:
    deadline = time.monotonic() + 60
    while not compressor.is_ready():
        if time.monotonic() > deadline:
            raise TimeoutError("the compressor did not come up")
        time.sleep(0.005)


def half_random(size: int, seed: int = 0) -> bytes:
    rng = random.Random(seed)
    return b"".join(rng.randbytes(500) + bytes(500) for _ in range(size // 1000 + 1))[:size]


@pytest.fixture
def compressor() -> Iterator[Compressor]:
    with closing(Compressor(piece_bytes=PIECE_BYTES)) as found:
        wait_until_ready(found)
        yield found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.wt"
    path.write_bytes(half_random(3 * PIECE_BYTES))
    return path


def test_a_compressor_answers_as_the_thread_itself_would(compressor: Compressor, file: Path) -> None:
    for offset, length in ((0, PIECE_BYTES), (BLOCK_BYTES, PIECE_BYTES - 7), (5 * BLOCK_BYTES, 1)):
        here = list(read_blocks(memoryview(file.read_bytes()[offset : offset + length]), []))
        there = compressor.read(file, offset=offset, length=length)
        assert there is not None
        assert [block.id for block in here] == [block.id for block in there]
        # Not compared byte by byte: isal finds other matches when its memory held something else before.
        for index, block in enumerate(there):
            plain_bytes = min(BLOCK_BYTES, length - index * BLOCK_BYTES)
            decode_block(block.stored, plain_bytes=plain_bytes, expected_id=block.id, object_name="a piece")
            assert stored_crc(block.stored) == block.crc


def test_what_is_stored_at_its_place_or_came_before_is_not_compressed(
    compressor: Compressor, tmp_path: Path
) -> None:
    one, two, three = (random.Random(seed).randbytes(BLOCK_BYTES) for seed in range(3))
    path = tmp_path / "a.wt"
    path.write_bytes(one + two + one + three)
    parent = [block_id(two), block_id(two)]
    there = compressor.read(path, offset=0, length=4 * BLOCK_BYTES, same_place=parent)
    here = list(read_blocks(memoryview(path.read_bytes()), parent))
    for blocks in (there, here):
        assert blocks is not None
        assert [block_id(one), block_id(two), block_id(one), block_id(three)] == [b.id for b in blocks]
        assert [bool(block.stored) for block in blocks] == [True, False, False, True]


def test_blocks_that_cannot_be_compressed_fit_the_shared_memory(
    compressor: Compressor, tmp_path: Path
) -> None:
    path = tmp_path / "random.wt"
    path.write_bytes(random.Random(1).randbytes(PIECE_BYTES))
    read = compressor.read(path, offset=0, length=PIECE_BYTES)
    assert read is not None
    assert sum(len(block.stored) for block in read) > PIECE_BYTES


def test_a_file_that_is_gone_or_too_short_is_no_error(compressor: Compressor, file: Path) -> None:
    assert compressor.read(file.with_name("gone"), offset=0, length=1) is None
    assert compressor.read(file, offset=3 * PIECE_BYTES - 1, length=2) is None
    assert compressor.read(file, offset=0, length=1) is not None


def test_a_file_that_cannot_be_read_is_left_to_the_thread(compressor: Compressor, tmp_path: Path) -> None:
    with pytest.raises(CompressorLost):
        compressor.read(tmp_path, offset=0, length=1)


def test_a_child_ends_with_its_parents_pipe(compressor: Compressor) -> None:
    process = compressor._process
    if process.stdin is None:
        raise AssertionError("no pipe")
    process.stdin.close()
    assert process.wait(60) == 0


def test_one_that_is_lost_while_it_is_lent_is_not_lent_again(file: Path) -> None:
    with Compressors(1, piece_bytes=PIECE_BYTES) as compressors:
        wait_until_ready(compressors._all[0])
        with pytest.raises(CompressorLost), compressors.borrow() as lent:  # noqa: PT012 — the loss is inside
            if lent is None:
                raise AssertionError("it was ready")
            lent._process.kill()
            lent._process.wait()
            lent.read(file, offset=0, length=1)
        with compressors.borrow() as lent:
            assert lent is None


def test_who_finds_all_of_them_lent_waits_for_one(file: Path) -> None:
    with Compressors(1, piece_bytes=PIECE_BYTES) as compressors, ThreadPoolExecutor(4) as threads:
        wait_until_ready(compressors._all[0])

        def read(number: int) -> bytes:
            with compressors.borrow() as lent:
                if lent is None:
                    raise AssertionError("it is ready, and lives")
                blocks = lent.read(file, offset=number * BLOCK_BYTES, length=BLOCK_BYTES)
            return blocks[0].id if blocks else b""

        content = file.read_bytes()
        expected = [block_id(content[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES]) for n in range(20)]
        assert expected == list(threads.map(read, range(20)))


def test_who_waits_for_one_that_is_lost_goes_on_without(file: Path) -> None:
    with Compressors(1, piece_bytes=PIECE_BYTES) as compressors, ThreadPoolExecutor(1) as threads:
        wait_until_ready(compressors._all[0])

        def borrow() -> Compressor | None:
            with compressors.borrow() as lent:
                return lent

        with pytest.raises(CompressorLost), compressors.borrow() as lent:  # noqa: PT012 — the loss is inside
            waiting = threads.submit(borrow)
            if lent is None:
                raise AssertionError("it was ready")
            lent._process.kill()
            lent._process.wait()
            lent.read(file, offset=0, length=1)
        assert waiting.result(60) is None


def prompt(then: Callable[[Compressor], None]) -> type[Compressors]:
    """Compressors that are ready before the first piece, each having met with `then`."""

    class Prompt(Compressors):
        def __enter__(self) -> Self:
            super().__enter__()
            for compressor in self._all:
                wait_until_ready(compressor)
                then(compressor)
            return self

    return Prompt


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_snapshot_with_compressors_stores_the_same(
    is_killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "source"
    write_tree(root, {"a.wt": half_random(9_000_000), "b.wt": half_random(300_000, 2), "empty.wt": b""})
    alone, helped = new_store(MemoryStorage()), new_store(MemoryStorage())
    _, expected = take(alone, root, 1)
    asked: list[Compressor] = []

    def meet(compressor: Compressor) -> None:
        asked.append(compressor)
        if is_killed:
            compressor._process.kill()

    monkeypatch.setattr(writer, "COMPRESSORS_FROM_BYTES", 0)
    monkeypatch.setattr(source, "COMPRESSOR_PIECE_BYTES_MIN", 1)
    monkeypatch.setattr(writer, "Compressors", prompt(meet))
    manifest, stored = take(helped, root, 1)
    assert len(asked) == 2
    assert all(compressor._process.returncode is not None for compressor in asked)
    assert (stored.blocks_new, stored.files_read) == (expected.blocks_new, expected.files_read)
    assert read_tree(root) == restore(helped, manifest, tmp_path / "restored")
    findings = verify_snapshot(
        helped, manifest, threads=2, progress=NoProgress(), check_cancelled=never_cancelled
    )
    assert findings == []
