"""An automated restore: what is asked, when it may begin, and what is true of the target at any moment. Pure rules.

A target is a registered cluster whose owner consented. What a restore did to it is told by `TargetState`, which is
recorded *before* the target is changed, so that after a crash it is never better than the truth.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.replica_set import major_version

RESTORE_ROLES = ("restore", "dbAdminAnyDatabase", "readWriteAnyDatabase", "clusterMonitor")
"""What the account that writes into a target needs: the built-in roles, all on `admin`."""

WRITE_BLOCK_SINCE = "6.0"
"""The first version with `setUserWriteBlockMode`."""

SPACE_MARGIN = 1.1
"""Data that is loaded takes a little more than the files that it came from: an oplog that grows, pages half full."""


COLLECTIONS_SHOWN_MAX = 1000
"""Of so many collections the progress is kept for each: half a megabyte, with long names."""


class TargetState(StrEnum):
    """What a restore has done to its target so far."""

    UNTOUCHED = "UNTOUCHED"  # nothing was changed
    REMOVING = "REMOVING"  # what the plan names is being removed: all of it, some or none may be gone
    LOADING = "LOADING"  # what the plan names is gone; some of the restored data is in place
    LOADED = "LOADED"  # all restored data is in place; it was not compared yet
    RESTORED = "RESTORED"  # all restored data is in place, and was compared as was asked
    DIFFERENT = "DIFFERENT"  # all restored data is in place, and differs from its source


TARGET_SENTENCES: Mapping[TargetState, str] = {
    TargetState.UNTOUCHED: "nothing on the target was changed",
    TargetState.REMOVING: "what was to be replaced on the target is removed in part",
    TargetState.LOADING: "what was to be replaced on the target is gone, and the restored data is there in part",
    TargetState.LOADED: "the restored data is on the target, but was not compared",
    TargetState.RESTORED: "the restored data is on the target",
    TargetState.DIFFERENT: "the restored data is on the target, and differs from its source",
}


class WriteBlock(StrEnum):
    """Whether other writers are kept off the target; written before it is so, and after it is not any more."""

    OFF = "OFF"
    SET = "SET"  # it is blocked by us, or is about to be
    FOREIGN = "FOREIGN"  # somebody else had blocked it before; it stays so
    NOT_OFFERED = (
        "NOT_OFFERED"  # by a server that is too old or asks for no login; its oplog tells foreign writes
    )


@dataclass(frozen=True, kw_only=True)
class RestoreScope:
    """What is to be restored: everything, some namespaces (`db.collection`), or one under a new name."""

    namespaces: tuple[str, ...] = ()
    rename_to: str | None = None

    @property
    def is_everything(self) -> bool:
        return not self.namespaces

    @property
    def written(self) -> tuple[str, ...]:
        """The namespaces of the target that are replaced; empty: all of them."""
        return self.namespaces if self.rename_to is None else (self.rename_to,)


@dataclass(frozen=True, kw_only=True)
class CollectionProgress:
    """How far one collection is. Totals are of the source; `is_done`: with its indexes."""

    namespace: str
    documents: int
    documents_total: int
    size_bytes: int
    size_bytes_total: int
    is_done: bool = False


def choose_shown(found: Iterable[CollectionProgress]) -> tuple[CollectionProgress, ...]:
    """Those that people are shown of very many: what is under way, then what is to come, then what is done."""

    def rank(progress: CollectionProgress) -> int:
        return 2 if progress.is_done else 0 if progress.documents else 1

    # A document of the catalog has a bound, and is written anew each time.
    return tuple(sorted(found, key=rank)[:COLLECTIONS_SHOWN_MAX])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was compared at the end. `digested` counts collections whose content was compared on both sides."""

    collections: int
    documents: int
    digested: int
    is_digest_skipped: bool
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AutomatedRestore:
    """What a restore job does to its target; `id` is the job's.

    `is_active` until nothing of the job can touch the target any more: one such restore per target. `undo_point` is the
    last moment of the target before the first removal, `undo_snapshot_id` was taken for it; what it takes, from the end of
    `undo_base_id` on, stays until `undo_until`. `write_block` says SET
    before the block is set. `quiet_after` is the target's newest entry when others were kept off last, so that what was
    written since can be found. `undoes` is the job that this one takes back. `collections` are at most
    COLLECTIONS_SHOWN_MAX of the `collections_total`; which ones are in place with their documents is recorded beside.
    """

    id: RestoreJobId
    target_group_id: GroupId
    target_cluster_id: ClusterId
    target_name: str
    scope: RestoreScope
    requested: datetime
    is_active: bool = True
    compares: bool = True
    with_users_and_roles: bool = False
    wants_undo: bool = True
    undoes: RestoreJobId | None = None
    target_state: TargetState = TargetState.UNTOUCHED
    write_block: WriteBlock = WriteBlock.OFF
    undo_point: OplogTimestamp | None = None
    undo_snapshot_id: SnapshotId | None = None
    undo_base_id: SnapshotId | None = None
    undo_until: datetime | None = None
    quiet_after: OplogTimestamp | None = None
    foreign_writes: tuple[str, ...] = ()
    collections: tuple[CollectionProgress, ...] = ()
    collections_total: int = 0
    collections_done: int = 0
    comparison: Comparison | None = None
    entries_applied: int = 0
    replay_seconds: float | None = None
    seconds: float | None = None


