"""A run of prune as people see it: who asked for it, how far it is, what it did or would do."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class PruneState(StrEnum):
    """Where a run is."""

    QUEUED = "QUEUED"  # waits for a worker
    RUNNING = "RUNNING"
    DONE = "DONE"  # every replica set was looked at; its report says what was left, and why
    FAILED = "FAILED"  # ended before its end; `error` says why. What it removed was safe to remove


@dataclass(frozen=True, kw_only=True)
class PruneReport:
    """What a run did, or would do, in one replica set. Sizes in bytes.

    `removed_*` objects went (in a dry run: would go). `waiting_*` are unreferenced, but not for long enough yet.
    The living blocks of `moved_packs` mostly dead packs were written anew: these packs go in a later run.
    `live_*` are needed by `snapshots` kept. `problem` says why nothing, or not all, was removed; `interrupted`: because
    something went first, and the next run goes on.
    """

    cluster_id: str
    replica_set_name: str
    snapshots: int = 0
    removed_manifests: int = 0
    removed_recipes: int = 0
    removed_packs: int = 0
    removed_bytes: int = 0
    moved_packs: int = 0
    waiting_objects: int = 0
    waiting_bytes: int = 0
    live_objects: int = 0
    live_bytes: int = 0
    problem: str = ""
    interrupted: bool = False


@dataclass(frozen=True, kw_only=True)
class PruneRun:
    """One run over the whole repository. `requested_by` is `schedule` for those in the background."""

    id: str
    requested: datetime
    requested_by: str
    dry_run: bool
    state: PruneState
    started: datetime | None = None
    ended: datetime | None = None
    reports: tuple[PruneReport, ...] = ()
    error: str = ""
