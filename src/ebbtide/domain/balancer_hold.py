"""Who keeps the balancer of a sharded cluster stopped, and how it was found. Pure.

A hold is written down before the balancer is stopped, once, and forgotten only after it was put back. So whoever finds
a hold whose holder is gone knows what to put back, and nobody takes a balancer that we stopped for one that its owner
stopped. There is one hold for each cluster: two that would stop its balancer wait for each other.
"""

from dataclasses import dataclass
from datetime import datetime

from ebbtide.domain.ids import ClusterId
from ebbtide.domain.job import Job, JobState
from ebbtide.domain.sharding import BalancerMode


@dataclass(frozen=True, kw_only=True)
class BalancerHold:
    """`id` is the sharded cluster's, `holder` the id of the job for which the balancer is kept stopped."""

    id: ClusterId
    holder: str
    found: BalancerMode
    since: datetime


@dataclass(frozen=True)
class NoteFirst:
    """Nobody holds it: write down what was found, then do as `Holding` says."""

    found: BalancerMode


@dataclass(frozen=True)
class Holding:
    """It is held for us. `must_stop`: see to it that it is stopped; what moves no chunks is left alone."""

    must_stop: bool


@dataclass(frozen=True)
class HeldElsewhere:
    """Another job holds it: wait until that has put it back."""

    holder: str


def decide_balancer(
    hold: BalancerHold | None, *, holder: str, mode: BalancerMode
) -> NoteFirst | Holding | HeldElsewhere:
    """What the job `holder` has to do before it may count on a balancer that rests; `mode` is what it does now.

    With a hold of our own `mode` says nothing: the one that is off was stopped by an attempt before this one, and one
    that is on was put on by somebody, or was never stopped because the attempt died too early.
    """
    if hold is None:
        return NoteFirst(mode)
    if hold.holder != holder:
        return HeldElsewhere(hold.holder)
    return Holding(must_stop=hold.found.moves_chunks)


def is_abandoned(hold: BalancerHold, job: Job | None) -> bool:
    """Whether nobody but tidying will put the balancer back: `job`, its holder's, is over or gone."""
    return job is None or job.id != hold.holder or job.state not in (JobState.QUEUED, JobState.RUNNING)
