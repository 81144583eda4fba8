"""Loading a sharded cluster: every part of the target at once, each by the loader of replica sets.

Only the thread that calls asks the caller's `check`; the parts' own threads stop as soon as it raised, or one of them
failed. What is reported, is reported from their threads, by part.

Crash: as of each call of `restore.load`; `ShardedLoad.prepare` begins anew with every namespace that was not finished on
all parts that get some of it.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from ebbtide.domain.automated_restore import Comparison
from ebbtide.domain.sharded_restore import ShardedRestorePlan
from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.load.comparison import compare
from ebbtide.restore.load.creation import create_collections, create_views
from ebbtide.restore.load.documents import LoadReporter, Pace, load_documents
from ebbtide.restore.load.expiry import start_expiry
from ebbtide.restore.load.flow import Position
from ebbtide.restore.load.indexes import build_indexes
from ebbtide.restore.load.inventory import Client, Inventory, read_inventory
from ebbtide.restore.load.patience import MAJORITY, acknowledged, persist
from ebbtide.restore.sharded_load.parts import LateExpiry, PartPlan, plan_parts, planned_sharded
from ebbtide.restore.sharded_load.rebuilding import Rebuild
from ebbtide.restore.sharded_load.source import OwnedReader, ShardedSource

T = TypeVar("T")

PART_PACE = Pace(writers=4, readers=2)
"""For each part: they share the processors of the machine that reads, and its memory."""

_CHECK_SECONDS = 0.5

Check = Callable[[], None]


class ShardedLoad:
    """One attempt's work on one target, whose parts' primaries `clients` reach, by name, as the server's own user.

    Calls in the order prepare, load, compare, complete; the balancer of the target is off meanwhile. `parts` says what
    each part gets. Each raises LoadFailed, Unreachable, DeploymentError, and what `check` raises.
    """

    def __init__(
        self,
        source: ShardedSource,
        clients: Mapping[str, Client],
        plan: ShardedRestorePlan,
        *,
        check: Check,
        pace: Pace = PART_PACE,
    ) -> None:
        self._source = source
        self._clients = clients
        self._check = check
        self._pace = pace
        self.plan = plan
        self.parts = plan_parts(source.merged, plan)

    def prepare(self, *, finished: Collection[str], on_moved: Callable[[int], None] = lambda _: None) -> None:
        """Make databases, collections and zones. `finished` are namespaces that no part has to be given anything of."""
        rebuild = Rebuild(self._clients, check=self._check)
        rebuild.build_databases(self.plan)
        sharded = {planned.namespace: planned for part in self.parts for planned in planned_sharded(part)}
        rebuild.build_collections(self.plan, sharded.values(), finished=finished, on_moved=on_moved)
        rebuild.build_zones(self.plan)
        self._on_parts(
            lambda part, check: create_collections(
                self._clients[part.name], part.own, finished=finished, check=check
            )
        )

    def load(
        self,
        *,
        finished: Collection[str],
        reporter: Callable[[str], LoadReporter],
        archived: Callable[[str], Position | None] = lambda _: None,
    ) -> None:
        """Documents, indexes and views. `reporter` and `archived` (see `restore.load.flow`) are asked by part."""

        def load_part(part: PartPlan, check: Check) -> None:
            client = self._clients[part.name]
            load_documents(
                OwnedReader(self._source, part.ranges),
                client,
                part.load,
                finished=finished,
                reporter=reporter(part.name),
                check=check,
                archived=archived(part.name),
                pace=self._pace,
            )
            build_indexes(client, part.load, check=check)
            create_views(client, part.load, check=check)

        self._on_parts(load_part)

    def compare(
        self,
        *,
        digests: bool = True,
        on_compared: Callable[[str, int], None] = lambda _namespace, _count: None,
    ) -> Comparison:
        """Each part with what it should have; differences name the part."""

        def compare_part(part: PartPlan, check: Check) -> Comparison:
            return compare(
                OwnedReader(self._source, part.ranges),
                self._clients[part.name],
                part.load,
                check=check,
                digests=digests,
                on_compared=on_compared,
            )

        found = self._on_parts(compare_part)
        differences = [f"{part}: {line}" for part, one in found.items() for line in one.differences]
        for name, client in self._clients.items():
            gets = next((part.load.collections for part in self.parts if part.name == name), ())
            expected = {planned.target_namespace for planned in gets}
            differences += [
                f"{name}: {namespace} should not be there"
                for namespace in find_foreign(read_inventory(client), expected)
            ]
        return Comparison(
            collections=len(self._source.merged.whole.held),
            documents=sum(one.documents for one in found.values()),
            digested=len(self._source.merged.whole.held) if digests else 0,
            is_digest_skipped=not digests,
            differences=tuple(differences),
        )

    def complete(self) -> None:
        """Let documents expire again."""

        def expire(part: PartPlan, check: Check) -> None:
            start_expiry(self._clients[part.name], part.load, check=check)
            with translated_errors("starting expiry"):
                for late in part.late_expiries:
                    _set_expiry(self._clients[part.name], late, check)

        self._on_parts(expire)

    def _on_parts(self, work: Callable[[PartPlan, Check], T]) -> dict[str, T]:
        return run_at_once(self.parts, work, check=self._check)


def parts_by_namespace(parts: Iterable[PartPlan]) -> dict[str, set[str]]:
    """For each collection, as people know it, the parts of the target that get some of it. Pure."""
    found: dict[str, set[str]] = {}
    for part in parts:
        for planned in part.load.collections:
            found.setdefault(planned.namespace, set()).add(part.name)
    return found


def find_foreign(inventory: Inventory, expected: Collection[str]) -> list[str]:
    """Namespaces with documents that are not expected; a primary shard has its sharded collections, empty. Pure."""
    return sorted(name for name, held in inventory.held.items() if held.documents and name not in expected)


def run_at_once(
    parts: Iterable[PartPlan], work: Callable[[PartPlan, Check], T], *, check: Check
) -> dict[str, T]:
    """What `work` answers for each part, all at once. Raises what `check` or the first that fails raises."""
    todo = list(parts)
    stopping = threading.Event()

    def check_stopping() -> None:
        if stopping.is_set():
            raise _Stopped

    with ThreadPoolExecutor(max(1, len(todo)), "load-part") as executor:
        running: dict[Future[T], str] = {
            executor.submit(work, part, check_stopping): part.name for part in todo
        }
        waiting = set(running)
        try:
            while waiting:
                check()
                done, waiting = wait(waiting, timeout=_CHECK_SECONDS, return_when=FIRST_EXCEPTION)
                for one in done:
                    one.result()
        finally:
            stopping.set()
    return {name: one.result() for one, name in running.items()}


def _set_expiry(client: Client, late: LateExpiry, check: Check) -> None:
    database, name = late.collection
    change = {"name": late.index, "expireAfterSeconds": late.seconds}
    persist(
        lambda: acknowledged(client[database].command("collMod", name, index=change, writeConcern=MAJORITY)),
        check=check,
    )


class _Stopped(Exception):
    """Another part failed, or the caller wants no more."""
