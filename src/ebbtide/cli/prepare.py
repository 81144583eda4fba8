"""`ebbtide restores prepare`: make a new replica set of an extracted archive. Works on a directory, not through the API."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.exit_codes import Interrupted
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.session import OutputOption
from ebbtide.domain.replica_set import split_host_port
from ebbtide.errors import InvalidInput

if TYPE_CHECKING:
    from ebbtide.restore.prepare import Prepared, PreparePlan

PREPARE_EXAMPLES = """\b
Examples:
  ebbtide restores prepare ./rs0-1700000000-6650f0a1b2c3d4e5f6a7b8c9 \\
      --replset shop --host db1.example:27017
  sudo -u mongodb ebbtide restores prepare /var/lib/mongodb --replset shop --host db1:27017 --yes

Run it where the first member will be, on files that no mongod uses. Nothing listens on TCP
meanwhile, and no other machine is spoken to. Interrupted? Run the same command again.
"""

_TOLD = {
    "OPENED": "opened the files with a plain mongod on a private socket",
    "OPLOG_CUT": "told the server to end the oplog where the data ends",
    "TRANSACTIONS_EMPTIED": "emptied config.transactions",
    "CONFIGURATION_REMOVED": "removed the old set's configuration",
    "CONFIGURED": "wrote the new set's configuration",
    "STOPPED": "stopped that mongod",
}


def prepare(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory that the archive extracted to.")
    ],
    replset: Annotated[str, typer.Option("--replset", metavar="NAME", help="The new set's name.")],
    host: Annotated[
        str,
        typer.Option("--host", metavar="HOST:PORT", help="Where applications will reach its first member."),
    ],
    mongod: Annotated[
        str | None, typer.Option("--mongod", metavar="PATH", help="The mongod to open the files with.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Make a new replica set of an extracted archive, offline.

    The set begins with one member and the data as it was at the archive's timestamp, users and roles of that time
    included; add empty members to it afterwards. Running it again is harmless.
    """
    # Late: they bring mongod's driver along, which no command that talks to the API needs.
    from ebbtide.mongod.binary import find_mongod
    from ebbtide.restore.prepare import execute_prepare, inspect_directory, plan_prepare

    out = Output(output)
    binary = find_mongod(mongod or os.environ.get("EBBTIDE_MONGOD"))
    plan = plan_prepare(inspect_directory(directory, binary=binary), replica_set_name=replset, host=host)
    for line in plan_lines(plan):
        out.remark(line)
    if not yes:
        _confirm()
    prepared = execute_prepare(plan, binary=binary, on_step=lambda step: out.remark(f"  {_TOLD[step.value]}"))
    commands = next_commands(plan)
    out.document(
        {
            "directory": str(plan.directory),
            "replicaSetName": plan.replica_set_name,
            "host": plan.host,
            "wasPrepared": prepared.was_prepared,
            "timestamp": {"seconds": prepared.data_at.seconds, "increment": prepared.data_at.increment},
            "users": prepared.users_count,
            "remarks": list(prepared.remarks),
            "next": commands,
        }
    )
    for line in result_lines(prepared, commands):
        out.text(line)


def plan_lines(plan: "PreparePlan") -> list[str]:
    """What will be done, for the person who is asked."""
    info = plan.info
    return [
        f"{plan.directory} holds restore job {info.restore_job_id}:",
        f"  {info.cluster}, replica set {info.replica_set_name}, mongod {info.mongod_version},",
        f"  data of {info.stable.date.isoformat(timespec='seconds')}, oplog timestamp {info.stable}",
        f"It becomes the first member, {plan.host}, of a new replica set {plan.replica_set_name}: the oplog will end",
        "  where the data ends, config.transactions and the old configuration go. Data, users and roles stay.",
    ]


def next_commands(plan: "PreparePlan") -> dict[str, str]:
    """What to run next: the member's start, and (in mongosh, on it) one line for each further member."""
    host, port = split_host_port(plan.host)
    words = ["mongod", "--replSet", plan.replica_set_name, "--dbpath", str(plan.directory)]
    words += ["--port", str(port), "--bind_ip", f"localhost,{host}" if host != "localhost" else host]
    if plan.info.directory_per_db:
        words.append("--directoryperdb")
    return {"start": shlex.join(words), "add": 'rs.add("HOST:PORT")'}


def result_lines(prepared: "Prepared", commands: dict[str, str]) -> list[str]:
    """The outcome and what comes next, for people."""
    plan = prepared.plan
    did = "was prepared before; nothing was changed" if prepared.was_prepared else "is prepared"
    lines = [f"{plan.directory} {did}", *(f"note: {remark}" for remark in prepared.remarks), ""]
    lines += [
        "Start it (with your own configuration file, keyfile or TLS options, if the set is to have them):",
        f"  {commands['start']}",
        "TTL indexes begin to delete at that start; to look first, add --setParameter ttlMonitorEnabled=false.",
        "Then, in mongosh on it, for each further member, started with the same --replSet on an EMPTY dbpath:",
        f"  {commands['add']}",
    ]
    if prepared.users_count:
        lines += [
            f"It has the {prepared.users_count} users of that time, with their passwords and roles. Forgotten? Start",
            "it without --keyFile and --auth on 127.0.0.1 alone, and in mongosh: "
            'db.getSiblingDB("admin").changeUserPassword("NAME", passwordPrompt())',
        ]
    return lines


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("--yes", expected="it, because there is no terminal to ask on")
    if not typer.confirm("prepare it?", err=True):
        raise Interrupted("nothing was changed")
