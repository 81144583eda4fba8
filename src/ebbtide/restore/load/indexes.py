"""Building indexes, after the documents: each collection's in one pass over it, several collections at once.

Specifications are handed on as the source lists them: versions, weights, hidden, partial, collation. A server tells the
others to build along, and commits when a majority is done: a member that is down holds nothing up.

TTL indexes are not built here: see `expiry`. An index that was still being built at the restore point did not exist yet
and is not built; the plan names it.

Crash: some are there. Building again finds those, and joins a build that goes on.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress

import pymongo
from pymongo.errors import PyMongoError

from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.load.inventory import Client, Document, Index, Raw, is_standalone
from ebbtide.restore.load.patience import persist
from ebbtide.restore.load.plan import LoadPlan, PlannedCollection

BUILDERS = 3
"""Collections at once; the server has at most three builds in hand (`maxNumActiveUserIndexBuilds`)."""

_BUILD_SECONDS_MAX = 7 * 24 * 3600.0
"""A build may take hours, in which the server says nothing: longer than a client waits for an answer otherwise."""

_CHECK_SECONDS = 0.5


def build_indexes(
    target: Client,
    plan: LoadPlan,
    *,
    check: Callable[[], None],
    on_built: Callable[[str, int], None] = lambda _namespace, _count: None,
) -> None:
    """Build the indexes of the plan's collections, except TTL indexes.

    `on_built` gets a namespace of the source and how many indexes it has got, from the caller's thread. Raises
    Unreachable, DeploymentError, and what `check` raises; builds that run are aborted then.
    """
    todo = [planned for planned in plan.collections if planned.plain_indexes]
    # Those that take long first.
    todo.sort(key=lambda planned: planned.held.size_bytes * len(planned.plain_indexes), reverse=True)
    with translated_errors("building indexes"):
        run_builds(
            target, ((planned, planned.plain_indexes) for planned in todo), check=check, on_built=on_built
        )


def run_builds(
    target: Client,
    todo: Iterable[tuple[PlannedCollection, Sequence[Index]]],
    *,
    check: Callable[[], None],
    on_built: Callable[[str, int], None],
) -> None:
    """Build some indexes of some collections. Raises PyMongo's errors, and what `check` raises."""
    stopping = threading.Event()
    with ThreadPoolExecutor(BUILDERS, "load-index") as builders:
        builds = {builders.submit(_build, target, *item, stopping): item for item in todo}
        try:
            _watch(builds, check, on_built)
        except BaseException:
            stopping.set()
            _abort_all(target, builds)
            raise


_Builds = dict[Future[None], tuple[PlannedCollection, Sequence[Index]]]


def _watch(builds: _Builds, check: Callable[[], None], on_built: Callable[[str, int], None]) -> None:
    waiting = set(builds)
    while waiting:
        check()
        done, waiting = wait(waiting, timeout=_CHECK_SECONDS, return_when=FIRST_EXCEPTION)
        for build in done:
            build.result()
            planned, indexes = builds[build]
            on_built(planned.namespace, len(indexes))


def _build(
    target: Client, planned: PlannedCollection, indexes: Sequence[Index], stopping: threading.Event
) -> None:
    def check() -> None:
        if stopping.is_set():
            raise _Stopped

    check()
    persist(lambda: _create_indexes(target, planned, indexes), check=check)


def _create_indexes(target: Client, planned: PlannedCollection, indexes: Sequence[Index]) -> None:
    database, name = planned.target
    is_collated = "collation" in planned.held.options
    # A server by itself refuses to be told whom to wait for.
    quorum: Document = {} if is_standalone(target) else {"commitQuorum": "majority"}
    with pymongo.timeout(_BUILD_SECONDS_MAX):
        target[database].command(
            "createIndexes",
            name,
            indexes=[creatable(index.specification, is_collated=is_collated) for index in indexes],
            **quorum,
        )


def creatable(specification: Raw, *, is_collated: bool) -> Document:
    """A specification as createIndexes takes it, from how listIndexes shows it; `is_collated`: the collection is.

    Files that once were of 4.2 or older name the collection in it, which servers refuse now. An index that compares
    bytes shows no collation, and without one it would get the collection's.
    """
    found: Document = {field: value for field, value in specification.items() if field != "ns"}
    if is_collated and "collation" not in found:
        found["collation"] = {"locale": "simple"}
    return found


def _abort_all(target: Client, builds: _Builds) -> None:
    """Again and again until none runs: a build may only just be on its way to the server."""
    running = {build for build in builds if not build.cancel() and not build.done()}
    while running:
        for build in running:
            _abort(target, *builds[build])
        _, running = wait(running, timeout=_CHECK_SECONDS)


def _abort(target: Client, planned: PlannedCollection, indexes: Sequence[Index]) -> None:
    """Dropping the indexes of a build ends it; who waits for it gets an error."""
    database, name = planned.target
    with suppress(PyMongoError):
        target[database].command("dropIndexes", name, index=[index.name for index in indexes])


class _Stopped(Exception):
    """The caller wants no more, or another build failed."""
