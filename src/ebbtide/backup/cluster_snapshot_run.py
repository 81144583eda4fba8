"""Taking one snapshot of a sharded cluster: its balancer rests while each part's ordinary snapshot is taken.

    prepare   the parts that the cluster has now are matched with the registered ones; versions are checked
    balancer  how it was found is written down; it is stopped; running migrations are waited for, up to a deadline
    parts     the parts' snapshots are asked for, with ids that were written down first, and waited for
    time      every part's oplog passes one cluster time
    restart   the balancer is put back as it was found
    record    the catalog lists the snapshot as complete

This job only waits; the work is in the parts' own jobs. However an attempt ends, it puts the balancer back, and where
it cannot, tidying does (`cluster_snapshot_tidying`). A later attempt goes on with the same parts; where the balancer
ran between two attempts, the snapshot says that it is possibly inconsistent.
"""

from collections.abc import Callable
from contextlib import ExitStack

import structlog

from ebbtide.backup.archive_wait import ArchiveBehind
from ebbtide.backup.balancer_hold import (
    hold_balancer,
    release_balancer,
    tell_left_off,
    wait_for_rest,
)
from ebbtide.backup.cluster_snapshot_parts import PartsWatch, abandon_parts
from ebbtide.backup.context import BackupContext
from ebbtide.backup.open_work import OpenWorkCarry
from ebbtide.backup.requesting import HeadNotReady, SnapshotInProgress, request_snapshot
from ebbtide.crash_points import reach
from ebbtide.domain.balancer_hold import BalancerHold
from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.cluster_snapshot import (
    ClusterSnapshot,
    PartsComplete,
    PartSnapshot,
    PartsWait,
    label,
    match_parts,
)
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import SnapshotId, new_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.retention import expires_after
from ebbtide.domain.sharding import check_versions
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import EbbtideError, HeadUnavailable, NotFound, Refused, SnapshotUnusable, Unreachable
from ebbtide.events import record_event
from ebbtide.jobs.runner import Ending, JobRun, Step
from ebbtide.mongod import sharding
from ebbtide.mongod.deployment import DeploymentError
from ebbtide.oplog.archive import OplogArchive

LOOK_SECONDS = 0.5

_log = structlog.get_logger()


class PartFailed(Refused):
    """The snapshot of one part came to nothing, so that of the cluster cannot be complete."""


