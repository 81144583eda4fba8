"""The part of an automated restore that writes a sharded target: `restore.sharded_load`, with a job around it.

A collection is recorded as finished once every shard that gets ranges of it has finished: one that was finished on some
is dropped and made anew by the next attempt.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pymongo import MongoClient

from ebbtide.backup.context import BackupContext
from ebbtide.domain.automated_restore import AutomatedRestore, Comparison, RestoreScope
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.sharded_restore import plan_sharded_restore, refuse_sharded_restore
from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.jobs.runner import JobRun
from ebbtide.restore.automated_load import initial_progress, own_accounts, prove_source
from ebbtide.restore.automated_source import LoadSource
from ebbtide.restore.collection_progress import CollectionReport
from ebbtide.restore.load.accounts import restore_accounts
from ebbtide.restore.load.documents import LoadReporter
from ebbtide.restore.load.inventory import Inventory
from ebbtide.restore.load.plan import plan_load
from ebbtide.restore.preflight import PreflightFailed
from ebbtide.restore.sharded_load.layout import read_layout
from ebbtide.restore.sharded_load.loading import ShardedLoad, parts_by_namespace
from ebbtide.restore.sharded_load.parts import PartPlan
from ebbtide.restore.sharded_load.rebuilding import Rebuild

Client = MongoClient[dict[str, Any]]


class ShardedTargetLoad:
    """One attempt's work on one sharded target, whose parts `clients` reach. Only for the thread of the job."""

    def __init__(
        self,
        source: LoadSource,
        clients: Mapping[str, Client],
        *,
        target: Cluster,
        record: AutomatedRestore,
        context: BackupContext,
        run: JobRun,
    ) -> None:
        if source.sharded is None:
            raise PreflightFailed(f"{target.name} is a sharded cluster, and what is to be restored is none")
        self._source = source
        self._clients = clients
        self._target = target
        self._record = record
        self._context = context
        self._run = run
        layout = read_layout(clients[CONFIG_PART])
        problems = refuse_sharded_restore(source.sharded.layout, layout)
        if problems:
            raise PreflightFailed("; ".join(problems), hint="nothing on the target was touched")
        plan = plan_sharded_restore(source.sharded.layout, layout)
        self._load = ShardedLoad(source.sharded, clients, plan, check=run.check)
        self._whole = plan_load(source.inventory, Inventory(held={}), RestoreScope())

    @property
    def size_bytes(self) -> int:
        return self._whole.size_bytes

    @property
    def namespaces(self) -> frozenset[str]:
        """What is restored, as people know it."""
        return frozenset(collection.namespace for collection in self._whole.collections)

    def prove_source(self) -> None:
        """Read something of each collection that is to be restored. Raises what the source answers."""
        prove_source(self._source, self._whole, self._run)

    def remove(self) -> None:
        """Everything that users have on any part."""
        layout = read_layout(self._clients[CONFIG_PART])
        self._run.progress.phase("removing", total=len(layout.databases), unit="databases")
        rebuild = Rebuild(self._clients, check=self._run.check)
        rebuild.wipe(layout, on_removed=lambda _: self._run.progress.advance(1))

    def load(self, finished: Collection[str]) -> None:
        """All but `finished`: databases, ranges, collections, documents, indexes, views, zones."""
        self._run.progress.phase("placing", total=self._load.plan.move_count, unit="ranges")
        self._load.prepare(finished=finished, on_moved=self._run.progress.advance)
        todo = [planned for planned in self._whole.collections if planned.namespace not in finished]
        report = CollectionReport(
            self._record.id,
            [initial_progress(p, is_done=p.namespace in finished) for p in self._whole.collections],
            catalog=self._context.catalog,
            clock=self._context.clock,
            progress=self._run.progress,
        )
        self._run.progress.phase("loading", total=sum(planned.held.size_bytes for planned in todo))
        gathering = _Gathering(self._load.parts, report)
        self._load.load(finished=finished, reporter=gathering.of_part)
        report.write()

    def compare(self) -> Comparison:
        """Each part of the target with what it should have."""
        self._run.progress.phase("comparing", total=self._whole.documents, unit="documents")
        compared = self._load.compare(
            digests=self._record.compares,
            on_compared=lambda _, documents: self._run.progress.advance(documents),
        )
        # A sharded collection is one thing for people, on however many shards it is.
        count = len(self._whole.collections)
        return replace(compared, collections=count, digested=count if self._record.compares else 0)

    def complete(self) -> None:
        """What comes after the comparison, as it changes what was compared: from here on documents expire."""
        if self._record.with_users_and_roles:
            self._run.progress.phase("users and roles", unit="accounts")
            restore_accounts(
                self._source.accounts,
                self._clients[CONFIG_PART],
                keep=own_accounts(self._target),
                check=self._run.check,
            )
        self._run.progress.phase("expiry", unit="indexes")
        self._load.complete()


class _Gathering:
    """The reports of all parts as one. Any thread."""

    def __init__(self, parts: tuple[PartPlan, ...], report: CollectionReport) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._unfinished = parts_by_namespace(parts)

    def of_part(self, part: str) -> LoadReporter:
        return _PartReport(part, self)

    def loaded(self, namespace: str, *, documents: int, size_bytes: int) -> None:
        self._report.loaded(namespace, documents=documents, size_bytes=size_bytes)

    def begun_anew(self, namespace: str) -> None:
        self._report.begun_anew(namespace)

    def finished(self, part: str, namespace: str) -> None:
        with self._lock:
            left = self._unfinished[namespace]
            left.discard(part)
            is_whole = not left
        if is_whole:
            self._report.finished(namespace)


class _PartReport:
    def __init__(self, part: str, gathering: _Gathering) -> None:
        self._part = part
        self._gathering = gathering

    def loaded(self, namespace: str, *, documents: int, size_bytes: int) -> None:
        self._gathering.loaded(namespace, documents=documents, size_bytes=size_bytes)

    def begun_anew(self, namespace: str) -> None:
        self._gathering.begun_anew(namespace)

    def finished(self, namespace: str) -> None:
        self._gathering.finished(self._part, namespace)
