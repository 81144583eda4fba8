"""Copying the documents of a plan's collections: raw, several collections and several writers at a time.

    readers   one thread per collection in hand, the largest first: batches as they come (`reading`)
    writers   a pool shared by all: one insert command per batch
    slots     how many batches may be in memory; a reader waits for one before it reads on

Natural order needs no ranges of `_id`, which may be of mixed types or collated: the reader of one collection feeds all
writers, faster than a server takes documents (docs/decisions has the numbers). A capped collection's order counts, so
its reader writes by itself, and begins anew after a failure.

Invariants
  * a collection is reported finished after the last of its documents is majority committed, and only then
  * documents in memory are bounded by the slots, whatever the sizes of collections
Crash: collections not reported finished hold some of their documents; create and load them again.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

from pymongo.errors import PyMongoError

from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.load.batches import Batch, as_batch
from ebbtide.restore.load.creation import create_anew
from ebbtide.restore.load.flow import Flow, Position
from ebbtide.restore.load.insertion import insert_batch, insert_in_order
from ebbtide.restore.load.inventory import Client
from ebbtide.restore.load.patience import Patience
from ebbtide.restore.load.plan import LoadPlan, PlannedCollection
from ebbtide.restore.load.reading import Reader

_CHECK_SECONDS = 0.5


class LoadReporter(Protocol):
    """Where the loader says how far it is, by the namespaces of the source. Called from several threads."""

    def loaded(self, namespace: str, *, documents: int, size_bytes: int) -> None:
        """That much more of it is on the target."""

    def begun_anew(self, namespace: str) -> None:
        """What was reported of it does not count any more."""

    def finished(self, namespace: str) -> None:
        """All of it is on the target, majority committed."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How hard the target is worked. The defaults keep four processors busy; around them little changes.

    `batch_documents` is at most 100,000, what the server takes in one command; a batch of the source has at most 16 MiB
    in any case, or one document.
    """

    writers: int = 6
    readers: int = 3
    batch_documents: int = 5_000


def load_documents(
    reader: Reader,
    target: Client,
    plan: LoadPlan,
    *,
    finished: Collection[str],
    reporter: LoadReporter,
    check: Callable[[], None],
    archived: Position | None = None,
    pace: Pace = Pace(),
) -> None:
    """Fill every collection of the plan that is not `finished` with what `reader` gives; they were just created.

    `archived`: see `flow`. Raises LoadFailed, Unreachable, DeploymentError, and what `check` raises.
    """
    todo = [planned for planned in plan.collections if planned.namespace not in finished]
    todo.sort(key=lambda planned: planned.held.size_bytes, reverse=True)
    with translated_errors("loading documents"):
        _Load(reader, target, reporter, check, archived, pace).run(todo)


class _Stopped(Exception):
    """Another thread failed, or the caller wants no more."""


class _Load:
    def __init__(
        self,
        reader: Reader,
        target: Client,
        reporter: LoadReporter,
        check: Callable[[], None],
        archived: Position | None,
        pace: Pace,
    ) -> None:
        self._reader = reader
        self._target = target
        self._reporter = reporter
        self._check = check
        self._pace = pace
        self._stopping = threading.Event()
        self._flow = Flow.of(target, archived=archived, check=self._check_stopping)
        self._slots = threading.Semaphore(pace.writers + pace.readers)

    def run(self, todo: list[PlannedCollection]) -> None:
        with (
            ThreadPoolExecutor(self._pace.writers, "load-writer") as writers,
            ThreadPoolExecutor(self._pace.readers, "load-reader") as readers,
        ):
            try:
                self._watch({readers.submit(self._load, planned, writers) for planned in todo})
            finally:
                self._stopping.set()

    def _watch(self, loads: set[Future[None]]) -> None:
        """Until all are done. Only here the caller's `check` is called: it may belong to the caller's thread."""
        while loads:
            self._check()
            done, loads = wait(loads, timeout=_CHECK_SECONDS, return_when=FIRST_EXCEPTION)
            for load in done:
                load.result()

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise _Stopped

    # --- one collection, in a reader's thread -------------------------------------------------------------------------

    def _load(self, planned: PlannedCollection, writers: ThreadPoolExecutor) -> None:
        self._check_stopping()
        if planned.held.is_capped:
            self._load_in_order(planned)
        else:
            self._load_at_once(planned, writers)
        self._reporter.finished(planned.namespace)

    def _load_at_once(self, planned: PlannedCollection, writers: ThreadPoolExecutor) -> None:
        writes: set[Future[None]] = set()
        for raw in self._iter_raw(planned):
            self._wait_for_slot()
            writes.add(writers.submit(self._write, planned, raw))
            writes = _without_done(writes)
        for write in writes:
            write.result()

    def _load_in_order(self, planned: PlannedCollection) -> None:
        patience = Patience(self._check_stopping)
        while True:
            try:
                for raw in self._iter_raw(planned):
                    batch = as_batch(raw)
                    self._flow.wait_for_room()
                    self._note(planned, batch, insert_in_order(self._target, planned.target, batch))
                return
            except PyMongoError as error:
                patience.pause(error)
            self._begin_anew(planned, patience)

    def _begin_anew(self, planned: PlannedCollection, patience: Patience) -> None:
        while True:
            try:
                create_anew(self._target, planned)
            except PyMongoError as error:
                patience.pause(error)
            else:
                self._reporter.begun_anew(planned.namespace)
                return

    def _iter_raw(self, planned: PlannedCollection) -> Iterator[bytes]:
        for raw in self._reader.iter_batches(planned, batch_documents=self._pace.batch_documents):
            self._check_stopping()
            yield raw

    def _wait_for_slot(self) -> None:
        while not self._slots.acquire(timeout=_CHECK_SECONDS):
            self._check_stopping()

    # --- one batch, in a writer's thread ------------------------------------------------------------------------------

    def _write(self, planned: PlannedCollection, raw: bytes) -> None:
        try:
            self._check_stopping()
            batch = as_batch(raw)
            self._flow.wait_for_room()
            answer = insert_batch(self._target, planned.target, batch, check=self._check_stopping)
            self._note(planned, batch, answer)
        finally:
            self._slots.release()

    def _note(self, planned: PlannedCollection, batch: Batch, answer: Mapping[str, Any]) -> None:
        self._flow.sent(answer, size_bytes=len(batch.raw), documents=batch.count)
        self._reporter.loaded(planned.namespace, documents=batch.count, size_bytes=len(batch.raw))


def _without_done(writes: set[Future[None]]) -> set[Future[None]]:
    """Those that are not over yet. Raises what a finished one raised."""
    done = {write for write in writes if write.done()}
    for write in done:
        write.result()
    return writes - done
