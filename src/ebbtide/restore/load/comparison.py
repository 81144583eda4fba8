"""Comparing what is on the target with its source: documents, options, UUIDs, indexes, views.

The content digest of a collection is the sum, modulo 2²⁵⁶, of the BLAKE3 hashes of its documents' bytes: it does not
depend on their order, so both sides are read in natural order, as fast as their disks go, whatever their `_id`s are. It
tells accidents, not an adversary who crafts documents. The server's own `dbHash` is not used: it locks the database
against writers as long as it runs, cannot be watched or stopped, and reads in the order of `_id`.

Call it before `start_expiry`: what expires is compared while nothing deletes it, and its TTL indexes are not yet there.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from blake3 import blake3
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from ebbtide.domain.automated_restore import Comparison
from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.load.batches import as_batch
from ebbtide.restore.load.inventory import RAW, Client, Held, Index, Inventory, Raw, read_inventory
from ebbtide.restore.load.plan import LoadPlan, PlannedCollection, PlannedView
from ebbtide.restore.load.reading import Reader, count_all

_CHECK_SECONDS = 0.5
_PAIRS = 2
"""Collections at once; each is read on both sides at the same time."""

_MODULUS = 1 << 256


@dataclass(frozen=True, kw_only=True)
class Digest:
    """The content of a collection. `value` is None where only documents were counted."""

    documents: int
    size_bytes: int
    value: int | None


def compare(
    reader: Reader,
    target: Client,
    plan: LoadPlan,
    *,
    check: Callable[[], None],
    digests: bool = True,
    on_compared: Callable[[str, int], None] = lambda _namespace, _documents: None,
) -> Comparison:
    """Every difference is named, by namespace and what differs, never with data. `reader` gives what should be there.

    Without `digests` documents are counted only. `on_compared` gets namespaces of the source and how many more of their
    documents were read there, from several threads. Raises Unreachable, DeploymentError, and what `check` raises.
    """
    differences = list(iter_catalog_differences(plan, read_inventory(target)))
    documents = 0
    with translated_errors("comparing"):
        comparing = _Comparing(reader, target, digests, on_compared)
        for planned, wanted, found in comparing.iter_pairs(plan, check):
            documents += wanted.documents
            differences += _content_differences(planned, wanted, found)
    return Comparison(
        collections=len(plan.collections),
        documents=documents,
        digested=len(plan.collections) if digests else 0,
        is_digest_skipped=not digests,
        differences=tuple(differences),
    )


def _content_differences(planned: PlannedCollection, wanted: Digest, found: Digest) -> Iterator[str]:
    if wanted.documents != found.documents:
        yield f"{planned.namespace}: {found.documents} documents instead of {wanted.documents}"
    elif wanted != found:
        yield f"{planned.namespace}: the same number of documents, but another content"


# --- documents --------------------------------------------------------------------------------------------------------


class _Comparing:
    def __init__(
        self, reader: Reader, target: Client, digests: bool, on_compared: Callable[[str, int], None]
    ) -> None:
        self._reader = reader
        self._target = target
        self._digests = digests
        self._on_compared = on_compared
        self._stopping = threading.Event()

    def iter_pairs(
        self, plan: LoadPlan, check: Callable[[], None]
    ) -> Iterator[tuple[PlannedCollection, Digest, Digest]]:
        """Each collection with its digests on the source and on the target, in the order in which they come."""
        todo = sorted(plan.collections, key=lambda planned: planned.held.size_bytes, reverse=True)
        with ThreadPoolExecutor(_PAIRS, "compare") as pairs, ThreadPoolExecutor(_PAIRS, "compare") as others:
            waiting = {pairs.submit(self._pair, planned, others) for planned in todo}
            try:
                while waiting:
                    check()
                    done, waiting = wait(waiting, timeout=_CHECK_SECONDS, return_when=FIRST_EXCEPTION)
                    for pair in done:
                        yield pair.result()
            finally:
                self._stopping.set()

    def _pair(
        self, planned: PlannedCollection, others: ThreadPoolExecutor
    ) -> tuple[PlannedCollection, Digest, Digest]:
        other: Future[Digest] = others.submit(self._of_target, planned)
        wanted = self._of_source(planned, lambda documents: self._on_compared(planned.namespace, documents))
        return planned, wanted, other.result()

    def _of_source(self, planned: PlannedCollection, on_read: Callable[[int], None]) -> Digest:
        if self._digests:
            return self._digest(self._reader.iter_batches(planned, batch_documents=0), on_read)
        counted = self._reader.count_documents(planned)
        on_read(counted)
        return Digest(documents=counted, size_bytes=0, value=None)

    def _of_target(self, planned: PlannedCollection) -> Digest:
        database, name = planned.target
        collection: Collection[Any] = self._target[database].get_collection(
            name,
            codec_options=RAW,
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
        if not self._digests:
            return Digest(documents=count_all(collection), size_bytes=0, value=None)
        with closing(collection.find_raw_batches({}, no_cursor_timeout=True)) as batches:
            return self._digest(map(bytes, batches))

    def _digest(self, batches: Iterator[bytes], on_read: Callable[[int], None] = lambda _: None) -> Digest:
        documents = size_bytes = value = 0
        for raw in batches:
            if self._stopping.is_set():
                raise _Stopped
            batch = as_batch(raw)
            documents += batch.count
            size_bytes += len(batch.raw)
            value = (value + _sum_of_hashes(batch.raw, batch.starts)) % _MODULUS
            on_read(batch.count)
        return Digest(documents=documents, size_bytes=size_bytes, value=value)


class _Stopped(Exception):
    """The caller wants no more, or another collection could not be read."""


def _sum_of_hashes(raw: bytes, starts: tuple[int, ...]) -> int:
    view, from_bytes = memoryview(raw), int.from_bytes
    return sum(from_bytes(blake3(view[first:end]).digest(), "little") for first, end in pairwise(starts))


# --- everything else --------------------------------------------------------------------------------------------------


def iter_catalog_differences(plan: LoadPlan, target: Inventory) -> Iterator[str]:
    """What is not as planned in options, UUIDs, indexes and views, as long as nothing expires."""
    for planned in plan.collections:
        found = target.held.get(planned.target_namespace)
        if found is None:
            yield f"{planned.namespace}: does not exist"
        else:
            yield from _collection_differences(planned, found)
    for view in plan.views:
        yield from _view_differences(view, target.held.get(".".join(view.target)))


def _collection_differences(planned: PlannedCollection, found: Held) -> Iterator[str]:
    name = planned.namespace
    if planned.uuid is not None and found.uuid != planned.uuid:
        yield f"{name}: another UUID"
    for option in _differing(planned.creation_options, found.options):
        yield f"{name}: option {option}"
    if planned.held.id_index is not None and _differing(planned.held.id_index, found.id_index or {}):
        yield f"{name}: the index on _id"
    wanted, there = _by_name(planned.plain_indexes), _by_name(found.indexes)
    for index in sorted(wanted.keys() | there.keys()):
        if index not in there or there[index].is_unfinished:
            yield f"{name}: no index {index}"
        elif index not in wanted:
            yield f"{name}: an index {index} too many"
        else:
            for field in _differing(wanted[index].specification, there[index].specification):
                yield f"{name}: {field} of index {index}"


def _view_differences(view: PlannedView, found: Held | None) -> Iterator[str]:
    if found is None or found.kind is not view.held.kind:
        yield f"{view.namespace}: the view does not exist"
    elif "viewOn" in found.options:
        for option in _differing(view.options, found.options):
            yield f"{view.namespace}: {option} of the view"


def _by_name(indexes: tuple[Index, ...]) -> dict[str, Index]:
    return {index.name: index for index in indexes if not index.is_inherent}


def _differing(wanted: Raw, found: Raw) -> list[str]:
    """Fields that are not the same on both sides; their order counts within, not between them."""
    missing = object()
    return sorted(
        field
        for field in {*wanted, *found} - {"ns"}
        if wanted.get(field, missing) != found.get(field, missing)
    )
