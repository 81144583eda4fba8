"""Taking checkpoints of sharded clusters: a token in every part's oplog, and what it restores to once that is archived.

    note      one cluster time is noted on every part that the cluster has now; a part without a head, or one that does
              not answer, is waited for
    settle    once all archives have their token, the latest consistent point up to the cluster time is found
    judge     whether a base snapshot of every part leads there, again and again: snapshots come and go

The balancer runs meanwhile: a cut through a migration loses nothing (docs/sharded-consistency.md).

Crash: the next run goes on with what the catalog says. Notes of which the catalog does not know are written once more,
at a later time; a note changes no data.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

from ebbtide.backup.consistent_points import find_consistent_point
from ebbtide.backup.context import BackupContext
from ebbtide.crash_points import reach
from ebbtide.domain.archive_state import recorded_ranges
from ebbtide.domain.checkpoint import (
    NOT_BEGUN_AFTER,
    Archived,
    Checkpoint,
    CheckpointPart,
    CheckpointState,
    Lost,
    PartView,
    Waiting,
    is_forgotten,
    judge_bases,
    judge_tokens,
)
from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.cluster_snapshot import match_parts
from ebbtide.domain.consistent_point import ConsistentPoint, NoConsistentPoint
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.oplog import OplogGapError
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.sharding import check_versions
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.errors import EbbtideError, HeadUnavailable, IntegrityError, ObjectNotFound, Refused
from ebbtide.events import record_event
from ebbtide.mongod import sharding

ANSWER_SECONDS = 5.0
"""So long a part that does not answer holds up the checkpoints of others; it is asked again soon."""


class CheckpointTaking:
    """One run over the checkpoints of one cluster: what the catalog knows of its parts is read once. For one thread."""

    def __init__(self, cluster_id: ClusterId, context: BackupContext, *, check: Callable[[], None]) -> None:
        """`check` is called now and then, and may raise."""
        self._cluster_id = cluster_id
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._check = check
        self._views: dict[ClusterId, PartView] = {}

    # --- note -----------------------------------------------------------------------------------------------------

    def note(self, checkpoint: Checkpoint) -> None:
        """Give every part its token. What is in the way is the checkpoint's message, and for too long its failure.

        Crash: a no-op in some parts' oplogs more.
        """
        try:
            cluster_time, parts = self._note_tokens()
        except EbbtideError as error:
            self._check()
            if self._clock.now() - checkpoint.created > NOT_BEGUN_AFTER:
                self._fail(
                    checkpoint, f"for {_minutes(NOT_BEGUN_AFTER)} not every part could be noted: {error}"
                )
            else:
                self._say(checkpoint, f"waits: {error}")
            return
        reach("checkpoint.noted")
        self._change(
            checkpoint,
            state=CheckpointState.NOTED,
            cluster_time=cluster_time,
            parts=parts,
            completed=self._clock.now(),
            message="waits for the oplog archives of all parts",
        )

    def _note_tokens(self) -> tuple[OplogTimestamp, tuple[CheckpointPart, ...]]:
        cluster = self._catalog.clusters.find(self._cluster_id)
        if cluster is None or cluster.state is not ClusterState.ACTIVE:
            raise Refused("the cluster is not backed up any more")
        with ExitStack() as stack:

            def connect(part: Cluster) -> sharding.Client:
                return stack.enter_context(
                    self._context.access(part).system_client(timeout_seconds=ANSWER_SECONDS)
                )

            config = connect(cluster)
            parts = self._present_parts(cluster, config)
            clients = {part.name: connect(part) for part in parts}
            check_versions(sharding.read_versions(clients))
            cluster_time, tokens = sharding.note_tokens(clients, note="checkpoint")
            if self._present_parts(cluster, config) != parts:
                raise HeadUnavailable(f"{cluster.name} got, or lost, a shard meanwhile")
        return cluster_time, tuple(_part(part, tokens[part.name]) for part in parts)

    def _present_parts(self, cluster: Cluster, config: sharding.Client) -> tuple[Cluster, ...]:
        """The parts that the cluster has now, each of which has a head. Raises HeadUnavailable where one has none."""
        registered = self._catalog.clusters.list_parts(cluster.id)
        active = [part for part in registered if part.state is ClusterState.ACTIVE]
        matched = match_parts(sharding.read_topology(config), active)
        if matched.missing:
            raise HeadUnavailable(
                f"{', '.join(matched.missing)} of {cluster.name} is not backed up yet, so no moment of the cluster "
                "would be whole"
            )
        return matched.present

    # --- settle ---------------------------------------------------------------------------------------------------

    def settle(self, checkpoint: Checkpoint) -> bool:
        """Look whether the archives have all tokens, and find out what it restores to then.

        False where archives were read in vain: it is not known yet.
        """
        match judge_tokens(checkpoint, self._views_of(checkpoint)):
            case Lost(reason):
                self._fail(checkpoint, reason)
            case Waiting(parts, reason):
                for part in parts:
                    self._catalog.archives.want(part.cluster_id, part.token)
                if (parts, reason) != (checkpoint.parts, checkpoint.message):
                    self._change(checkpoint, parts=parts, message=reason)
            case Archived(parts):
                return self._find_point(checkpoint, parts)
        return True

    def _find_point(self, checkpoint: Checkpoint, parts: tuple[CheckpointPart, ...]) -> bool:
        if checkpoint.cluster_time is None:
            raise ValueError(f"checkpoint {checkpoint.id} has tokens and no cluster time")
        known = [self._catalog.clusters.find(part.cluster_id) for part in parts]
        clusters = [cluster for cluster in known if cluster is not None]
        if len(clusters) < len(parts):
            self._fail(checkpoint, "the catalog does not know all of its parts any more")
            return True
        try:
            found = find_consistent_point(
                clusters,
                at_most=checkpoint.cluster_time,
                context=self._context,
                check=self._check,
            )
        except IntegrityError as error:
            self._fail(checkpoint, error.message)
            return True
        except (OplogGapError, ObjectNotFound) as error:
            # An archive is being trimmed.
            return self._read_in_vain(checkpoint, parts, error.message)
        match found:
            case NoConsistentPoint(reason=reason):
                return self._read_in_vain(checkpoint, parts, f"there is no consistent point: {reason}")
            case ConsistentPoint(timestamp=timestamp):
                # In one change: nobody shall see it complete, and not restorable for a moment.
                reason = judge_bases(
                    replace(checkpoint, parts=parts, restores_to=timestamp), self._views_of(checkpoint)
                )
                self._change(
                    checkpoint,
                    parts=parts,
                    state=CheckpointState.COMPLETE,
                    restores_to=timestamp,
                    restorable=not reason,
                    message=reason,
                )
                return True

    def _read_in_vain(self, checkpoint: Checkpoint, parts: tuple[CheckpointPart, ...], reason: str) -> bool:
        """What an archive tells of its beginning may come yet."""
        if self._clock.now() - (checkpoint.completed or checkpoint.created) > NOT_BEGUN_AFTER:
            self._fail(checkpoint, reason)
        else:
            self._change(checkpoint, parts=parts, message=f"waits: {reason}")
        return False

    # --- judge ----------------------------------------------------------------------------------------------------

    def judge(self, checkpoint: Checkpoint) -> None:
        """Say whether a complete checkpoint can be restored now."""
        reason = judge_bases(checkpoint, self._views_of(checkpoint))
        if (checkpoint.restorable, checkpoint.message) != (not reason, reason):
            self._change(checkpoint, restorable=not reason, message=reason)

    def forget(self, checkpoint: Checkpoint) -> bool:
        """Forget a checkpoint that lies before the cluster's window; whether it did.

        That of the newest slot stays while there may be another one: or the slot would be due again.
        """
        cluster = self._catalog.clusters.find(self._cluster_id)
        if cluster is None:
            return False
        if cluster.state is ClusterState.ACTIVE and self._is_of_newest_slot(checkpoint):
            return False
        window = timedelta(hours=self._catalog.schedules.get(cluster).point_in_time_window_hours)
        if not is_forgotten(checkpoint, window_start=self._clock.now() - window):
            return False
        self._catalog.checkpoints.delete(checkpoint.id)
        return True

    def _is_of_newest_slot(self, checkpoint: Checkpoint) -> bool:
        slot = checkpoint.scheduled_for
        return slot is not None and slot == self._catalog.checkpoints.newest_slot(checkpoint.cluster_id)

    # --- catalog --------------------------------------------------------------------------------------------------

    def _views_of(self, checkpoint: Checkpoint) -> dict[ClusterId, PartView]:
        for part in checkpoint.parts:
            if part.cluster_id not in self._views:
                state = self._catalog.archives.find(part.cluster_id)
                self._views[part.cluster_id] = PartView(
                    ranges=() if state is None else recorded_ranges(state),
                    snapshots=self._catalog.snapshots.list_in_state(part.cluster_id, SnapshotState.COMPLETE),
                )
        return self._views

    def _change(self, checkpoint: Checkpoint, **changes: object) -> Checkpoint | None:
        return self._catalog.checkpoints.change(checkpoint.id, only=checkpoint.state, **changes)

    def _say(self, checkpoint: Checkpoint, message: str) -> None:
        if message != checkpoint.message:
            self._change(checkpoint, message=message)

    def _fail(self, checkpoint: Checkpoint, reason: str) -> None:
        if self._change(checkpoint, state=CheckpointState.FAILED, message=reason) is None:
            return
        record_event(
            self._catalog,
            self._clock,
            level=EventLevel.WARNING,
            kind="checkpoint.failed",
            message=f"checkpoint {checkpoint.id} of {checkpoint.cluster_name} cannot be restored: {reason}",
            group_id=checkpoint.group_id,
            cluster_id=checkpoint.cluster_id,
            subject_id=checkpoint.id,
        )


def _part(part: Cluster, token: OplogTimestamp) -> CheckpointPart:
    return CheckpointPart(
        cluster_id=part.id,
        name=part.name,
        replica_set_name=part.replica_set_name,
        shard_name=part.shard_name,
        is_config_server=part.is_config_server,
        token=token,
    )


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:g} minutes"
