"""Free TCP ports for a mongod to listen on.

A port is chosen outside the kernel's ephemeral range where possible: inside it, any outgoing connection may take
the port between our choice and mongod's bind. A port is handed out once per process.
"""

import random
import re
import socket
from pathlib import Path

from ebbtide.errors import MongodError

FIRST_PORT = 20000
"""Above the ports that services commonly have, MongoDB's own (27017 …) aside, which we step around."""

TRIES_MAX = 200
_USUAL = range(27000, 27100)
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_handed_out: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on at `host` now. Raises MongodError if none is found."""
    candidates = candidate_ports(_RANGE_FILE.read_text() if _RANGE_FILE.exists() else "")
    for _ in range(TRIES_MAX):
        port = random.choice(candidates) if candidates else 0
        bound = _try_bind(host, port)
        if bound is not None and bound not in _handed_out:
            _handed_out.add(bound)
            return bound
    raise MongodError(f"no free TCP port was found on {host}", hint="stop what holds so many ports")


def candidate_ports(ephemeral_range: str) -> list[int]:
    """The ports to choose from, given the text of the kernel's `ip_local_port_range`; may be empty."""
    found = re.fullmatch(r"\s*(\d+)\s+(\d+)\s*", ephemeral_range)
    low, high = (int(found.group(1)), int(found.group(2))) if found else (32768, 60999)
    return [p for p in range(FIRST_PORT, 65536) if not low <= p <= high and p not in _USUAL]


def is_bindable(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    return _try_bind(host, port) is not None


def _try_bind(host: str, port: int) -> int | None:
    """The port bound for a moment (chosen by the kernel for port 0), or None."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As mongod binds: connections of an earlier server that are still closing do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            bound: int = probe.getsockname()[1]
            return bound
    except OSError:
        return None
