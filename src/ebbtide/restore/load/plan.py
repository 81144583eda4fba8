"""What a load will do to its target, decided from two inventories. Pure: print it, test it, then execute it.

Invariants
  * nothing outside the scope is removed or created; what the server keeps for itself is never named
  * no planned collection has a UUID that a staying collection of the target has: the server would *rename* that one
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bson import Binary

from ebbtide.domain.automated_restore import RestoreScope
from ebbtide.errors import InvalidInput, NotFound
from ebbtide.restore.load.inventory import (
    BUCKETS,
    STORED_FUNCTIONS,
    Held,
    Index,
    Inventory,
    Kind,
    Raw,
    is_servers_own,
)

_EXPIRY = "expireAfterSeconds"


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A namespace of the target that will be gone, as people know it; `drops` are those that the server knows."""

    namespace: str
    documents: int
    size_bytes: int
    drops: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlannedCollection:
    """A collection to be created and filled.

    `namespace` is the source's as people know it, the key of all reports; `held` is what the source has; `target` is
    (database, name) of where it goes. `uuid` is None where it needs a new one.
    """

    held: Held
    target: tuple[str, str]
    uuid: Binary | None

    @property
    def namespace(self) -> str:
        return self.held.shown

    @property
    def target_namespace(self) -> str:
        return ".".join(self.target)

    @property
    def creation_options(self) -> Raw:
        """Its options, without what would delete documents while they are loaded."""
        return {name: value for name, value in self.held.options.items() if name != _EXPIRY}

    @property
    def expire_after_seconds(self) -> float | None:
        """After which time the collection itself (clustered, or buckets of a time series) forgets documents."""
        return self.held.options.get(_EXPIRY)

    @property
    def plain_indexes(self) -> tuple[Index, ...]:
        return tuple(index for index in self._indexes if not index.expires)

    @property
    def expiring_indexes(self) -> tuple[Index, ...]:
        return tuple(index for index in self._indexes if index.expires)

    @property
    def _indexes(self) -> Iterator[Index]:
        """Those to be built: the one on _id, or the clustered one, comes with the collection."""
        return (i for i in self.held.indexes if not (i.is_inherent or i.is_unfinished))


