"""`ebbtide restores prepare`: make a new replica set of an extracted archive. Works on a directory, not through the API."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.prepare_parts import confirm_preparing, prepare_parts, start_command
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.session import OutputOption
from ebbtide.errors import InvalidInput

if TYPE_CHECKING:
    from ebbtide.restore.prepare import Prepared, PreparePlan

PREPARE_EXAMPLES = """\b
Examples:
  ebbtide restores prepare ./rs0-1700000000-6650f0a1b2c3d4e5f6a7b8c9 \\
      --replset shop --host db1.example:27017
  sudo -u mongodb ebbtide restores prepare /var/lib/mongodb --replset shop --host db1:27017 --yes
  ebbtide restores prepare ./config-1700000000-… ./shard0-1700000000-… ./shard1-1700000000-… \\
      --part config=cfg1:27019 --part shard0=a1:27018,a2:27018 --part shard1=b1:27018

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
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR",
            help="The directory that the archive extracted to; of a sharded cluster those of all parts.",
        ),
    ],
    replset: Annotated[
        str | None, typer.Option("--replset", metavar="NAME", help="The new set's name.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="HOST:PORT", help="Where applications will reach its first member."),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            metavar="NAME=[SET/]HOST:PORT[,HOST:PORT...]",
            help="Of a sharded cluster: where a part will be, `config` or a shard. Its first member gets the files, "
            "others are added empty later. SET: another name for its set. Give every part.",
        ),
    ] = None,
    others_elsewhere: Annotated[
        bool,
        typer.Option(
            "--others-elsewhere",
            help="Parts without a DIR are prepared on other machines, with the same --part options.",
        ),
    ] = False,
    mongod: Annotated[
        str | None, typer.Option("--mongod", metavar="PATH", help="The mongod to open the files with.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Make a new replica set, or a new sharded cluster, of extracted archives, offline.

    Each set begins with one member and the data as it was at the archive's timestamp, users and roles of that time
    included; add empty members to it afterwards. Running it again is harmless.
    """
    out = Output(output)
    if part:
        _refuse_beside_parts(replset, host)
        prepare_parts(
            directories, part, others_elsewhere=others_elsewhere, mongod=mongod, ask=not yes, out=out
        )
        return
    _prepare_set(
        _one_directory(directories, others_elsewhere=others_elsewhere),
        replset=_given("--replset", replset, "NAME"),
        host=_given("--host", host, "HOST:PORT"),
        mongod=mongod,
        ask=not yes,
        out=out,
    )


def _refuse_beside_parts(replset: str | None, host: str | None) -> None:
    for option, value in (("--replset", replset), ("--host", host)):
        if value is not None:
            raise InvalidInput(option, expected="it for one replica set alone, not beside --part")


def _one_directory(directories: list[Path], *, others_elsewhere: bool) -> Path:
    if len(directories) > 1 or others_elsewhere:
        raise InvalidInput("--part", expected="one for the config server and one for each shard")
    return directories[0]


def _given(option: str, value: str | None, what: str) -> str:
    if value is None:
        raise InvalidInput(option, expected=f"{what} (of a sharded cluster: --part for every part instead)")
    return value


def _prepare_set(
    directory: Path, *, replset: str, host: str, mongod: str | None, ask: bool, out: Output
) -> None:
    # Late: they bring mongod's driver along, which no command that talks to the API needs.
    from ebbtide.mongod.binary import find_mongod
    from ebbtide.restore.archive_directory import inspect_directory
    from ebbtide.restore.prepare import execute_prepare, plan_prepare

    binary = find_mongod(mongod or os.environ.get("EBBTIDE_MONGOD"))
    plan = plan_prepare(inspect_directory(directory, binary=binary), replica_set_name=replset, host=host)
    for line in plan_lines(plan):
        out.remark(line)
    if ask:
        confirm_preparing()
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
    start = start_command(
        ["--replSet", plan.replica_set_name],
        directory=plan.directory,
        host=plan.host,
        directory_per_db=plan.info.directory_per_db,
    )
    return {"start": start, "add": 'rs.add("HOST:PORT")'}


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
