"""Who may do what: API keys, their grants, and the addresses they may call from.

Rules only; where a request comes from and what it carries is the API's business.
Sources: contract sections 4.3 (access list) and 4.4 (roles).
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ebbtide.domain.ids import GroupId
from ebbtide.domain.sealed import Sealed
from ebbtide.errors import InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Role(StrEnum):
    """What a key may do; names are the API's."""

    GLOBAL_OWNER = "GLOBAL_OWNER"  # everything in every group
    GROUP_OWNER = "GROUP_OWNER"  # everything in one group
    GROUP_BACKUP_ADMIN = "GROUP_BACKUP_ADMIN"  # backups and restores of one group
    GROUP_READ_ONLY = "GROUP_READ_ONLY"  # look, never download


@dataclass(frozen=True, kw_only=True)
class Grant:
    """One role; `group_id` is None for a global role."""

    role: Role
    group_id: GroupId | None


@dataclass(frozen=True, kw_only=True)
class AccessEntry:
    """One network that a key may be used from, and when it last was. `cidr` is normalised by `parse_network`."""

    cidr: str
    created: datetime
    last_used: datetime | None = None
    last_used_address: str | None = None
    count: int = 0


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A public/private key pair. Only the digest hash HA1 of the private key is kept, and that sealed."""

    id: str
    public_key: str
    description: str
    ha1: Sealed
    grants: tuple[Grant, ...]
    access_list: tuple[AccessEntry, ...]
    created: datetime
    owner: bool = False


def parse_network(text: str, *, field: str = "cidrBlock") -> str:
    """The normal form of an address or CIDR block; a bare address becomes /32 or /128.

    IPv4 mapped into IPv6 becomes IPv4, as in `parse_address`. Raises InvalidInput for anything else, host bits set
    included.
    """
    try:
        network = ipaddress.ip_network(text.strip())
        mapped = getattr(network.network_address, "ipv4_mapped", None)
        if mapped is not None and network.prefixlen >= 96:
            network = ipaddress.ip_network((mapped, network.prefixlen - 96))
        return str(network)
    except ValueError:
        raise InvalidInput(
            field, expected="an IP address or a CIDR block such as 10.1.2.0/24", got=text
        ) from None


def parse_address(text: str) -> Address:
    """The caller's address; an IPv4 address mapped into IPv6 counts as IPv4."""
    address = ipaddress.ip_address(text.split("%", 1)[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def find_entry(address: Address, entries: Iterable[AccessEntry]) -> AccessEntry | None:
    """The first entry that holds `address`."""
    for entry in entries:
        network = ipaddress.ip_network(entry.cidr)
        if network.version == address.version and address in network:
            return entry
    return None


def is_address_allowed(address: Address, entries: Iterable[AccessEntry], *, list_required: bool) -> bool:
    """Contract 4.3: a non-empty list gates every call; an empty one only the endpoints that require a list."""
    entries = tuple(entries)
    if not entries:
        return not list_required
    return find_entry(address, entries) is not None


def is_member(key: ApiKey, group_id: GroupId) -> bool:
    """Whether the key has any role in the group."""
    return any(g.group_id == group_id or g.role is Role.GLOBAL_OWNER for g in key.grants)


def may_write(key: ApiKey, group_id: GroupId) -> bool:
    """Whether the key may start backups and restores in the group, and so download its data."""
    writers = (Role.GROUP_OWNER, Role.GROUP_BACKUP_ADMIN)
    return any(
        g.role is Role.GLOBAL_OWNER or (g.role in writers and g.group_id == group_id) for g in key.grants
    )


def is_owner(key: ApiKey, group_id: GroupId) -> bool:
    """Whether the key owns the group: Atlas asks for this on every write."""
    return any(
        g.role is Role.GLOBAL_OWNER or (g.role is Role.GROUP_OWNER and g.group_id == group_id)
        for g in key.grants
    )