# --- consent ----------------------------------------------------------------------------------------------------------


def consent_command(name: str, *, is_sharded: bool = False) -> str:
    """What the owner of a cluster runs to let restores write into it."""
    if is_sharded:
        # It is written by its keyfile, which is known.
        return f"ebbtide clusters set {name} --restore-target on"
    return f"ebbtide clusters set {name} --restore-target on --restore-username USER --restore-password-file FILE"


def refuse_target(cluster: Cluster) -> str | None:
    """Why a cluster is no target of restores, with what changes that; None where it is one."""
    if cluster.state is not ClusterState.ACTIVE:
        return f"{cluster.name} is being removed from Ebbtide, or was"
    if cluster.parent_id is not None:
        return f"{cluster.name} is a part of a sharded cluster, which is restored as a whole: name that"
    if not cluster.restore_target:
        command = consent_command(cluster.name, is_sharded=cluster.kind is ClusterKind.SHARDED)
        return f"the owner of {cluster.name} has not made it a target of restores: {command}"
    return None


def missing_restore_roles(privileges: Sequence[Mapping[str, Any]]) -> list[str]:
    """The roles that would allow what is missing, in the order of `RESTORE_ROLES`.

    `privileges` is `authInfo.authenticatedUserPrivileges` of connectionStatus with showPrivileges. Each role is known by
    an action that the others lack; `anyResource` (as of `root` or `__system`) stands for every resource.
    """
    cluster: set[str] = set()
    databases: set[str] = set()
    buckets: set[str] = set()
    for privilege in privileges:
        resource, actions = privilege["resource"], set(privilege["actions"])
        everywhere = bool(resource.get("anyResource"))
        if everywhere or resource.get("cluster"):
            cluster |= actions
        if everywhere or (resource.get("db") == "" and resource.get("collection") == ""):
            databases |= actions
        if everywhere or "system_buckets" in resource:
            buckets |= actions
    missing = set()
    if "forceUUID" not in cluster or not {"insert", "createCollection"} <= (databases | buckets):
        missing.add("restore")
    if "dropDatabase" not in databases:
        missing.add("dbAdminAnyDatabase")
    if not {"find", "update", "remove", "dbHash"} <= databases:
        missing.add("readWriteAnyDatabase")
    if not {"serverStatus", "replSetGetStatus"} <= cluster:
        missing.add("clusterMonitor")
    return [role for role in RESTORE_ROLES if role in missing]


# --- preflight --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """What was found of a target. `free_bytes` is None where the server does not tell; `removed_bytes` is what goes."""

    name: str
    set_name: str
    expected_set_name: str
    mongod_version: str
    fcv: str
    missing_roles: tuple[str, ...]
    needs_login: bool
    free_bytes: int | None
    removed_bytes: int


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """What is to be put in place: the snapshot's FCV, and the size of its data in bytes."""

    fcv: str
    data_bytes: int


