"""Access lists and roles (contract, sections 4.3 and 4.4)."""

from datetime import UTC, datetime

import pytest

from ebbtide.domain.access import ApiKey, Grant, Role, is_member, is_owner, may_write
from ebbtide.domain.access_list import (
    AccessEntry,
    find_entry,
    is_address_allowed,
    parse_address,
    parse_network,
)
from ebbtide.domain.ids import GroupId
from ebbtide.domain.sealed import Sealed
from ebbtide.errors import InvalidInput

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HERE, THERE = GroupId("5f0000000000000000000001"), GroupId("5f0000000000000000000002")


def entries(*networks: str) -> tuple[AccessEntry, ...]:
    return tuple(AccessEntry(cidr=parse_network(network), created=NOW) for network in networks)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3", "10.1.2.3/32"),
        (" 10.1.2.0/24 ", "10.1.2.0/24"),
        ("10.1.2.3/32", "10.1.2.3/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::1", "::1/128"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.1.2.0/120", "10.1.2.0/24"),
    ],
)
def test_a_network_has_one_way_to_be_written(text: str, expected: str) -> None:
    assert expected == parse_network(text)
    assert expected == parse_network(expected)


@pytest.mark.parametrize(
    "text", ["", "10.1.2.3/24", "10.1.2", "10.1.2.3/33", "db1", "10.1.2.0/24,10.1.3.0/24"]
)
def test_what_is_no_network_is_bad_input(text: str) -> None:
    with pytest.raises(InvalidInput, match="cidrBlock"):
        parse_network(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10.1.2.3", "10.1.2.3"), ("::ffff:10.1.2.3", "10.1.2.3"), ("::1", "::1"), ("fe80::1%eth0", "fe80::1")],
)
def test_an_address_mapped_into_ipv6_is_the_ipv4_address(text: str, expected: str) -> None:
    assert expected == str(parse_address(text))


@pytest.mark.parametrize(
    ("address", "networks", "required", "expected"),
    [
        ("10.1.2.3", [], False, True),
        ("10.1.2.3", [], True, False),
        ("10.1.2.3", ["10.1.2.3"], True, True),
        ("10.1.2.3", ["10.1.2.3"], False, True),
        ("10.1.2.4", ["10.1.2.3"], False, False),
        ("10.1.2.255", ["10.1.2.0/24"], True, True),
        ("10.1.3.0", ["10.1.2.0/24"], True, False),
        ("::ffff:10.1.2.3", ["10.1.2.0/24"], True, True),
        ("10.1.2.3", ["::ffff:10.1.2.3"], True, True),
        ("::1", ["127.0.0.1"], True, False),
        ("127.0.0.1", ["::1"], True, False),
        ("0.0.0.1", ["::/0"], True, False),
        ("2001:db8::7", ["10.0.0.0/8", "2001:db8::/32"], True, True),
    ],
)
def test_a_list_gates_every_call_and_an_empty_one_what_requires_a_list(
    address: str, networks: list[str], required: bool, expected: bool
) -> None:
    found = is_address_allowed(parse_address(address), iter(entries(*networks)), list_required=required)
    assert expected is found


def test_the_first_entry_that_holds_the_address_is_found() -> None:
    listed = entries("192.0.2.0/24", "10.0.0.0/8", "10.1.0.0/16")
    assert listed[1] == find_entry(parse_address("10.1.2.3"), listed)
    assert find_entry(parse_address("11.1.2.3"), listed) is None


@pytest.mark.parametrize(
    ("role", "group", "member", "write", "owner"),
    [
        (Role.GLOBAL_OWNER, None, True, True, True),
        (Role.GROUP_OWNER, HERE, True, True, True),
        (Role.GROUP_BACKUP_ADMIN, HERE, True, True, False),
        (Role.GROUP_READ_ONLY, HERE, True, False, False),
        (Role.GROUP_OWNER, THERE, False, False, False),
        (Role.GROUP_BACKUP_ADMIN, THERE, False, False, False),
        (Role.GROUP_READ_ONLY, THERE, False, False, False),
        (None, None, False, False, False),
    ],
)
def test_a_role_allows_what_the_contract_says(
    role: Role | None, group: GroupId | None, member: bool, write: bool, owner: bool
) -> None:
    key = ApiKey(
        id="k",
        public_key="abcdefgh",
        description="",
        ha1=Sealed(key_id="", nonce=b"", ciphertext=b""),
        grants=() if role is None else (Grant(role=role, group_id=group),),
        access_list=(),
        created=NOW,
    ).caller
    assert (member, write, owner) == (is_member(key, HERE), may_write(key, HERE), is_owner(key, HERE))
