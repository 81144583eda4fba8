"""What deletes documents by their age: TTL indexes, and the expiry of clustered collections and time series.

It is put there last of all, after the comparison: the target's TTL monitor wakes up every minute, and a restore of last
month's data would lose what has expired since before anybody had compared it. From then on the target deletes what
has expired, as the source would have done by now: whoever restores in order to get such documents back leaves this
step out, and restores the collections that they want without it.

Crash: some are there. Doing it again adds the rest.
"""

from collections.abc import Callable

from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.load.indexes import run_builds
from ebbtide.restore.load.inventory import BUCKETS, Client
from ebbtide.restore.load.patience import MAJORITY, acknowledged, persist
from ebbtide.restore.load.plan import LoadPlan, PlannedCollection


def start_expiry(
    target: Client,
    plan: LoadPlan,
    *,
    check: Callable[[], None],
    on_built: Callable[[str, int], None] = lambda _namespace, _count: None,
) -> None:
    """Build the plan's TTL indexes, and set the expiry of its collections; views must be there.

    Raises Unreachable, DeploymentError, and what `check` raises.
    """
    expiring = [planned for planned in plan.collections if planned.expiring_indexes]
    with translated_errors("starting expiry"):
        run_builds(
            target,
            ((planned, planned.expiring_indexes) for planned in expiring),
            check=check,
            on_built=on_built,
        )
        for planned in plan.collections:
            if planned.expire_after_seconds is not None:
                check()
                persist(lambda planned=planned: _set_expiry(target, planned), check=check)  # type: ignore[misc]


def _set_expiry(target: Client, planned: PlannedCollection) -> None:
    database, name = planned.target
    # A time series is changed under the name that people use.
    acknowledged(
        target[database].command(
            "collMod",
            name.removeprefix(BUCKETS),
            expireAfterSeconds=planned.expire_after_seconds,
            writeConcern=MAJORITY,
        )
    )
