"""A replica set's configuration, and how Ebbtide changes it: pure functions over the server's own documents.

The head is one more member: hidden, priority 0, votes 0, so that it can neither be elected, nor hold up a write, nor
serve an application's read.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

Configuration = Mapping[str, Any]

MEMBERS_MAX = 50
"""The server's limit for members of one set."""

MEMBER_ID_MAX = 255


class TlsMode(StrEnum):
    """What a mongod does with TLS; the server's own words."""

    DISABLED = "disabled"  # neither offered nor used
    ALLOW = "allowTLS"  # accepted from clients; to other members without
    PREFER = "preferTLS"  # accepted from clients, used to other members
    REQUIRE = "requireTLS"  # nothing else is accepted

    @property
    def is_used_between_members(self) -> bool:
        return self in (TlsMode.PREFER, TlsMode.REQUIRE)


class ClusterAuthMode(StrEnum):
    """How members prove to each other that they belong to the set; the server's own words."""

    KEYFILE = "keyFile"  # with the keyfile
    SEND_KEYFILE = "sendKeyFile"  # with the keyfile; certificates are accepted too
    SEND_X509 = "sendX509"  # with certificates; the keyfile is accepted too
    X509 = "x509"  # with certificates

    @property
    def uses_certificates(self) -> bool:
        return self is not ClusterAuthMode.KEYFILE


