"""Keeping the balancer of a sharded cluster stopped for one job, and putting it back as it was found.

What was found is in the catalog (`BalancerHold`) before the balancer is stopped, and is forgotten only after it was put
back. The config server is asked as the server's own user, with the cluster's keyfile.

Crash: the balancer may be off, and the hold says how it was found. The job's next attempt goes on with it; where there
is none, `release_abandoned` puts it back.
"""

from collections.abc import Callable, Mapping

import structlog

from ebbtide.backup.context import BackupContext
from ebbtide.crash_points import reach
from ebbtide.domain.balancer_hold import (
    BalancerHold,
    HeldElsewhere,
    Holding,
    NoteFirst,
    decide_balancer,
    is_abandoned,
)
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.sharding import BalancerMode
from ebbtide.errors import EbbtideError, HeadUnavailable
from ebbtide.events import record_event
from ebbtide.jobs.runner import JobPaused
from ebbtide.mongod import sharding

LOOK_SECONDS = 2.0
"""How long the server may wait in one command, so that the job hears of it when it is to stop."""

ANSWER_SECONDS = 5.0

_log = structlog.get_logger()


def hold_balancer(
    cluster: Cluster, config: sharding.Client, *, holder: str, context: BackupContext
) -> BalancerMode | None:
    """See to it that the cluster's balancer is stopped, or about to be, for the job `holder`.

    Returns what was found where nobody held it until now, None where the job had it already. Raises JobPaused while
    another job holds it.
    """
    holds = context.catalog.balancer_holds
    mode = sharding.balancer_status(config).mode
    decided = decide_balancer(holds.find(cluster.id), holder=holder, mode=mode)
    found = None
    if isinstance(decided, NoteFirst):
        found = decided.found
        taken = BalancerHold(id=cluster.id, holder=holder, found=found, since=context.clock.now())
        # Another job may have been quicker.
        held = taken if holds.take(taken) else holds.find(cluster.id)
        reach("cluster_snapshot.balancer_noted")
        decided = decide_balancer(held, holder=holder, mode=mode)
    match decided:
        case HeldElsewhere(holder=other):
            raise JobPaused(f"the balancer of {cluster.name} is kept stopped for {other}")
        case NoteFirst():
            raise HeadUnavailable(f"the balancer of {cluster.name} was let go while it was to be held")
        case Holding(must_stop=True):
            sharding.stop_balancer(config, clock=context.clock, timeout_seconds=LOOK_SECONDS)
    return found


def wait_for_rest(
    config: sharding.Client,
    shards: Mapping[str, sharding.Client],
    *,
    must_stop: bool,
    context: BackupContext,
    timeout_seconds: float,
    check: Callable[[], None],
) -> bool:
    """Wait until no range is being moved; whether that was so before the deadline. `check` raises to end it."""
    deadline = context.clock.monotonic() + timeout_seconds
    is_stopped = not must_stop
    while True:
        check()
        if not is_stopped:
            is_stopped = sharding.stop_balancer(config, clock=context.clock, timeout_seconds=LOOK_SECONDS)
        if is_stopped and not sharding.wait_for_migrations(
            shards, clock=context.clock, timeout_seconds=LOOK_SECONDS
        ):
            return True
        if context.clock.monotonic() >= deadline:
            return False


def release_balancer(
    cluster: Cluster, *, holder: str, context: BackupContext, timeout_seconds: float = ANSWER_SECONDS
) -> None:
    """Put the balancer back as the job `holder` found it; harmless where that job holds none.

    Raises Unreachable, DeploymentError, SealBroken: then the hold stays.
    """
    hold = context.catalog.balancer_holds.find(cluster.id)
    if hold is None or hold.holder != holder:
        return
    if hold.found.moves_chunks:
        with context.access(cluster).system_client(timeout_seconds=timeout_seconds) as config:
            sharding.restore_balancer(config, hold.found)
        reach("cluster_snapshot.balancer_restored")
    context.catalog.balancer_holds.forget(cluster.id, holder=holder)


def release_abandoned(context: BackupContext) -> None:
    """Put back every balancer whose job is over. One that cannot be reached is tried again the next time."""
    for hold in context.catalog.balancer_holds.list_all():
        if not is_abandoned(hold, context.catalog.jobs.find(hold.holder)):
            continue
        cluster = context.catalog.clusters.find(hold.id)
        if cluster is None or cluster.keyfile is None or cluster.is_detached:
            _let_go(hold, cluster, context)
            continue
        try:
            release_balancer(cluster, holder=hold.holder, context=context)
            _tell(
                cluster,
                EventLevel.INFO,
                "balancer.put_back",
                f"the balancer of {cluster.name} is as it was found ({hold.found})",
                context,
            )
        except EbbtideError as error:
            _log.warning("balancer.left_off", cluster_id=cluster.id, message=str(error))


def is_held(cluster_id: ClusterId, context: BackupContext) -> bool:
    """Whether a job keeps the balancer stopped, or it is still to be put back."""
    return context.catalog.balancer_holds.find(cluster_id) is not None


def _let_go(hold: BalancerHold, cluster: Cluster | None, context: BackupContext) -> None:
    """Nobody may ask that cluster any more: what is left is to say so."""
    context.catalog.balancer_holds.forget(hold.id, holder=hold.holder)
    if cluster is None or not hold.found.moves_chunks:
        return
    tell_left_off(cluster, "before the cluster was let go: nobody tries again", context)


def tell_left_off(cluster: Cluster, why: str, context: BackupContext) -> None:
    """An event: the cluster's balancer is not as it was found."""
    _tell(
        cluster,
        EventLevel.ERROR,
        "balancer.left_off",
        f"the balancer of {cluster.name} could not be put back {why}; sh.startBalancer() on a router starts it",
        context,
    )


def _tell(cluster: Cluster, level: EventLevel, kind: str, message: str, context: BackupContext) -> None:
    record_event(
        context.catalog,
        context.clock,
        level=level,
        kind=kind,
        message=message,
        group_id=cluster.group_id,
        cluster_id=cluster.id,
    )
