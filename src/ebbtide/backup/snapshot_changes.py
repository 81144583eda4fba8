"""What people may do with a snapshot that exists: keep it, give it a time, delete it, bring it back.

Deleting hides a snapshot and kills its links; its data stays for `repository.delete_delay_hours`, and so long it can
be brought back. Who wants to remove its data must first set `removed` in the same document (`claim_removal`), so of
bringing back and removing one wins.

A snapshot of a sharded cluster is changed as a whole; its parts follow it, and are not changed or deleted by
themselves.

Crash after the one write that deletes: links may still be READY; housekeeping ends them (`expire_links_of_deleted`).
Parts of a deleted whole may still be there; housekeeping deletes them (`delete_parts_of_deleted`). After the one that
brings a whole back, parts may still be deleted: to bring it back again finishes that.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.cluster import ClusterState
from ebbtide.domain.cluster_snapshot import AnySnapshot, ClusterSnapshot
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.restore_job import DeliveryMethod, RestoreEvent, RestoreJob
from ebbtide.domain.retention import expires_after, follows_whole
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import Refused
from ebbtide.events import record_event
from ebbtide.restore.undo_point import kept_undos

Changes = dict[str, Any]


class SnapshotChanged(Refused):
    """The snapshot is not in the state any more in which this can be done."""


class CannotUndelete(Refused):
    """The snapshot is not deleted, or its data is being removed already."""


class UndoTakesIt(Refused):
    """Undoing a restore into the cluster is built on the snapshot."""


class PartOfWhole(Refused):
    """The snapshot is a part of one of a sharded cluster, which is listed: it stays as long as that."""


def require_no_part(snapshot: Snapshot, *, catalog: Catalog) -> None:
    """Raise PartOfWhole for a part of a listed snapshot of a sharded cluster."""
    whole = whole_of(snapshot, catalog=catalog)
    if whole is not None and whole.is_listed:
        raise PartOfWhole(
            f"snapshot {snapshot.id} is a part of snapshot {whole.id} of the sharded cluster {whole.cluster_name}",
            hint=f"change or delete that one: ebbtide snapshots show {whole.cluster_name} {whole.id}",
        )


def _require_no_undo_base(snapshot: AnySnapshot, *, catalog: Catalog, now: datetime) -> None:
    """Raise UndoTakesIt where it, or a part of it, is what an undo is built on. A base that is deleted while its undo
    point is being recorded, prune keeps."""
    bases = (
        {snapshot.id: snapshot.cluster_id}
        if isinstance(snapshot, Snapshot)
        else {part.snapshot_id: part.cluster_id for part in snapshot.parts}
    )
    for base_id, cluster_id in bases.items():
        undos = [u for u in kept_undos(catalog, cluster_id, now=now) if u.undo_base_id == base_id]
        if not undos:
            continue
        newest = max(undos, key=lambda undo: undo.undo_until or now)
        until = (newest.undo_until or now).isoformat(timespec="seconds")
        raise UndoTakesIt(
            f"undoing restore job {newest.id} is built on snapshot {snapshot.id}, which is kept for that until {until}: "
            f"delete it then, or have it go by itself: "
            f"ebbtide snapshots expire {snapshot.cluster_name} {snapshot.id} --at {until}"
        )


def whole_of(snapshot: Snapshot, *, catalog: Catalog) -> ClusterSnapshot | None:
    """The snapshot of a sharded cluster that this one is a part of."""
    whole_id = snapshot.cluster_snapshot_id
    return None if whole_id is None else catalog.cluster_snapshots.find(whole_id)


def keep_snapshot(snapshot: AnySnapshot, *, catalog: Catalog, clock: Clock, actor: str) -> AnySnapshot:
    """Retention leaves it alone from now on. Raises SnapshotChanged."""
    changed = _change(snapshot, catalog, do_not_delete=True, expires=None)
    _record_change(changed, f"snapshot {snapshot.id} is kept until further notice", catalog, clock, actor)
    return changed


def let_go_snapshot(snapshot: AnySnapshot, *, catalog: Catalog, clock: Clock, actor: str) -> AnySnapshot:
    """The opposite of `keep_snapshot`: its time begins anew, with the retention of the cluster's schedule.

    One that was not kept stays as it is. Raises SnapshotChanged.
    """
    if not snapshot.do_not_delete:
        return snapshot
    expires = expires_after(clock.now(), retention_days=_retention_days(snapshot, catalog))
    return set_expiry(snapshot, expires, catalog=catalog, clock=clock, actor=actor)


def set_expiry(
    snapshot: AnySnapshot, expires: datetime, *, catalog: Catalog, clock: Clock, actor: str
) -> AnySnapshot:
    """Retention deletes it at `expires`, which may have passed. Raises SnapshotChanged."""
    changed = _change(snapshot, catalog, do_not_delete=False, expires=expires)
    _record_change(
        changed,
        f"snapshot {snapshot.id} is kept until {expires.isoformat(timespec='seconds')}",
        catalog,
        clock,
        actor,
    )
    return changed


def delete_snapshot(
    snapshot: AnySnapshot, *, delay: timedelta, catalog: Catalog, clock: Clock, actor: str
) -> AnySnapshot:
    """Hide a complete snapshot and end its links; prune may remove its data after `delay`.

    Raises SnapshotChanged where it is not complete (any more), PartOfWhole, UndoTakesIt.
    """
    if isinstance(snapshot, Snapshot):
        require_no_part(snapshot, catalog=catalog)
    _require_no_undo_base(snapshot, catalog=catalog, now=clock.now())
    deleted = _mark_deleted(snapshot, delay=delay, catalog=catalog, now=clock.now())
    if deleted is None:
        raise SnapshotChanged(f"snapshot {snapshot.id} is not complete (any more)")
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="snapshot.deleted",
        message=f"snapshot {snapshot.id} of {snapshot.cluster_name} was deleted; it can be brought back for "
        f"{delay.total_seconds() / 3600:g} hours",
        group_id=snapshot.group_id,
        cluster_id=snapshot.cluster_id,
        subject_id=snapshot.id,
        actor=actor,
    )
    return deleted


def expire_snapshot(snapshot: AnySnapshot, *, catalog: Catalog, clock: Clock) -> None:
    """Retention's deletion: as a person's, but prune need not wait. Harmless where it is not complete any more."""
    if _mark_deleted(snapshot, delay=timedelta(0), catalog=catalog, now=clock.now()) is None:
        return
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="snapshot.expired",
        message=f"snapshot {snapshot.id} of {snapshot.cluster_name} is past its time and was deleted",
        group_id=snapshot.group_id,
        cluster_id=snapshot.cluster_id,
        subject_id=snapshot.id,
        actor="retention",
    )


def delete_parts_of_deleted(
    snapshots: Iterable[Snapshot], *, catalog: Catalog, now: datetime
) -> set[SnapshotId]:
    """Delete those parts whose whole is deleted; the ids of all of `snapshots` that stay or go with their whole."""
    parts = [snapshot for snapshot in snapshots if snapshot.cluster_snapshot_id is not None]
    wholes = catalog.cluster_snapshots.find_many(
        part.cluster_snapshot_id for part in parts if part.cluster_snapshot_id is not None
    )
    following = set()
    for part in parts:
        whole = wholes.get(part.cluster_snapshot_id or part.id)
        if not follows_whole(part, whole):
            continue
        following.add(part.id)
        if whole is not None and whole.state is SnapshotState.DELETED:
            delay = max(timedelta(0), (whole.prune_after or now) - now)
            _mark_deleted(part, delay=delay, catalog=catalog, now=now)
    return following


def undelete_snapshot(snapshot: AnySnapshot, *, catalog: Catalog, clock: Clock, actor: str) -> AnySnapshot:
    """Bring a deleted snapshot back. Its links stay dead. Raises CannotUndelete, PartOfWhole.

    One that is past its time is kept until further notice, or retention would delete it at once.
    """
    is_past = not snapshot.do_not_delete and snapshot.expires is not None and snapshot.expires <= clock.now()
    keeping = {"do_not_delete": True, "expires": None} if is_past else {}
    back: Changes = {"state": SnapshotState.COMPLETE, "deleted": None, "prune_after": None, **keeping}
    if isinstance(snapshot, Snapshot):
        whole = whole_of(snapshot, catalog=catalog)
        if whole is not None and whole.state is SnapshotState.DELETED:
            raise PartOfWhole(
                f"snapshot {snapshot.id} is a part of snapshot {whole.id} of {whole.cluster_name}, which is deleted",
                hint=f"bring that one back: ebbtide snapshots undelete {whole.cluster_name} {whole.id}",
            )
        found: AnySnapshot | None = catalog.snapshots.change(
            snapshot.id, only=SnapshotState.DELETED, unless_removed=True, **back
        )
    else:
        found = _undelete_whole(snapshot, back, catalog)
    if found is None:
        raise CannotUndelete(
            f"snapshot {snapshot.id} is not deleted, or its data is being removed already",
            hint=f"ebbtide snapshots list {snapshot.cluster_name} --deleted shows what can be brought back",
        )
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="snapshot.undeleted",
        message=f"snapshot {snapshot.id} of {snapshot.cluster_name} was brought back",
        group_id=snapshot.group_id,
        cluster_id=snapshot.cluster_id,
        subject_id=snapshot.id,
        actor=actor,
    )
    return found


def _undelete_whole(whole: ClusterSnapshot, back: Changes, catalog: Catalog) -> ClusterSnapshot | None:
    """Bring a whole back, and then its parts: from the first write on, prune leaves those alone."""
    parts = list(catalog.snapshots.find_many(part.snapshot_id for part in whole.parts).values())
    if len(parts) < len(whole.parts) or any(part.removed is not None for part in parts):
        return None
    found = catalog.cluster_snapshots.change(whole.id, only=SnapshotState.DELETED, **back)
    if found is None and any(part.state is SnapshotState.DELETED for part in parts):
        # A death between the whole and its parts left it listed.
        found = catalog.cluster_snapshots.change(whole.id, only=SnapshotState.COMPLETE, **back)
    if found is None:
        return None
    part_back: Changes = {"state": SnapshotState.COMPLETE, "deleted": None, "prune_after": None}
    for part in parts:
        if part.state is not SnapshotState.DELETED:
            continue
        if not catalog.snapshots.change(
            part.id, only=SnapshotState.DELETED, unless_removed=True, **part_back
        ):
            # Prune was quicker, so it goes on with the others.
            catalog.cluster_snapshots.change(
                whole.id,
                only=SnapshotState.COMPLETE,
                state=SnapshotState.DELETED,
                deleted=whole.deleted,
                prune_after=whole.prune_after,
            )
            return None
    return found


def expiry_at_completion(snapshot: Snapshot, *, completed: datetime, catalog: Catalog) -> datetime | None:
    """When retention may delete a snapshot that is complete now; what a person said meanwhile goes first."""
    asked = catalog.snapshots.find(snapshot.id) or snapshot
    if asked.do_not_delete or asked.expires is not None:
        return asked.expires
    return expires_after(completed, retention_days=_retention_days(asked, catalog))


def claim_removal(snapshot: Snapshot, *, catalog: Catalog, now: datetime) -> bool:
    """From now on nothing brings the snapshot back; False where somebody just did, or with the whole it is a part of."""
    if snapshot.removed is not None:
        return True
    whole = whole_of(snapshot, catalog=catalog)
    if whole is not None and whole.is_listed:
        return False
    claimed = catalog.snapshots.change(
        snapshot.id, only=SnapshotState.DELETED, unless_removed=True, removed=now
    )
    return claimed is not None


def expire_links(snapshot_id: SnapshotId, *, catalog: Catalog, now: datetime) -> None:
    """End every usable link of a deleted snapshot. What is being transferred runs to its end.

    A replayed result needs its base no more once it is stored, so its link stays.
    """
    for job in catalog.restore_jobs.list_for_snapshot(snapshot_id):
        if job.result_id is None:
            expire_link(job, catalog=catalog, now=now)


def expire_link(job: RestoreJob, *, catalog: Catalog, now: datetime) -> None:
    """Bring the link's time forward to now; harmless where the link is not usable, or where there never is one."""
    if job.method is not DeliveryMethod.HTTP:
        return
    expires = now if job.expires is None else min(job.expires, now)
    catalog.restore_jobs.apply(job.id, RestoreEvent.LINK_EXPIRED, expires=expires)


