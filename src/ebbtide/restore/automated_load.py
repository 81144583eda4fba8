"""The part of an automated restore that reads the source and writes the target: `restore.load`, with a job around it.

The plan is made of two inventories, the source's and the target's, when the source was proven. Every call may be made
again; what is left by a crash is told in `restore.automated_run`.
"""

from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from typing import Any

from pymongo import MongoClient

from ebbtide.backup.context import BackupContext
from ebbtide.domain.automated_restore import AutomatedRestore, CollectionProgress, Comparison, RestoreScope
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import MongodError
from ebbtide.jobs.runner import JobRun
from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.automated_source import LoadSource
from ebbtide.restore.collection_progress import CollectionReport
from ebbtide.restore.load.accounts import restore_accounts
from ebbtide.restore.load.comparison import compare
from ebbtide.restore.load.creation import create_collections, create_views
from ebbtide.restore.load.documents import load_documents
from ebbtide.restore.load.expiry import start_expiry
from ebbtide.restore.load.indexes import build_indexes
from ebbtide.restore.load.inventory import STORED_FUNCTIONS, Inventory, read_inventory
from ebbtide.restore.load.plan import LoadPlan, PlannedCollection, plan_load, plan_removals
from ebbtide.restore.load.removal import execute_removal

Client = MongoClient[dict[str, Any]]


class SourceUnreadable(MongodError):
    """What is to be restored cannot be read from the scratch mongod."""


class TargetLoad:
    """One attempt's work on one target. `plan` is what it will do. Only for the thread of the job."""

    def __init__(
        self,
        source: LoadSource,
        writer: Client,
        *,
        target: Cluster,
        record: AutomatedRestore,
        context: BackupContext,
        run: JobRun,
    ) -> None:
        self._source = source
        self._writer = writer
        self._target = target
        self._record = record
        self._context = context
        self._run = run
        self.plan = plan_for(record, source.inventory, read_inventory(writer))

    @property
    def size_bytes(self) -> int:
        return self.plan.size_bytes

    @property
    def namespaces(self) -> frozenset[str]:
        """What is restored, as people know it."""
        return frozenset(collection.namespace for collection in self.plan.collections)

    def prove_source(self) -> None:
        """Read something of each collection that is to be restored. Raises what the source answers."""
        prove_source(self._source, self.plan, self._run)

    def remove(self) -> None:
        """Everything that makes way."""
        self._run.progress.phase("removing", total=len(self.plan.removals), unit="collections")
        execute_removal(
            self._writer,
            self.plan,
            check=self._run.check,
            on_removed=lambda _: self._run.progress.advance(1),
        )

    def load(self, finished: Collection[str]) -> None:
        """All but `finished`: collections, documents, indexes, views."""
        create_collections(self._writer, self.plan, finished=finished, check=self._run.check)
        todo = [planned for planned in self.plan.collections if planned.namespace not in finished]
        report = CollectionReport(
            self._record.id,
            [
                initial_progress(planned, is_done=planned.namespace in finished)
                for planned in self.plan.collections
            ],
            catalog=self._context.catalog,
            clock=self._context.clock,
            progress=self._run.progress,
        )
        self._run.progress.phase("loading", total=sum(planned.held.size_bytes for planned in todo))
        load_documents(
            self._source.reader,
            self._writer,
            self.plan,
            finished=finished,
            reporter=report,
            check=self._run.check,
            archived=self._archived,
        )
        report.write()
        self._build_indexes()
        create_views(self._writer, self.plan, check=self._run.check)

    def _build_indexes(self) -> None:
        count = sum(len(planned.plain_indexes) for planned in self.plan.collections)
        self._run.progress.phase("indexes", total=count, unit="indexes")
        build_indexes(
            self._writer,
            self.plan,
            check=self._run.check,
            on_built=lambda _, built: self._run.progress.advance(built),
        )

    def compare(self) -> Comparison:
        """The target with its source; what was removed and not put in place again must be gone."""
        self._run.progress.phase("comparing", total=self.plan.documents, unit="documents")
        leftovers = find_leftovers(self.plan, read_inventory(self._writer))
        compared = compare(
            self._source.reader,
            self._writer,
            self.plan,
            check=self._run.check,
            digests=self._record.compares,
            on_compared=lambda _, documents: self._run.progress.advance(documents),
        )
        still_there = tuple(f"{namespace}: still there" for namespace in leftovers)
        return replace(compared, differences=compared.differences + still_there)

    def complete(self) -> None:
        """What comes after the comparison, as it changes what was compared: from here on documents expire."""
        if self._record.with_users_and_roles:
            self._run.progress.phase("users and roles", unit="accounts")
            restore_accounts(
                self._source.accounts, self._writer, keep=own_accounts(self._target), check=self._run.check
            )
        self._run.progress.phase("expiry", unit="indexes")
        start_expiry(self._writer, self.plan, check=self._run.check)

    def _archived(self) -> OplogTimestamp | None:
        """Up to where the target's own oplog is archived, so that its archive never falls off it."""
        state = self._context.catalog.archives.find(self._target.id)
        return None if state is None or state.archived_to is None else state.archived_to.timestamp


