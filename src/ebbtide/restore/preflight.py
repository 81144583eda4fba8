"""Looking at the target of a restore before anything is touched: may it, can it, and what would go.

Read-only. What is found is judged by pure rules (`domain.automated_restore.judge_target`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pymongo import MongoClient

from ebbtide.domain.automated_restore import RestoreScope, SourceFacts, TargetFacts, judge_target
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.errors import Refused
from ebbtide.mongod.deployment import get_fcv, run_admin, translated_errors
from ebbtide.restore.consent import find_missing_roles
from ebbtide.restore.load.inventory import read_inventory
from ebbtide.restore.load.plan import Removal, plan_removals

Document = dict[str, Any]
Client = MongoClient[Document]


class PreflightFailed(Refused):
    """The restore cannot be made as things are; nothing on the target was touched."""


def require_fit(
    client: Client, cluster: Cluster, *, scope: RestoreScope, source: SourceFacts
) -> tuple[Removal, ...]:
    """What will be removed. Raises PreflightFailed with every reason not to begin.

    `client` is the account that writes, and finds the primary.
    """
    removed = plan_removals(read_inventory(client), scope)
    facts = gather_facts(client, cluster, removed)
    problems = judge_target(facts, source)
    if problems:
        raise PreflightFailed("; ".join(problems), hint="nothing on the target was touched")
    return removed


def require_sharded_fit(clients: Mapping[str, Client], cluster: Cluster, *, source: SourceFacts) -> None:
    """The same for a sharded target, all of whose data goes. Raises PreflightFailed."""
    _, problems = look_at_sharded_target(clients, cluster, source)
    if problems:
        raise PreflightFailed("; ".join(problems), hint="nothing on the target was touched")


def look_at_sharded_target(
    clients: Mapping[str, Client], cluster: Cluster, source: SourceFacts
) -> tuple[tuple[Removal, ...], tuple[str, ...]]:
    """What will be removed, from all shards together, and every reason not to begin.

    `clients` are of all its parts, by name. All shards have to have room for all data together.
    """
    shards = [client for name, client in clients.items() if name != CONFIG_PART]
    free = [_free_bytes(client) for client in shards]
    removed = merge_removals(
        found
        for client in clients.values()
        for found in plan_removals(read_inventory(client), RestoreScope())
    )
    facts = TargetFacts(
        name=cluster.name,
        # What answers was found by asking its config server.
        set_name="",
        expected_set_name="",
        mongod_version=cluster.mongod_version,
        fcv=get_fcv(clients[CONFIG_PART]),
        missing_roles=(),
        needs_login=True,
        free_bytes=None if None in free else sum(size for size in free if size is not None),
        removed_bytes=sum(found.size_bytes for found in removed),
    )
    return removed, judge_target(facts, source)


def merge_removals(found: Iterable[Removal]) -> tuple[Removal, ...]:
    """One for each namespace, however many shards have some of it. Pure."""
    merged: dict[str, Removal] = {}
    for one in found:
        other = merged.get(one.namespace)
        merged[one.namespace] = (
            one
            if other is None
            else replace(
                one,
                documents=one.documents + other.documents,
                size_bytes=one.size_bytes + other.size_bytes,
                drops=tuple(dict.fromkeys((*other.drops, *one.drops))),
            )
        )
    return tuple(merged.values())


def gather_facts(client: Client, cluster: Cluster, removed: tuple[Removal, ...]) -> TargetFacts:
    """Ask the primary."""
    hello = run_admin(client, "hello")
    build = run_admin(client, "buildInfo")
    needs_login = cluster.username is not None
    return TargetFacts(
        name=cluster.name,
        set_name=str(hello.get("setName", "")),
        expected_set_name=cluster.replica_set_name,
        mongod_version=str(build["version"]),
        fcv=get_fcv(client),
        missing_roles=tuple(find_missing_roles(client)) if needs_login else (),
        needs_login=needs_login,
        free_bytes=_free_bytes(client),
        removed_bytes=sum(found.size_bytes for found in removed),
    )


def _free_bytes(client: Client) -> int | None:
    """What is free on the primary's disk; None where it does not tell."""
    with translated_errors("dbStats"):
        stats = client.admin.command("dbStats")
    total, used = stats.get("fsTotalSize"), stats.get("fsUsedSize")
    return int(total - used) if total and used is not None else None