@dataclass(frozen=True, kw_only=True)
class PlannedView:
    """A view to be created, or the one through which a time series is seen. `options` has viewOn, pipeline, collation."""

    held: Held
    target: tuple[str, str]
    options: Raw

    @property
    def namespace(self) -> str:
        return self.held.shown


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What will be done. `dropped_databases` go as a whole, after what they hold.

    `left_out`: namespaces of the source that the server keeps for itself. `unfinished_indexes`: (namespace, name) of
    indexes that were still being built, so that they did not exist yet.
    """

    scope: RestoreScope
    removals: tuple[Removal, ...]
    dropped_databases: tuple[str, ...]
    collections: tuple[PlannedCollection, ...]
    views: tuple[PlannedView, ...]
    left_out: tuple[str, ...]
    unfinished_indexes: tuple[tuple[str, str], ...]

    @property
    def documents(self) -> int:
        return sum(c.held.documents for c in self.collections)

    @property
    def size_bytes(self) -> int:
        return sum(c.held.size_bytes for c in self.collections)

    @property
    def removed_bytes(self) -> int:
        return sum(removal.size_bytes for removal in self.removals)

    @property
    def expiring(self) -> tuple[str, ...]:
        """Namespaces in which the target deletes what has expired, as soon as `start_expiry` was called."""
        return tuple(
            c.namespace for c in self.collections if c.expiring_indexes or c.expire_after_seconds is not None
        )


def plan_load(source: Inventory, target: Inventory, scope: RestoreScope) -> LoadPlan:
    """Raises NotFound for a namespace that the source lacks, InvalidInput for a scope that makes no sense."""
    check_scope(scope)
    chosen = _choose(source, scope)
    removed = {held.namespace for held in _removed(target, scope)}
    staying = {held.uuid for held in target.held.values() if held.namespace not in removed}
    collections = tuple(
        PlannedCollection(
            held=held,
            target=_target(held, scope),
            uuid=_uuid(held, target, scope, staying),
        )
        for held in chosen
        if held.kind is Kind.COLLECTION
    )
    return LoadPlan(
        scope=scope,
        removals=plan_removals(target, scope),
        dropped_databases=_dropped_databases(target, scope),
        collections=collections,
        views=tuple(_view(held, scope) for held in chosen if held.kind is not Kind.COLLECTION),
        left_out=source.left_out if scope.is_everything else (),
        unfinished_indexes=tuple(
            (held.shown, index.name) for held in chosen for index in held.indexes if index.is_unfinished
        ),
    )


def check_scope(scope: RestoreScope) -> None:
    """Raises InvalidInput."""
    for namespace in (*scope.namespaces, *(() if scope.rename_to is None else (scope.rename_to,))):
        database, dot, name = namespace.partition(".")
        if not (database and dot and name) or is_servers_own(database, name) or name.startswith(BUCKETS):
            raise InvalidInput("namespace", expected="DATABASE.COLLECTION of users", got=namespace)
    if scope.rename_to is not None and len(scope.namespaces) != 1:
        raise InvalidInput("namespaces", expected="exactly one, to be restored under a new name")


def _choose(source: Inventory, scope: RestoreScope) -> tuple[Held, ...]:
    if scope.is_everything:
        return tuple(source.held.values())
    chosen: list[Held] = []
    for namespace in dict.fromkeys(scope.namespaces):
        found = source.of(namespace)
        if not found:
            raise NotFound(
                f"{namespace} does not exist at this restore point",
                hint="`ebbtide restores plan` without namespaces lists what does",
            )
        chosen += found
    return tuple(chosen)


def _removed(target: Inventory, scope: RestoreScope) -> tuple[Held, ...]:
    if scope.is_everything:
        return tuple(target.held.values())
    return tuple(held for namespace in dict.fromkeys(scope.written) for held in target.of(namespace))


def plan_removals(target: Inventory, scope: RestoreScope) -> tuple[Removal, ...]:
    """What makes way for the scope, one per name that people use: a time series and its buckets are one thing."""
    by_name: dict[str, list[Held]] = {}
    for held in _removed(target, scope):
        by_name.setdefault(held.shown, []).append(held)
    return tuple(
        Removal(
            namespace=namespace,
            documents=sum(held.documents for held in parts),
            size_bytes=sum(held.size_bytes for held in parts),
            # Dropping a time series drops its buckets, unless it was interrupted: these come after it.
            drops=tuple(sorted((held.namespace for held in parts), key=lambda name: name != namespace)),
        )
        for namespace, parts in by_name.items()
    )


def _dropped_databases(target: Inventory, scope: RestoreScope) -> tuple[str, ...]:
    """Those of which nothing stays. What the server keeps in `admin` does."""
    if not scope.is_everything:
        return ()
    namespaces = (*target.held, *target.left_out)
    return tuple(sorted({namespace.partition(".")[0] for namespace in namespaces} - {"admin"}))


def _target(held: Held, scope: RestoreScope) -> tuple[str, str]:
    if scope.rename_to is None:
        return held.database, held.name
    database, _, name = scope.rename_to.partition(".")
    return database, f"{BUCKETS}{name}" if held.name.startswith(BUCKETS) else name


def _uuid(held: Held, target: Inventory, scope: RestoreScope, staying: set[Binary | None]) -> Binary | None:
    """The source's; None where a staying collection has it, or where the target's own cannot be dropped."""
    is_kept = held.name == STORED_FUNCTIONS and not scope.is_everything and held.namespace in target.held
    return None if held.uuid in staying or is_kept else held.uuid


def _view(held: Held, scope: RestoreScope) -> PlannedView:
    database, name = _target(held, scope)
    options = dict(held.options)
    if held.kind is Kind.TIME_SERIES:
        options["viewOn"] = f"{BUCKETS}{name}"
    elif database != held.database:
        raise InvalidInput(
            "rename",
            expected=f"a name in {held.database}, as the view's collections are",
            got=scope.rename_to,
        )
    return PlannedView(held=held, target=(database, name), options=options)
