"""How often somebody may call: a token bucket of requests, judged before each.

Rules only; whose bucket it is, and how many are remembered, is the API's business. Unlike the buckets of
`domain.bounds`, which make work wait, these refuse: a call that finds its bucket empty takes nothing out of it.
"""

from dataclasses import dataclass

MINUTE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """At most `requests` in any rush, and `requests` a minute for good."""

    requests: int

    @property
    def per_second(self) -> float:
        return self.requests / MINUTE_SECONDS


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """`left` requests were left at the moment `at` (seconds of any steady clock)."""

    left: float
    at: float


def refill(allowance: Allowance | None, limit: RateLimit, *, at: float) -> Allowance:
    """The allowance at the moment `at`; a full one where nothing was asked for yet."""
    if allowance is None:
        return Allowance(left=float(limit.requests), at=at)
    gained = max(0.0, at - allowance.at) * limit.per_second
    return Allowance(left=min(float(limit.requests), allowance.left + gained), at=max(at, allowance.at))


def wait_seconds(allowance: Allowance, limit: RateLimit) -> float:
    """How long until one more request is allowed; 0 where it is now."""
    return max(0.0, (1.0 - allowance.left) / limit.per_second)


def spend(allowance: Allowance) -> Allowance:
    """The allowance after one request."""
    return Allowance(left=allowance.left - 1.0, at=allowance.at)