class ClusterSnapshotRun:
    """One attempt at one snapshot of a sharded cluster. `steps` and `ending` are for the runner."""

    def __init__(self, run: JobRun, *, context: BackupContext) -> None:
        self._run = run
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        snapshot = context.catalog.cluster_snapshots.find(SnapshotId(run.job.subject_id))
        cluster = context.catalog.clusters.find(run.job.cluster_id)
        if snapshot is None or cluster is None:
            raise NotFound(f"snapshot {run.job.subject_id} or its cluster is not in the catalog")
        self._snapshot: ClusterSnapshot = snapshot
        self._cluster: Cluster = cluster
        self._clients = ExitStack()
        self._config: sharding.Client | None = None
        self._shards: dict[str, sharding.Client] = {}
        self._parts: tuple[Cluster, ...] = ()

    def steps(self) -> list[Step]:
        if self._snapshot.state is not SnapshotState.IN_PROGRESS:
            # An attempt before this one came to the end, and died before it could say so.
            return [Step(name="restart", run=self._put_back)]
        return [
            Step(name="prepare", run=self._prepare),
            Step(name="balancer", run=self._stop_balancer),
            Step(name="parts", run=self._take_parts),
            Step(name="time", run=self._note_time),
            Step(name="restart", run=self._put_back),
            Step(name="open work", run=self._keep_open_work),
            Step(name="record", run=self._record),
        ]

    def ending(self) -> Ending:
        return Ending(
            always=self._clean_up,
            gave_up=self._give_up,
            cancelled=lambda: self._give_up("cancelled by a person"),
        )

    # --- steps ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Crash: nothing is left but what was there before."""
        if self._cluster.state is not ClusterState.ACTIVE:
            raise Refused(f"{self._cluster.name} is being removed")
        config = self._connect(self._cluster)
        topology = sharding.read_topology(config)
        registered = [
            part
            for part in self._catalog.clusters.list_parts(self._cluster.id)
            if part.state is ClusterState.ACTIVE
        ]
        matched = match_parts(topology, registered)
        if matched.missing:
            raise HeadUnavailable(
                f"{', '.join(matched.missing)} of {self._cluster.name} has no head yet, so no snapshot of the "
                "cluster would be whole"
            )
        self._config, self._parts = config, matched.present
        self._shards = {
            part.shard_name or part.name: self._connect(part)
            for part in matched.present
            if not part.is_config_server
        }
        check_versions(sharding.read_versions({"the config server": config, **self._shards}))

    def _stop_balancer(self) -> None:
        """Crash: the balancer may be off, and the catalog says how it was found."""
        config = self._require_config()
        self._run.check_owner()
        found = hold_balancer(self._cluster, config, holder=self._run.job.id, context=self._context)
        hold = self._hold()
        if found is not None and found.moves_chunks and self._snapshot.parts:
            self._change(is_possibly_inconsistent=True)
        timeout = self._context.settings.number("cluster_snapshot.migration_wait_seconds")
        rests = wait_for_rest(
            config,
            self._shards,
            must_stop=hold.found.moves_chunks,
            context=self._context,
            timeout_seconds=timeout,
            check=self._run.check,
        )
        if not rests:
            self._change(is_possibly_inconsistent=True)
            self._event(
                EventLevel.WARNING,
                "snapshot.migration_running",
                f"chunks of {self._cluster.name} were still being moved after {timeout:.0f} s: the parts of "
                f"snapshot {self._snapshot.id} are taken meanwhile",
            )
        reach("cluster_snapshot.balancer_stopped")

    def _take_parts(self) -> None:
        """Crash: the parts' own jobs go on; the next attempt waits for them."""
        if not self._snapshot.parts:
            self._change(parts=tuple(_plan_part(part) for part in self._parts))
        reach("cluster_snapshot.parts_planned")
        wait_seconds = 60 * self._context.settings.number("cluster_snapshot.wait_minutes")
        watch = PartsWatch(self._snapshot.parts, catalog=self._catalog, clock=self._clock)
        self._run.progress.phase("parts", total=len(self._snapshot.parts), unit="parts")
        told = 0
        while True:
            self._run.check()
            waits = self._request_parts()
            match watch.look():
                case PartsComplete():
                    self._run.progress.advance(len(self._snapshot.parts) - told)
                    return
                case PartsWait(done=done):
                    self._run.progress.advance(done - told)
                    told = done
                case failed:
                    raise PartFailed(failed.reason)
            if watch.stands_still_seconds() > wait_seconds:
                why = "; ".join(waits or watch.waiting_reasons()) or "no reason is known"
                raise PartFailed(f"no part's snapshot went on for {wait_seconds / 60:g} minutes: {why}")
            self._clock.sleep(LOOK_SECONDS)

    def _note_time(self) -> None:
        """Crash: a no-op in some parts' oplogs more; the next attempt notes another time."""
        by_name = {label(_plan_part(part)): part for part in self._parts}
        clients = dict(zip(by_name, (self._client_of(part) for part in by_name.values()), strict=True))
        noted = sharding.note_cluster_time(clients, note=f"snapshot {self._snapshot.id}")
        reach("cluster_snapshot.time_noted")
        self._require_before(noted)
        self._change(cluster_time=noted)
        for part in self._parts:
            self._catalog.archives.want(part.id, noted)

    def _put_back(self) -> None:
        """Crash: the balancer is as it was found, and the catalog may still say that it is held."""
        self._run.check_owner()
        release_balancer(self._cluster, holder=self._run.job.id, context=self._context)

    def _keep_open_work(self) -> None:
        """Have every part's archive tell what was open at its beginning: without that no moment of it can be chosen.

        What cannot be had now is kept by the archives' upkeep later. Crash: a record more.
        """
        for part in self._parts:
            store = self._context.repository.replica_set(part.id, part.replica_set_name)
            carry = OpenWorkCarry(part, OplogArchive(store), self._context, check=self._run.check)
            try:
                carry.keep()
            except (ArchiveBehind, Unreachable, DeploymentError) as error:
                _log.info("oplog.open_work_waits", cluster_id=part.id, message=error.message)

    def _record(self) -> None:
        """Crash after it: the job is claimed once more, finds everything done, and ends."""
        now = self._clock.now()
        asked = self._catalog.cluster_snapshots.find(self._snapshot.id) or self._snapshot
        expires = asked.expires
        if expires is None and not asked.do_not_delete:
            days = self._catalog.schedules.get(self._cluster).retention_days
            expires = expires_after(now, retention_days=days)
        self._change(state=SnapshotState.COMPLETE, completed=now, expires=expires, message="")
        reach("cluster_snapshot.completed")
        self._event(
            EventLevel.INFO,
            "snapshot.complete",
            f"snapshot {self._snapshot.id} of the sharded cluster {self._cluster.name} is complete, "
            f"with {len(self._snapshot.parts)} parts",
        )

    # --- what the steps are made of ---------------------------------------------------------------------------------

    def _request_parts(self) -> list[str]:
        """Ask for those parts' snapshots that were not asked for yet; why some cannot be begun now."""
        waits = []
        known = self._catalog.snapshots.find_many(part.snapshot_id for part in self._snapshot.parts)
        wanted = [part for part in self._snapshot.parts if part.snapshot_id not in known]
        for part in wanted:
            try:
                self._request_part(part)
            except (SnapshotInProgress, HeadNotReady) as refused:
                # One that somebody else asked for is waited for: it is not ours, and may be of before.
                waits.append(str(refused))
        if wanted and not waits:
            reach("cluster_snapshot.parts_requested")
        return waits

    def _request_part(self, part: PartSnapshot) -> None:
        cluster = self._catalog.clusters.find(part.cluster_id)
        if cluster is None:
            raise PartFailed(f"{label(part)} is not registered any more")
        request_snapshot(
            cluster,
            catalog=self._catalog,
            clock=self._clock,
            actor=f"snapshot {self._snapshot.id}",
            snapshot_id=part.snapshot_id,
            cluster_snapshot_id=self._snapshot.id,
        )

    def _require_before(self, noted: OplogTimestamp) -> None:
        """Each part opens at or before the noted time, or it could not be brought to a point before it."""
        snapshots = self._catalog.snapshots.find_many(part.snapshot_id for part in self._snapshot.parts)
        for part in self._snapshot.parts:
            stable = snapshots[part.snapshot_id].stable_timestamp
            if stable is None or stable > noted:
                raise SnapshotUnusable(f"the snapshot of {label(part)} is later than the time that was noted")

    def _connect(self, cluster: Cluster) -> sharding.Client:
        return self._clients.enter_context(self._context.access(cluster).system_client())

    def _require_config(self) -> sharding.Client:
        if self._config is None:
            raise SnapshotUnusable("the config server was not connected")
        return self._config

    def _client_of(self, part: Cluster) -> sharding.Client:
        return self._require_config() if part.is_config_server else self._shards[part.shard_name or part.name]

    def _hold(self) -> BalancerHold:
        hold = self._catalog.balancer_holds.find(self._cluster.id)
        if hold is None or hold.holder != self._run.job.id:
            raise HeadUnavailable(f"the balancer of {self._cluster.name} was let go meanwhile")
        return hold

    def _change(self, **changes: object) -> None:
        """Change the record. Raises SnapshotUnusable where it is not in progress any more."""
        self._run.check_owner()
        changed = self._catalog.cluster_snapshots.update(self._snapshot.id, **changes)
        if changed is None:
            raise PartFailed(f"snapshot {self._snapshot.id} is not in progress any more")
        self._snapshot = changed

    # --- endings ----------------------------------------------------------------------------------------------------

    def _clean_up(self) -> None:
        """Whatever happened: the balancer is put back, unless the job is another worker's now."""
        self._quietly(self._put_back)
        self._clients.close()

    def _give_up(self, reason: str) -> None:
        self._quietly(self._put_back)
        hold = self._catalog.balancer_holds.find(self._cluster.id)
        if hold is not None and hold.holder == self._run.job.id and hold.found.moves_chunks:
            tell_left_off(self._cluster, "yet: it is tried again every few seconds", self._context)
        failed = self._catalog.cluster_snapshots.update(
            self._snapshot.id, state=SnapshotState.FAILED, message=reason
        )
        if failed is None:
            return
        abandon_parts(failed, catalog=self._catalog, clock=self._clock)
        self._event(
            EventLevel.ERROR,
            "snapshot.failed",
            f"snapshot {self._snapshot.id} of the sharded cluster {self._cluster.name} failed: {reason}",
        )

    def _quietly(self, action: Callable[[], None]) -> None:
        """The hold stays where this fails, and tidying tries again."""
        try:
            action()
        except EbbtideError as error:
            _log.warning("balancer.not_put_back", cluster_id=self._cluster.id, message=str(error))

    def _event(self, level: EventLevel, kind: str, message: str) -> None:
        record_event(
            self._catalog,
            self._clock,
            level=level,
            kind=kind,
            message=message,
            group_id=self._cluster.group_id,
            cluster_id=self._cluster.id,
            subject_id=self._snapshot.id,
        )


def _plan_part(part: Cluster) -> PartSnapshot:
    return PartSnapshot(
        cluster_id=part.id,
        snapshot_id=SnapshotId(new_id()),
        shard_name=part.shard_name,
        is_config_server=part.is_config_server,
        replica_set_name=part.replica_set_name,
    )
