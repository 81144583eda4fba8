"""Removing from the target what the plan names.

Crash: some of it is gone. Removing again removes the rest: what is not there any more is no error.
"""

from collections.abc import Callable

from pymongo.errors import OperationFailure

from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.load.inventory import STORED_FUNCTIONS, Client
from ebbtide.restore.load.patience import MAJORITY, acknowledged, persist
from ebbtide.restore.load.plan import LoadPlan

_NAMESPACE_NOT_FOUND = 26


def execute_removal(
    target: Client,
    plan: LoadPlan,
    *,
    check: Callable[[], None],
    on_removed: Callable[[str], None] = lambda _: None,
) -> None:
    """Drop every namespace of the plan's removals, then the databases of which nothing stays.

    `on_removed` gets each namespace as it is gone from a majority of the members. Raises Unreachable, DeploymentError.
    """
    with translated_errors("removing what is replaced"):
        for removal in plan.removals:
            check()
            for namespace in removal.drops:
                persist(lambda ns=namespace: _drop(target, ns), check=check)  # type: ignore[misc]
            on_removed(removal.namespace)
        for database in plan.dropped_databases:
            check()
            persist(lambda name=database: _drop_database(target, name), check=check)  # type: ignore[misc]


def _drop(target: Client, namespace: str) -> None:
    database, _, name = namespace.partition(".")
    drop_namespace(target, database, name)


def drop_namespace(target: Client, database: str, name: str) -> None:
    """Raises PyMongo's errors, but none where it does not exist.

    Of a database's stored functions only the documents go: the server drops their collection with its database alone.
    """
    if name == STORED_FUNCTIONS:
        target[database][name].delete_many({})
        return
    try:
        acknowledged(target[database].command("drop", name, writeConcern=MAJORITY))
    except OperationFailure as error:
        if error.code != _NAMESPACE_NOT_FOUND:
            raise


def _drop_database(target: Client, name: str) -> None:
    acknowledged(target[name].command("dropDatabase", 1, writeConcern=MAJORITY))
