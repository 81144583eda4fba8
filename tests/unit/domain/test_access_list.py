"""Where a request comes from, which proxies are believed, and what a list must keep."""

import ipaddress
from datetime import UTC, datetime

import pytest

from ebbtide.domain.access_list import (
    NO_ADDRESS,
    AccessEntry,
    client_address,
    locks_out,
    parse_address,
    parse_network,
    single_address,
    site_of,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


def entries(*networks: str) -> tuple[AccessEntry, ...]:
    return tuple(AccessEntry(cidr=parse_network(network), created=NOW) for network in networks)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["10.1.1.1"], "192.0.2.1"),  # nobody who is trusted says so
        ("10.0.0.1", [], "10.0.0.1"),  # the proxy's own call
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["198.51.100.1", "192.0.2.7"], "192.0.2.7"),  # the first was made up
        ("10.0.0.1", ["192.0.2.7", "10.0.0.2"], "192.0.2.7"),  # through two proxies
        ("10.0.0.1", ["10.9.9.9", "192.0.2.7", "10.0.0.2"], "192.0.2.7"),
        ("10.0.0.1", ["10.0.0.3", "10.0.0.2"], "10.0.0.3"),  # a call from inside
        ("::ffff:10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", ["::ffff:192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["nonsense"], str(NO_ADDRESS)),
        ("10.0.0.1", [""], str(NO_ADDRESS)),
        ("10.0.0.1", ["192.0.2.7:443"], str(NO_ADDRESS)),
        ("10.0.0.1", ["192.0.2.7", "unknown"], str(NO_ADDRESS)),
    ],
)
def test_a_forwarded_address_counts_as_far_as_trusted_proxies_vouch_for_it(
    peer: str, forwarded: list[str], expected: str
) -> None:
    assert expected == str(client_address(parse_address(peer), forwarded, TRUSTED))


@pytest.mark.parametrize("forwarded", [[], ["127.0.0.1"], ["nonsense"]])
def test_without_trusted_proxies_nothing_forwarded_is_believed(forwarded: list[str]) -> None:
    assert str(client_address(parse_address("192.0.2.1"), forwarded, ())) == "192.0.2.1"


@pytest.mark.parametrize(
    ("networks", "without", "expected"),
    [
        (["10.1.2.3"], "10.1.2.3/32", True),  # an empty list would open to everybody
        (["10.1.2.3", "10.0.0.0/8"], "10.1.2.3/32", False),
        (["10.1.2.3", "192.0.2.0/24"], "192.0.2.0/24", False),
        (["10.1.2.3", "192.0.2.0/24"], "10.1.2.3/32", True),
    ],
)
def test_a_caller_cannot_be_locked_out_by_itself(networks: list[str], without: str, expected: bool) -> None:
    assert expected is locks_out(parse_address("10.1.2.3"), entries(*networks), without=without)


def test_a_network_of_one_address_is_told_as_one() -> None:
    assert [single_address(cidr) for cidr in ("10.1.2.3/32", "10.1.2.0/31", "::1/128", "2001:db8::/32")] == [
        "10.1.2.3",
        None,
        "::1",
        None,
    ]


def test_attempts_are_counted_by_address_or_by_ipv6_site() -> None:
    assert site_of(parse_address("::ffff:192.0.2.1")) == "192.0.2.1"
    assert site_of(parse_address("2001:db8::1")) == site_of(parse_address("2001:db8::ffff:1"))
    assert site_of(parse_address("2001:db8::1")) != site_of(parse_address("2001:db8:0:1::1"))
