"""Reading stored blocks: spans of neighbours in one read, nothing handed out unverified.

`read_span` proves each block's stored bytes by their CRC-32, which is enough to send them on; `open_span` and
`open_blocks` inflate them and prove the plain bytes by their BLAKE3 identity. Each IntegrityError names the pack and the
file's block.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from ebbtide.errors import IntegrityError, ObjectNotFound
from ebbtide.repository.block import BLOCK_BYTES, block_id, decode_block, joined_crc, plain_length, stored_crc
from ebbtide.repository.gzip_member import inflate_members
from ebbtide.repository.recipe import Recipe
from ebbtide.repository.repository import ReplicaSetStore

SPAN_BYTES = 1024 * 1024
"""Stored bytes of one read: long enough to stream, short enough to send early."""

SPAN_BLOCKS_MAX = 64
"""Blocks of one read: what inflates well must not fill the memory (4 MiB of plain bytes)."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Span(NamedTuple):
    """Blocks `first_block` … `first_block + block_count - 1` of a stretch: `length` bytes of a pack from
    `offset`."""

    pack_id: str
    offset: int
    length: int
    first_block: int
    block_count: int

    def fits(self, length: int, *, span_bytes: int) -> bool:
        """Whether one more block, of `length` stored bytes, may join."""
        return self.block_count < SPAN_BLOCKS_MAX and self.length + length <= span_bytes


def plan_spans(
    recipe: Recipe, *, first_block: int = 0, end_block: int | None = None, span_bytes: int = SPAN_BYTES
) -> list[Span]:
    """The reads that fetch blocks `first_block` up to before `end_block` (None: all), in order.

    Each is at most `span_bytes` long, unless one block alone is longer, and has at most SPAN_BLOCKS_MAX
    blocks.
    """
    end_block = recipe.block_count if end_block is None else end_block
    spans: list[Span] = []
    for run in recipe.runs:
        offset = run.offset
        start = run.first_block
        for index in range(run.first_block, run.first_block + run.block_count):
            length = recipe.stored_lengths[index]
            if first_block <= index < end_block:
                last = spans[-1] if spans and start < index and index > first_block else None
                if last is not None and last.fits(length, span_bytes=span_bytes):
                    spans[-1] = last._replace(length=last.length + length, block_count=last.block_count + 1)
                else:
                    spans.append(Span(run.pack_id, offset, length, index, 1))
            offset += length
    return spans


def read_span(store: ReplicaSetStore, recipe: Recipe, span: Span, *, what: str) -> bytes:
    """The stored bytes of a span, each block's CRC checked. `what` says whose blocks they are, for
    messages."""
    name = store.pack_name(span.pack_id)
    try:
        data = store.read_stored(span.pack_id, start=span.offset, length=span.length)
    except ObjectNotFound as error:
        raise IntegrityError(name, f"is absent, but {what} needs it") from error
    blocks = slice(span.first_block, span.first_block + span.block_count)
    # One call for all: each alone would hand the interpreter lock over, which takes longer than its CRC.
    if stored_crc(data) == joined_crc(recipe.crcs[blocks], recipe.stored_lengths[blocks]):
        return data
    for index, stored in iter_stored(recipe, span, data):
        if stored_crc(stored) != recipe.crcs[index]:
            raise IntegrityError(name, f"block {index} of {what} does not match its CRC")
    raise IntegrityError(name, f"the blocks of {what} do not match their CRCs together")


def iter_stored(recipe: Recipe, span: Span, data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Index in the stretch and stored bytes of each block of a span."""
    view = memoryview(data)
    start = 0
    for index in range(span.first_block, span.first_block + span.block_count):
        length = recipe.stored_lengths[index]
        yield index, view[start : start + length]
        start += length


def span_buffer() -> memoryview:
    """Room for the plain bytes of any span."""
    return memoryview(bytearray(SPAN_BLOCKS_MAX * BLOCK_BYTES))


def open_span(
    store: ReplicaSetStore, recipe: Recipe, span: Span, data: bytes, *, into: memoryview, what: str
) -> memoryview:
    """The plain bytes of a span that `read_span` read, each block proved by its identity; they are at the beginning
    of `into` (a `span_buffer`), until that is used again.

    Raises IntegrityError as `open_blocks` does.
    """
    begin = span.first_block * BLOCK_BYTES
    end = min(begin + span.block_count * BLOCK_BYTES, recipe.plain_bytes)
    plain = into[: end - begin]
    # All blocks in one call: for each alone, threads would hand the interpreter lock over several times.
    try:
        inflate_members(data, plain)
        is_proved = _are_the_blocks(recipe, span, plain)
    except ValueError:
        is_proved = False
    if not is_proved:
        at = 0
        for block in open_blocks(store, recipe, span, data, what=what):  # which says what is wrong
            plain[at : at + len(block)] = block
            at += len(block)
    return plain


def _are_the_blocks(recipe: Recipe, span: Span, plain: memoryview) -> bool:
    return all(
        block_id(plain[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])
        == recipe.block_id(span.first_block + number)
        for number in range(span.block_count)
    )


def open_blocks(
    store: ReplicaSetStore, recipe: Recipe, span: Span, data: bytes, *, what: str
) -> Iterator[bytes]:
    """The plain bytes of each block of a span that `read_span` read, in order, each proved by its
    identity."""
    name = store.pack_name(span.pack_id)
    for index, stored in iter_stored(recipe, span, data):
        yield decode_block(
            stored,
            plain_bytes=plain_length(index, total_bytes=recipe.plain_bytes),
            expected_id=recipe.block_id(index),
            object_name=name,
            what=f"block {index} of {what}",
        )


def map_ordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    window: int,
    check_cancelled: Callable[[], None],
) -> Generator[Result, None, None]:
    """`function` of each item, in order, computed in `threads` threads at most `window` items ahead.

    After an error of its own, or when it is closed (use `contextlib.closing`), no thread runs any more.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="blocks")
    under_way: deque[Future[Result]] = deque()
    try:
        for item in items:
            under_way.append(executor.submit(function, item))
            if len(under_way) >= window:
                check_cancelled()
                yield under_way.popleft().result()
        while under_way:
            check_cancelled()
            yield under_way.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