def expire_links_of_deleted(*, catalog: Catalog, now: datetime) -> None:
    """As `expire_links`, for links that became ready while their snapshot was being deleted, and after a crash."""
    for job in catalog.restore_jobs.list_ready():
        snapshot = catalog.snapshots.find(job.snapshot_id) if job.result_id is None else None
        if snapshot is not None and snapshot.state is SnapshotState.DELETED:
            expire_link(job, catalog=catalog, now=now)


def is_held(snapshot: AnySnapshot, *, catalog: Catalog) -> bool:
    """Whether it is the newest complete snapshot of a cluster under backup: retention leaves it alone."""
    cluster = catalog.clusters.find(snapshot.cluster_id)
    if cluster is None or cluster.state is ClusterState.REMOVED:
        return False
    if isinstance(snapshot, Snapshot):
        newest = catalog.snapshots.newest_complete(snapshot.cluster_id)
        return newest is not None and newest.id == snapshot.id
    newest_whole = catalog.cluster_snapshots.newest_complete(snapshot.cluster_id)
    return newest_whole is not None and newest_whole.id == snapshot.id


def _mark_deleted(
    snapshot: AnySnapshot, *, delay: timedelta, catalog: Catalog, now: datetime
) -> AnySnapshot | None:
    changes: Changes = {"state": SnapshotState.DELETED, "deleted": now, "prune_after": now + delay}
    if isinstance(snapshot, Snapshot):
        deleted = catalog.snapshots.change(snapshot.id, only=SnapshotState.COMPLETE, removed=None, **changes)
        if deleted is not None:
            expire_links(snapshot.id, catalog=catalog, now=now)
        return deleted
    whole = catalog.cluster_snapshots.change(snapshot.id, only=SnapshotState.COMPLETE, **changes)
    if whole is not None:
        parts = catalog.snapshots.find_many(part.snapshot_id for part in whole.parts)
        for part in parts.values():
            _mark_deleted(part, delay=delay, catalog=catalog, now=now)
    return whole


