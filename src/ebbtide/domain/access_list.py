"""Where a caller may call from: addresses, the networks of an access list, and the proxies that are believed.

Rules only; where a request comes from and what it carries is the API's business. Source: contract section 4.3.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ebbtide.errors import InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NO_ADDRESS = ipaddress.IPv4Address("0.0.0.0")
"""Of a caller whose address is not known: on no list but one that allows everybody."""

IPV6_SITE_BITS = 64
"""One customer of a provider has at least so much of IPv6, so a single address of it says little."""


@dataclass(frozen=True, kw_only=True)
class AccessEntry:
    """One network that may be called from, and when it last was. `cidr` is normalised by `parse_network`."""

    cidr: str
    created: datetime
    last_used: datetime | None = None
    last_used_address: str | None = None
    count: int = 0


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


def read_address(host: str | None) -> Address:
    """The address in `host`; NO_ADDRESS where there is none."""
    try:
        return parse_address(host or "")
    except ValueError:
        return NO_ADDRESS


def find_entry(address: Address, entries: Iterable[AccessEntry]) -> AccessEntry | None:
    """The first entry that holds `address`."""
    for entry in entries:
        if is_inside(address, ipaddress.ip_network(entry.cidr)):
            return entry
    return None


def is_inside(address: Address, network: Network) -> bool:
    """Whether `network` holds `address`; never where one is IPv4 and the other IPv6."""
    return network.version == address.version and address in network


def is_address_allowed(address: Address, entries: Iterable[AccessEntry], *, list_required: bool) -> bool:
    """Contract 4.3: a non-empty list gates every call; an empty one only the endpoints that require a list."""
    entries = tuple(entries)
    if not entries:
        return not list_required
    return find_entry(address, entries) is not None


def locks_out(address: Address, entries: Iterable[AccessEntry], *, without: str) -> bool:
    """Whether removing the network `without` would shut out a caller at `address`.

    Removing the last entry does too: an empty list would open everything that needs no listed address to everybody.
    """
    rest = [entry for entry in entries if entry.cidr != without]
    return find_entry(address, rest) is None


def client_address(peer: Address, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address:
    """The address that a request comes from.

    `peer` is the connection's other end; `forwarded` are the addresses of `X-Forwarded-For`, as sent: each proxy added
    the one it saw at the end. They count only as far as trusted proxies vouch for them, read from the end. What a
    trusted proxy forwarded and nobody can read is NO_ADDRESS, never the proxy's own address, which may be on a list.
    """
    address = peer
    for text in reversed(forwarded):
        if not any(is_inside(address, network) for network in trusted):
            return address
        address = read_address(text.strip())
        if address == NO_ADDRESS:
            return NO_ADDRESS
    return address


def site_of(address: Address) -> str:
    """What counts as one place when attempts are counted: an IPv4 address, or an IPv6 network of 64 bits."""
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, IPV6_SITE_BITS), strict=False))


def single_address(cidr: str) -> str | None:
    """The address of a network that has only one; None for any other."""
    network = ipaddress.ip_network(cidr)
    return str(network.network_address) if network.num_addresses == 1 else None
