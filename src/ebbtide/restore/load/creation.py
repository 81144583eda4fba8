"""Creating collections, empty, with all their options and their UUIDs; and later the views over them.

UUIDs need `applyOps` with the oplog's own form of `create`. Its surprises (6.0.5): a collection of the same database
that has that UUID is *renamed*, and one that has that name is moved out of the way. So what stands at the name is
dropped first, and the plan gives no UUID that a staying collection has.

What would delete documents while they are loaded is left out of the options; `expiry` puts it there in the end.

Crash: some are created. Creating again begins anew with each that is not finished.
"""

import uuid
from collections.abc import Callable, Collection

from bson import Binary

from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.load.inventory import STORED_FUNCTIONS, Client, Document, Kind
from ebbtide.restore.load.patience import MAJORITY, acknowledged, persist
from ebbtide.restore.load.plan import LoadPlan, PlannedCollection, PlannedView
from ebbtide.restore.load.removal import drop_namespace


def create_collections(
    target: Client, plan: LoadPlan, *, finished: Collection[str], check: Callable[[], None]
) -> None:
    """Create every collection of the plan that is not `finished`, anew where it exists.

    Raises Unreachable, DeploymentError.
    """
    with translated_errors("creating collections"):
        for planned in plan.collections:
            if planned.namespace not in finished:
                check()
                persist(lambda planned=planned: create_anew(target, planned), check=check)  # type: ignore[misc]


def create_anew(target: Client, planned: PlannedCollection) -> None:
    """Drop what stands at the collection's name, and create it. Raises PyMongo's errors."""
    database, name = planned.target
    drop_namespace(target, database, name)
    if name == STORED_FUNCTIONS and any(target[database].list_collections(filter={"name": name})):
        # It cannot be dropped; it is empty now.
        return
    # An unacknowledged one might be rolled back; what is inserted then would create another, without its options.
    acknowledged(target.admin.command("applyOps", [_create_operation(planned)], writeConcern=MAJORITY))


def create_views(target: Client, plan: LoadPlan, *, check: Callable[[], None]) -> None:
    """Create the plan's views, time series' among them, anew where they exist. Raises Unreachable, DeploymentError."""
    with translated_errors("creating views"):
        for view in plan.views:
            check()
            persist(lambda view=view: _create_view(target, view), check=check)  # type: ignore[misc]


def _create_operation(planned: PlannedCollection) -> Document:
    database, name = planned.target
    options: Document = {"create": name, **planned.creation_options}
    if planned.held.id_index is not None:
        # With it come the version and the collation of the index on _id.
        options["idIndex"] = planned.held.id_index
    own = planned.uuid if planned.uuid is not None else Binary.from_uuid(uuid.uuid4())
    return {"op": "c", "ns": f"{database}.$cmd", "ui": own, "o": options}


def _create_view(target: Client, view: PlannedView) -> None:
    database, name = view.target
    standing = next(target[database].list_collections(filter={"name": name}), None)
    if standing is not None and standing["type"] == Kind.TIME_SERIES:
        # An earlier attempt made it. Dropping it would drop its buckets.
        return
    if standing is not None and standing["type"] == Kind.VIEW:
        drop_namespace(target, database, name)
    acknowledged(target[database].command("create", name, **view.options, writeConcern=MAJORITY))