def judge_target(target: TargetFacts, source: SourceFacts) -> tuple[str, ...]:
    """Every reason not to begin, each a sentence; empty where all is well."""
    problems = []
    if target.set_name != target.expected_set_name:
        problems.append(
            f"what answers for {target.name} is replica set {target.set_name}, not {target.expected_set_name}"
        )
    if target.missing_roles:
        problems.append(
            f"the restore account of {target.name} lacks the roles {', '.join(target.missing_roles)}"
        )
    if source.fcv and target.fcv and _order(target.fcv) < _order(source.fcv):
        problems.append(
            f"the data is of feature compatibility version {source.fcv}, and {target.name} has {target.fcv}: "
            "restore into a set of the same version or a newer one"
        )
    needed = int(source.data_bytes * SPACE_MARGIN)
    if target.free_bytes is not None and needed > target.free_bytes + target.removed_bytes:
        problems.append(
            f"{target.name} has {_gib(target.free_bytes)} free, and gets {_gib(target.removed_bytes)} by what is "
            f"removed; about {_gib(needed)} are needed"
        )
    return tuple(problems)


def can_block_writes(mongod_version: str) -> bool:
    """Whether a target of this version ("6.0.5") can keep other writers off."""
    return _order(major_version(mongod_version)) >= _order(WRITE_BLOCK_SINCE)


def _order(major: str) -> tuple[int, ...]:
    return tuple(int(part) for part in major.split(".") if part.isdigit())


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 1024**3:.1f} GiB"


# --- going on ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """What an attempt finds done. `removal_is_done`: what the plan names is gone; `finished` need not be loaded again."""

    removal_is_done: bool
    finished: frozenset[str]


def plan_resumption(record: AutomatedRestore, finished: Collection[str]) -> Resumption:
    """Where the next attempt goes on; `finished` are namespaces of the source that were recorded to be in place.

    A removal that may be incomplete is made again from the start: nothing is in place then.
    """
    if record.target_state in (TargetState.UNTOUCHED, TargetState.REMOVING):
        return Resumption(removal_is_done=False, finished=frozenset())
    return Resumption(removal_is_done=True, finished=frozenset(finished))


def keeps_undo(record: AutomatedRestore, *, now: datetime) -> bool:
    """Whether what undoing takes must stay: while the restore may still change its target, then until its time."""
    if record.undo_point is None or record.undo_until is None:
        return False
    if record.is_active:
        return True
    return record.target_state is not TargetState.UNTOUCHED and now < record.undo_until


def tell_target(record: AutomatedRestore) -> str:
    """What state the target is in, and what to do about it: the end of the reason of a job that did not finish."""
    sentence = f"{TARGET_SENTENCES[record.target_state]} ({record.target_name})"
    if record.target_state in (TargetState.UNTOUCHED, TargetState.RESTORED):
        return sentence
    again = "asking for the same restore again is safe: it removes what is there and begins anew"
    if record.undo_point is None:
        return f"{sentence}; {again}"
    return f"{sentence}; {again}; what was there before: ebbtide restores undo {record.id}"


def is_foreign_write(entry: Mapping[str, Any], *, written: Sequence[str]) -> str | None:
    """The namespace that somebody else wrote to, as an entry of the target's oplog tells it; None where it is ours.

    Drivers give a writer's entries a transaction number, as they retry writes; we never do. `written` are the
    namespaces that we replace, empty for all; what lies outside them is nobody's business here.
    """
    namespace = str(entry.get("ns", ""))
    database, _, collection = namespace.partition(".")
    if database in ("", "admin", "config", "local") or entry.get("op") not in ("i", "u", "d"):
        return None
    plain = f"{database}.{collection.removeprefix('system.buckets.')}"
    if written and plain not in written:
        return None
    return plain if "txnNumber" in entry else None
