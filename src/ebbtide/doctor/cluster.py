"""Asking one cluster: its set, each member from here, and each member about the head. Read-only commands alone."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pymongo import MongoClient

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.doctor.checks import ClusterFacts, MemberFacts
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.replica_set import find_in_status, join_host_port
from ebbtide.errors import EbbtideError
from ebbtide.mongod import deployment
from ebbtide.sealing import ServiceKey

Document = dict[str, Any]

SET_SECONDS = 8.0
MEMBER_SECONDS = 4.0


def gather_cluster(
    cluster: Cluster, *, catalog: Catalog, service_key: ServiceKey, clock: Clock, our_version: str
) -> ClusterFacts:
    """Ask; what does not answer is a fact. Takes seconds, and some for each member that does not answer."""
    access = ClusterAccess(cluster=cluster, service_key=service_key)
    head = catalog.heads.find(cluster.id)
    known: dict[str, Any] = {
        "name": cluster.name,
        "username": cluster.username,
        "auth_source": cluster.auth_source,
        "our_version": our_version,
    }
    if head is not None:
        known |= {
            "head_state": head.state,
            "head_message": head.message,
            "head_address": join_host_port(head.host, head.port),
        }
    try:
        client = access.set_client(timeout_seconds=SET_SECONDS)
    except EbbtideError as error:
        return ClusterFacts(**known, key_problem=error.message)
    with client:
        try:
            known["privileges"] = _ask_privileges(client)
            configuration = deployment.get_configuration(client)
        except EbbtideError as error:
            return ClusterFacts(**known, set_problem=error.message)
    head_address = known.get("head_address", "")
    known["members"] = tuple(
        _ask_member(member, access, clock=clock, head_address=head_address)
        for member in configuration["members"]
        if member["host"] != head_address
    )
    return ClusterFacts(**known)


def _ask_privileges(client: "MongoClient[Document]") -> tuple[Mapping[str, Any], ...] | None:
    """What the user may do; None where the set asks for no login."""
    info = deployment.run_admin(client, "connectionStatus", showPrivileges=True)["authInfo"]
    return tuple(info["authenticatedUserPrivileges"]) if info["authenticatedUsers"] else None


def _ask_member(
    member: Mapping[str, Any], access: ClusterAccess, *, clock: Clock, head_address: str
) -> MemberFacts:
    host = str(member["host"])
    is_voting = member.get("votes", 1) > 0
    connect = access.arbiter_client if member.get("arbiterOnly") else access.member_client
    try:
        with connect(host, timeout_seconds=MEMBER_SECONDS) as client:
            version = str(deployment.run_admin(client, "buildInfo")["version"])
            skew, uncertainty = measure_skew(client, clock)
            status = deployment.run_admin(client, "replSetGetStatus") if head_address else None
    except EbbtideError as error:
        return MemberFacts(host=host, problem=error.message, is_voting=is_voting)
    return MemberFacts(
        host=host,
        version=version,
        skew_seconds=skew,
        uncertainty_seconds=uncertainty,
        is_voting=is_voting,
        head_problem="" if status is None else find_head_problem(status, head_address),
    )


def measure_skew(client: "MongoClient[Document]", clock: Clock) -> tuple[float, float]:
    """(skew, uncertainty) in seconds: the member's clock minus ours, known up to half of what asking took.

    The connection is there already, so that making it does not count.
    """
    asked = clock.monotonic()
    now = clock.now()
    answer: datetime = deployment.run_admin(client, "hello")["localTime"]
    took = clock.monotonic() - asked
    there = answer.replace(tzinfo=UTC) if answer.tzinfo is None else answer
    return (there - now).total_seconds() - took / 2, took / 2


def find_head_problem(status: Mapping[str, Any], head_address: str) -> str | None:
    """Why a member does not reach the head, by its own replSetGetStatus; None if it does. Pure."""
    seen = find_in_status(status, head_address)
    if seen is None:
        return f"does not list {head_address}"
    if seen.get("health") == 1:
        return None
    reason = seen.get("lastHeartbeatMessage") or "no heartbeat was answered"
    return f"does not reach {head_address} ({reason})"
