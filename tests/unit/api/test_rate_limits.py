"""Limits by caller, group and failed login; memory stays bounded whoever asks."""

from collections.abc import Callable
from typing import Any

import pytest

from ebbtide.api.front import trusted_proxies
from ebbtide.api.rate_limits import Buckets, FailedLogins, Limits
from ebbtide.api.refusals import Refusal
from ebbtide.domain.access import Caller, CallerKind
from ebbtide.domain.access_list import parse_address
from ebbtide.domain.ids import GroupId
from ebbtide.domain.rate_limit import RateLimit
from ebbtide.errors import InvalidSetting
from ebbtide.settings import resolve_settings

HERE, THERE = parse_address("192.0.2.1"), parse_address("192.0.2.2")


def caller(name: str) -> Caller:
    return Caller(kind=CallerKind.API_KEY, id=name, name=name, grants=(), access_list=())


def limits(**flags: Any) -> Limits:
    given = {f"api.{name}": value for name, value in flags.items()}
    return Limits(resolve_settings(flags=given, environment={}, file=None))


def calls_until_refused(call: Callable[[], None], *, at_most: int = 100) -> int:
    for number in range(at_most):
        try:
            call()
        except Refusal:
            return number
    return at_most


def test_one_callers_rush_is_not_anothers() -> None:
    limited = limits(caller_requests_per_minute=3)
    assert calls_until_refused(lambda: limited.admit_caller(caller("a"))) == 3
    with pytest.raises(Refusal) as refused:
        limited.admit_caller(caller("a"))
    limited.admit_caller(caller("b"))
    assert (refused.value.status, refused.value.code) == (429, "RATE_LIMITED")
    assert refused.value.parameters == ("calls of a", "3", "1")
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 20


def test_a_groups_callers_share_its_limit() -> None:
    limited = limits(group_requests_per_minute=5)
    group, other = GroupId("a" * 24), GroupId("b" * 24)
    assert calls_until_refused(lambda: limited.admit_to_group(group)) == 5
    assert calls_until_refused(lambda: limited.admit_to_group(other)) == 5


def test_no_limit_is_none() -> None:
    limited = limits(caller_requests_per_minute=0, group_requests_per_minute=0, failed_logins_per_minute=0)
    assert calls_until_refused(lambda: limited.admit_caller(caller("a"))) == 100
    for _ in range(100):
        limited.failed_logins.note(HERE, "a")
    limited.failed_logins.refuse_guessing(HERE, "a")


def test_guessing_at_a_key_from_one_address_stops_neither_others_nor_its_owner() -> None:
    failed = limits(failed_logins_per_minute=2).failed_logins
    failed.note(HERE, "a")
    failed.refuse_guessing(HERE, "a")
    failed.note(HERE, "a")
    with pytest.raises(Refusal) as refused:
        failed.refuse_guessing(HERE, "a")
    assert (refused.value.status, refused.value.code) == (429, "RATE_LIMITED")
    failed.refuse_guessing(THERE, "a")
    failed.refuse_guessing(HERE, "b")


def test_buckets_refill_with_time() -> None:
    now = [0.0]
    failed = FailedLogins(Buckets(RateLimit(requests=1), now=lambda: now[0]))
    failed.note(HERE, "a")
    assert failed.wait_seconds(HERE, "a") == 60.0
    now[0] = 60.0
    assert failed.wait_seconds(HERE, "a") == 0.0


def test_memory_is_bounded_and_the_busiest_are_remembered() -> None:
    buckets = Buckets(RateLimit(requests=1), buckets_max=10)
    for number in range(1000):
        buckets.take("busy")
        buckets.take(str(number))
    assert len(buckets._buckets) == 10


def test_a_proxy_that_is_no_address_is_a_bad_setting() -> None:
    settings = resolve_settings(flags={"api.trusted_proxies": ["proxy.example"]}, environment={}, file=None)
    with pytest.raises(InvalidSetting, match="trusted_proxies"):
        trusted_proxies(settings)


def test_who_is_refused_takes_no_room() -> None:
    buckets = Buckets(RateLimit(requests=1))
    buckets.take("a")
    before = buckets._buckets["a",]
    buckets.take("a")
    assert before is buckets._buckets["a",]
