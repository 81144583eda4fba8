"""Copying a locked host, raw, into an empty mongod of ours: with the loader that restores into running sets.

Documents, users and roles are read while the host is locked; indexes are built afterwards, from what was read of them.
The copy holds every database but `local`, and of the server's own collections the accounts alone: `config` is the very
reason for a mirrored config server, so it is copied as well, without the records of client sessions.

Crash: some of it is in the copy, which is thrown away.
"""

from collections.abc import Callable
from typing import Any

from pymongo import MongoClient

from ebbtide.domain.automated_restore import RestoreScope
from ebbtide.domain.progress import ProgressReporter
from ebbtide.restore.load.accounts import restore_accounts
from ebbtide.restore.load.creation import create_collections, create_views
from ebbtide.restore.load.documents import load_documents
from ebbtide.restore.load.expiry import start_expiry
from ebbtide.restore.load.failure import LoadFailed
from ebbtide.restore.load.indexes import build_indexes
from ebbtide.restore.load.inventory import Inventory, Kind, read_inventory
from ebbtide.restore.load.plan import LoadPlan, plan_load
from ebbtide.restore.load.reading import NaturalReader

Client = MongoClient[dict[str, Any]]


def copy_documents(
    source: Client, copy: Client, *, progress: ProgressReporter, check: Callable[[], None]
) -> LoadPlan:
    """Everything that must be read while the source is locked; the plan is what is left to do.

    Raises LoadFailed, Unreachable, DeploymentError, and what `check` raises.
    """
    plan = plan_load(read_inventory(source, with_config=True), Inventory(held={}), RestoreScope())
    _require_definitions(plan)
    create_collections(copy, plan, finished=(), check=check)
    progress.phase("copying", total=plan.size_bytes)
    load_documents(NaturalReader(source), copy, plan, finished=(), reporter=_Reporter(progress), check=check)
    restore_accounts(source, copy, check=check)
    return plan


def complete_copy(
    copy: Client, plan: LoadPlan, *, progress: ProgressReporter, check: Callable[[], None]
) -> None:
    """Indexes, views, and what makes documents expire: nothing deletes them as long as this mongod runs."""
    progress.phase("indexes", unit="indexes")
    build_indexes(copy, plan, check=check, on_built=lambda _, count: progress.advance(count))
    create_views(copy, plan, check=check)
    start_expiry(copy, plan, check=check)


def _require_definitions(plan: LoadPlan) -> None:
    """Servers let no ordinary account read how a time series is seen; those of mirrored config servers know none."""
    for view in plan.views:
        if view.held.kind is Kind.TIME_SERIES and "pipeline" not in view.options:
            raise LoadFailed(
                f"{view.namespace} is a time series, which the account of the host may not read as it is stored",
                hint="a mirrored config server has none: register a replica set, whose files are taken",
            )


class _Reporter:
    """What the loader says, as progress in bytes."""

    def __init__(self, progress: ProgressReporter) -> None:
        self._progress = progress

    def loaded(self, namespace: str, *, documents: int, size_bytes: int) -> None:  # noqa: ARG002
        self._progress.advance(size_bytes)

    def begun_anew(self, namespace: str) -> None:
        pass

    def finished(self, namespace: str) -> None:
        pass