def _retention_days(snapshot: AnySnapshot, catalog: Catalog) -> int:
    cluster = catalog.clusters.find(snapshot.cluster_id)
    if cluster is None:
        raise SnapshotChanged(f"the cluster of snapshot {snapshot.id} is not in the catalog")
    return catalog.schedules.get(cluster).retention_days


def _change(
    snapshot: AnySnapshot, catalog: Catalog, *, do_not_delete: bool, expires: datetime | None
) -> AnySnapshot:
    changes: Changes = {"do_not_delete": do_not_delete, "expires": expires}
    if isinstance(snapshot, Snapshot):
        require_no_part(snapshot, catalog=catalog)
        changed: AnySnapshot | None = catalog.snapshots.change(snapshot.id, only=snapshot.state, **changes)
    else:
        changed = catalog.cluster_snapshots.change(snapshot.id, only=snapshot.state, **changes)
    if changed is None:
        raise SnapshotChanged(f"snapshot {snapshot.id} is not {snapshot.state} any more", hint="look again")
    return changed


def _record_change(snapshot: AnySnapshot, message: str, catalog: Catalog, clock: Clock, actor: str) -> None:
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="snapshot.changed",
        message=message,
        group_id=snapshot.group_id,
        cluster_id=snapshot.cluster_id,
        subject_id=snapshot.id,
        actor=actor,
    )