def prove_source(source: LoadSource, plan: LoadPlan, run: JobRun) -> None:
    """Read something of each collection of the plan. Raises SourceUnreadable, and what the source answers."""
    run.progress.phase("proving", total=len(plan.collections), unit="collections")
    with translated_errors("reading what is to be restored"):
        for planned in plan.collections:
            run.check()
            with closing(source.reader.iter_batches(planned, batch_documents=1)) as batches:
                first = next(batches, None)
            if first is None and planned.held.documents and source.has_exact_counts:
                raise SourceUnreadable(
                    f"{planned.held.namespace} of the source should hold {planned.held.documents} documents"
                )
            run.progress.advance(1)


def plan_for(record: AutomatedRestore, source: Inventory, target: Inventory) -> LoadPlan:
    """What a restore does. One that undoes another also removes what was not there before. Pure."""
    scope = record.scope
    if record.undoes is None or scope.is_everything:
        return plan_load(source, target, scope)
    there = tuple(namespace for namespace in scope.namespaces if source.of(namespace))
    removals = plan_removals(target, scope)
    if not there:
        nothing = plan_load(Inventory(held={}), Inventory(held={}), RestoreScope())
        return replace(nothing, scope=scope, removals=removals)
    return replace(plan_load(source, target, RestoreScope(namespaces=there)), scope=scope, removals=removals)


def find_leftovers(plan: LoadPlan, target: Inventory) -> tuple[str, ...]:
    """Namespaces that were to go for good, and are on the target. Pure."""
    targets = [planned.target for planned in plan.collections] + [view.target for view in plan.views]
    gone = {name for removal in plan.removals for name in removal.drops} - {
        ".".join(name) for name in targets
    }
    # The collection of stored functions stays, empty, as long as its database does.
    return tuple(sorted(name for name in gone & target.held.keys() if not _is_emptied_only(name)))


def _is_emptied_only(namespace: str) -> bool:
    return namespace.partition(".")[2] == STORED_FUNCTIONS


def own_accounts(target: Cluster) -> list[str]:
    """Ebbtide's accounts on the target, by the server's ids: without them it could neither back up nor restore it."""
    named = ((target.auth_source, target.username), (target.restore_auth_source, target.restore_username))
    return [f"{source}.{name}" for source, name in named if name is not None]


def initial_progress(planned: PlannedCollection, *, is_done: bool) -> CollectionProgress:
    """How far a collection is when an attempt begins."""
    held = planned.held
    return CollectionProgress(
        namespace=planned.namespace,
        documents=held.documents if is_done else 0,
        documents_total=held.documents,
        size_bytes=held.size_bytes if is_done else 0,
        size_bytes_total=held.size_bytes,
        is_done=is_done,
    )