def split_host_port(text: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or a bare host (port 27017)."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port or not port.isdigit():
        return text.strip("[]"), 27017
    return host.strip("[]"), int(port)


def join_host_port(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_localhost(host: str) -> bool:
    """Whether the server treats `host` as a localhost reference."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def mixes_localhost(configuration: Configuration, head_host: str) -> bool:
    """Whether the head's name would break the server's rule: all members are localhost references, or none."""
    hosts = [split_host_port(member["host"])[0] for member in configuration["members"]]
    return any(is_localhost(host) != is_localhost(head_host) for host in hosts)


def find_member(configuration: Configuration, host: str, port: int) -> Mapping[str, Any] | None:
    """The member at `host:port`."""
    wanted = join_host_port(host, port)
    return next((m for m in configuration["members"] if m["host"] == wanted), None)


def voting_hosts(configuration: Configuration) -> list[str]:
    """`host:port` of every member that votes."""
    return [m["host"] for m in configuration["members"] if m.get("votes", 1) > 0]


def arbiter_hosts(configuration: Configuration) -> set[str]:
    """`host:port` of every arbiter: it votes and has no data, and so no users either."""
    return {m["host"] for m in configuration["members"] if m.get("arbiterOnly", False)}


def hosts_without_our_user(configuration: Configuration) -> set[str]:
    """`host:port` of members that may not know a user that the others know: arbiters, and delayed ones for a while."""
    delayed = {m["host"] for m in configuration["members"] if _delay_seconds(m)}
    return arbiter_hosts(configuration) | delayed


def initial_sync_preference(configuration: Configuration) -> str:
    """Where initial sync shall read: a value of mongod's `initialSyncSourceReadPreference`.

    From a secondary, so that the primary keeps its disk to itself; not where one of them is delayed, because mongod
    (6.0.5) copies that one as readily as any other, and then has hours to catch up.
    """
    return "primaryPreferred" if any(map(_delay_seconds, configuration["members"])) else "secondaryPreferred"


def _delay_seconds(member: Mapping[str, Any]) -> int:
    """How far a member stays behind on purpose; the field had another name before 5.0."""
    return int(member.get("secondaryDelaySecs", member.get("slaveDelay", 0)))


def free_member_id(configuration: Configuration) -> int:
    """An id that no member has: one above the highest, else the lowest free one."""
    used = {int(m["_id"]) for m in configuration["members"]}
    highest = max(used) + 1
    return highest if highest <= MEMBER_ID_MAX else min(set(range(MEMBER_ID_MAX + 1)) - used)


def plan_add_head(configuration: Configuration, *, host: str, port: int) -> dict[str, Any] | None:
    """The configuration with the head in it; None where it is there already."""
    if find_member(configuration, host, port) is not None:
        return None
    head = {
        "_id": free_member_id(configuration),
        "host": join_host_port(host, port),
        "priority": 0,
        "votes": 0,
        "hidden": True,
    }
    return {
        **configuration,
        "version": configuration["version"] + 1,
        "members": [*configuration["members"], head],
    }


def plan_remove_head(configuration: Configuration, *, host: str, port: int) -> dict[str, Any] | None:
    """The configuration without the head; None where it is not there.

    Raises ValueError rather than remove a member that votes: that is no head of ours.
    """
    member = find_member(configuration, host, port)
    if member is None:
        return None
    if member.get("votes", 1) > 0:
        raise ValueError(f"member {member['host']} votes, so it is no head")
    rest = [m for m in configuration["members"] if m is not member]
    return {**configuration, "version": configuration["version"] + 1, "members": rest}


def find_in_status(status: Mapping[str, Any], host_port: str) -> Mapping[str, Any] | None:
    """The entry of `host_port` in a reply of replSetGetStatus."""
    return next((m for m in status["members"] if m["name"] == host_port), None)


def member_lag_seconds(status: Mapping[str, Any], host_port: str) -> float | None:
    """How far a member is behind the primary, by a reply of replSetGetStatus; None while no primary is known."""
    own = find_in_status(status, host_port)
    primary = next((m for m in status["members"] if m.get("stateStr") == "PRIMARY"), None)
    if own is None or primary is None or "optimeDate" not in own or "optimeDate" not in primary:
        return None
    return max(0.0, float((primary["optimeDate"] - own["optimeDate"]).total_seconds()))


def unhealthy_members(status: Mapping[str, Any]) -> list[str]:
    """`host:port` of the members that the answering one cannot reach."""
    return [m["name"] for m in status["members"] if m.get("health", 1) != 1]


# What the account must be allowed to do, and the built-in role that allows it.
CLUSTER_ACTIONS: tuple[tuple[str, str], ...] = (
    ("replSetGetStatus", "clusterMonitor"),
    ("getCmdLineOpts", "clusterMonitor"),
    ("listDatabases", "clusterMonitor"),
    ("replSetGetConfig", "clusterManager"),
    ("replSetConfigure", "clusterManager"),
    ("fsync", "hostManager"),
    ("unlock", "hostManager"),
    ("shutdown", "hostManager"),
)
ROLES_NEEDED = ("backup", "clusterMonitor", "clusterManager", "hostManager", "readAnyDatabase")


def missing_roles(privileges: Sequence[Mapping[str, Any]]) -> list[str]:
    """The built-in roles that would allow what is missing, in the order of `ROLES_NEEDED`.

    `privileges` is `authInfo.authenticatedUserPrivileges` of connectionStatus with showPrivileges.
    """
    allowed: set[str] = set()
    reads_local = reads_all = False
    for privilege in privileges:
        resource, actions = privilege["resource"], set(privilege["actions"])
        everywhere = resource.get("anyResource", False)
        if everywhere or resource.get("cluster", False):
            allowed |= actions
        finds = "find" in actions
        if everywhere and finds:
            reads_local = reads_all = True
        if finds and resource.get("db") == "local" and resource.get("collection") in ("", "oplog.rs"):
            reads_local = True
        if finds and resource.get("db") == "" and resource.get("collection") == "":
            reads_all = True
    missing = {role for action, role in CLUSTER_ACTIONS if action not in allowed}
    if not reads_local:
        missing.add("backup")
    if not reads_all:
        missing.add("readAnyDatabase")
    return [role for role in ROLES_NEEDED if role in missing]


def major_version(version: str) -> str:
    """`6.0` of `6.0.5`: what must be equal for a member to join and for files to open."""
    return ".".join(version.split(".")[:2])
