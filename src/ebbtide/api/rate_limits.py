"""Limits on callers: requests a minute by caller and by group, and failed logins.

Buckets are kept in memory, `BUCKETS_MAX` of each kind at most, the least recently used forgotten first; a forgotten
bucket is a full one again. Each API process counts for itself. Nothing here reads or writes the catalog.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from ebbtide.api.refusals import refusal
from ebbtide.domain.access import Caller
from ebbtide.domain.access_list import Address, site_of
from ebbtide.domain.ids import GroupId
from ebbtide.domain.rate_limit import Allowance, RateLimit, refill, spend, wait_seconds
from ebbtide.settings import Settings

BUCKETS_MAX = 10_000
"""About 4 MB of each kind."""

NAME_LENGTH_MAX = 64
"""Longer than any name that exists: what is made up must not take room."""


class Buckets:
    """One bucket per key. Safe to use from many threads."""

    def __init__(
        self,
        limit: RateLimit,
        *,
        buckets_max: int = BUCKETS_MAX,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self.limit = limit
        self._buckets_max = buckets_max
        self._now = now
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, ...], Allowance] = OrderedDict()

    def wait_seconds(self, *key: str) -> float:
        """How long until the key may ask again; 0 where it may now. Takes nothing."""
        if not self.limit.requests:
            return 0.0
        with self._lock:
            return wait_seconds(self._refilled(key), self.limit)

    def take(self, *key: str) -> float:
        """Take one request out of the key's bucket; where it is empty, only the seconds until it is not."""
        if not self.limit.requests:
            return 0.0
        with self._lock:
            allowance = self._refilled(key)
            wait = wait_seconds(allowance, self.limit)
            if not wait:
                self._keep(key, spend(allowance))
            return wait

    def _refilled(self, key: tuple[str, ...]) -> Allowance:
        return refill(self._buckets.get(key), self.limit, at=self._now())

    def _keep(self, key: tuple[str, ...], allowance: Allowance) -> None:
        self._buckets[key] = allowance
        self._buckets.move_to_end(key)
        while len(self._buckets) > self._buckets_max:
            self._buckets.popitem(last=False)


class FailedLogins:
    """Attempts with wrong credentials, by where they came from and whose they were said to be.

    By both, so that whoever guesses at one key shuts out neither its owner elsewhere nor others at the same address.
    """

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets

    def wait_seconds(self, address: Address, name: str) -> float:
        """How long no attempt is judged; 0 where it is."""
        return self._buckets.wait_seconds(site_of(address), name[:NAME_LENGTH_MAX])

    def refuse_guessing(self, address: Address, name: str) -> None:
        """Raises RATE_LIMITED while attempts are not judged: a right one would tell that it is."""
        _refuse_while(self.wait_seconds(address, name), f"failed logins of {name}", self._buckets.limit)

    def note(self, address: Address, name: str) -> None:
        """An attempt was wrong."""
        self._buckets.take(site_of(address), name[:NAME_LENGTH_MAX])


class Limits:
    """All limits of one API process. A limit of 0 is none."""

    def __init__(self, settings: Settings) -> None:
        self._callers = _buckets(settings, "api.caller_requests_per_minute")
        self._groups = _buckets(settings, "api.group_requests_per_minute")
        self.failed_logins = FailedLogins(_buckets(settings, "api.failed_logins_per_minute"))

    def admit_caller(self, caller: Caller) -> None:
        """Count a call. Raises RATE_LIMITED."""
        _refuse_while(self._callers.take(caller.id), f"calls of {caller.name}", self._callers.limit)

    def admit_to_group(self, group_id: GroupId) -> None:
        """Count a call about a group, by somebody of that group. Raises RATE_LIMITED."""
        _refuse_while(self._groups.take(group_id), f"calls about group {group_id}", self._groups.limit)


def retry_headers(seconds: float) -> dict[str, str]:
    """`Retry-After`, in whole seconds and never too few."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _buckets(settings: Settings, name: str) -> Buckets:
    return Buckets(RateLimit(requests=settings.count(name)))


def _refuse_while(seconds: float, resource: str, limit: RateLimit) -> None:
    if seconds:
        headers = retry_headers(seconds)
        raise refusal("RATE_LIMITED", resource, str(limit.requests), "1", headers=headers)
