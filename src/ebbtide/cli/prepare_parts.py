"""`ebbtide restores prepare` for a sharded cluster: what it says before, meanwhile and at the end."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ebbtide.cli.exit_codes import Interrupted
from ebbtide.cli.render.output import Output
from ebbtide.domain.replica_set import split_host_port
from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.errors import InvalidInput

if TYPE_CHECKING:
    from ebbtide.restore.sharded_prepare.execute import ShardedPrepared
    from ebbtide.restore.sharded_prepare.plan import PartPlan, ShardedPlan

_TOLD = {
    "OPENED": "opened the files with a plain mongod on a private socket",
    "OPLOG_CUT": "told the server to end the oplog where the data ends",
    "UNDECIDED_EMPTIED": "emptied transactions, their coordinators, old routers and locks",
    "ROUTING_FORGOTTEN": "dropped what it remembered of the routing",
    "ADDRESSED": "wrote the new addresses",
    "CONFIGURED": "wrote the new set's configuration",
    "STOPPED": "stopped that mongod",
}


def prepare_parts(
    directories: Sequence[Path],
    parts: Sequence[str],
    *,
    others_elsewhere: bool,
    mongod: str | None,
    ask: bool,
    out: Output,
) -> None:
    """Do it. `parts` are the values of --part. Raises as the functions of `ebbtide.restore.sharded_prepare`."""
    # Late: they bring mongod's driver along, which no command that talks to the API needs.
    from ebbtide.mongod.binary import find_mongod
    from ebbtide.restore.archive_directory import inspect_directory
    from ebbtide.restore.sharded_prepare.execute import execute_sharded_prepare
    from ebbtide.restore.sharded_prepare.plan import plan_sharded_prepare
    from ebbtide.restore.sharded_prepare.targets import parse_targets

    targets = parse_targets(parts)
    binary = find_mongod(mongod or os.environ.get("EBBTIDE_MONGOD"))
    sights = [inspect_directory(directory, binary=binary) for directory in directories]
    plan = plan_sharded_prepare(sights, targets, others_elsewhere=others_elsewhere)
    for line in plan_lines(plan):
        out.remark(line)
    if ask:
        confirm_preparing()
    prepared = execute_sharded_prepare(
        plan, binary=binary, on_step=lambda name, step: out.remark(f"  {name}: {_TOLD[step.value]}")
    )
    document = result_document(prepared)
    out.document(document)
    for line in result_lines(prepared, document):
        out.text(line)


def plan_lines(plan: "ShardedPlan") -> list[str]:
    """What will be done, for the person who is asked."""
    moment = f"{plan.moment.date.isoformat(timespec='seconds')}, oplog timestamp {plan.moment}"
    lines = [f"Parts of the sharded cluster {plan.sharded_cluster}, all of {moment}:"]
    lines += [f"  {part.name}: {part.directory}" for part in plan.parts]
    lines.append("They become first members of new replica sets of a new cluster:")
    lines += [f"  {part.name}: {part.replica_set_name}/{part.host}" for part in plan.parts]
    if plan.elsewhere:
        lines.append(f"  on other machines: {', '.join(plan.elsewhere)}")
    return [
        *lines,
        "Written into each: the new set's configuration in place of the old one; the new addresses of the shards (on",
        "  the config server) and of the config server (on the shards). Emptied: transactions and their coordinators,",
        "  caches of the routing, old routers and locks. Data, users and roles stay.",
    ]


def result_document(prepared: "ShardedPrepared") -> dict[str, Any]:
    """The outcome as JSON."""
    plan = prepared.plan
    return {
        "shardedCluster": plan.sharded_cluster,
        "timestamp": {"seconds": plan.moment.seconds, "increment": plan.moment.increment},
        "parts": [
            {
                "name": change.plan.name,
                "directory": str(change.plan.directory),
                "replicaSetName": change.plan.replica_set_name,
                "host": change.plan.host,
                "wasPrepared": change.was_prepared,
                "next": _next_commands(change.plan),
            }
            for change in prepared.parts
        ],
        "elsewhere": list(plan.elsewhere),
        "addresses": dict(prepared.parts[0].addresses),
        "users": prepared.users_count,
        "remarks": list(prepared.remarks),
        "router": f"mongos --configdb {prepared.parts[0].addresses[CONFIG_PART]}",
    }


def result_lines(prepared: "ShardedPrepared", document: Mapping[str, Any]) -> list[str]:
    """The outcome and what comes next, for people."""
    parts = document["parts"]
    lines = [
        f"{part['directory']} {'was prepared before' if part['wasPrepared'] else 'is prepared'}"
        for part in parts
    ]
    lines += [f"note: {remark}" for remark in prepared.remarks]
    lines += [
        "",
        "Start them, the config server first: no shard answers before it does (with your own configuration files, or",
        "--keyFile and TLS options, if the cluster is to have them: the same for all parts):",
        *(f"  {part['next']['start']}" for part in parts),
        "TTL indexes begin to delete at that start; to look first, add --setParameter ttlMonitorEnabled=false.",
        "Then routers; one that knew the old cluster has to be started again (not run against a real mongos):",
        f"  {document['router']}",
        "Then, in mongosh on each part, for each further member, started with the same options on an EMPTY dbpath:",
        *(f"  {part['name']}: {add}" for part in parts for add in part["next"]["add"]),
    ]
    if prepared.users_count:
        lines.append(
            "Users, passwords and roles are those of that time, on the config server and on each shard."
        )
    return lines


def start_command(role: Sequence[str], *, directory: Path, host: str, directory_per_db: bool) -> str:
    """The command that starts the first member. `role` are the options that say what it is a member of."""
    name, port = split_host_port(host)
    words = ["mongod", *role, "--dbpath", str(directory)]
    words += ["--port", str(port), "--bind_ip", f"localhost,{name}" if name != "localhost" else name]
    return shlex.join([*words, "--directoryperdb"] if directory_per_db else words)


def confirm_preparing() -> None:
    """Ask. Raises InvalidInput where nobody can answer, Interrupted for a no."""
    if not sys.stdin.isatty():
        raise InvalidInput("--yes", expected="it, because there is no terminal to ask on")
    if not typer.confirm("prepare it?", err=True):
        raise Interrupted("nothing was changed")


def _next_commands(part: "PartPlan") -> dict[str, Any]:
    role = "--configsvr" if part.is_config_server else "--shardsvr"
    start = start_command(
        [role, "--replSet", part.replica_set_name],
        directory=part.directory,
        host=part.host,
        directory_per_db=part.info.directory_per_db,
    )
    return {"start": start, "add": [f'rs.add("{host}")' for host in part.target.hosts[1:] or ("HOST:PORT",)]}
