"""`ebbtide schedule …`: when snapshots are taken by themselves, and how long they are kept."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ebbtide.cli.client import Document
from ebbtide.cli.render.documents import Fields, cell
from ebbtide.cli.render.output import OutputFormat
from ebbtide.cli.session import ClusterArgument, GroupOption, OutputOption, ProfileOption, open_session
from ebbtide.errors import InvalidInput

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def register(app: typer.Typer) -> None:
    """Add `schedule` to the command line."""
    commands = typer.Typer(
        name="schedule", help="Say when snapshots are taken by themselves.", no_args_is_help=True
    )
    commands.command(name="show", epilog=_SHOW_EXAMPLES)(show)
    commands.command(name="set", epilog=_SET_EXAMPLES)(set_)
    app.add_typer(commands)


_SHOW_EXAMPLES = """\b
Examples:
  ebbtide schedule show shop
  ebbtide schedule show shop -o json | jq .snapshotIntervalHours
"""


def show(
    name: ClusterArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Show a cluster's schedule."""
    with open_session(profile, group, output) as session:
        schedule = session.client.get_schedule(session.group_id, name)
        session.output.document(schedule)
        session.output.fields(schedule_fields(schedule))


_SET_EXAMPLES = """\b
Examples:
  ebbtide schedule set shop --every 12 --keep-days 5
  ebbtide schedule set shop --every 24 --at 03:30 --offset +0200
  ebbtide schedule set bank --checkpoints 15
"""


def set_(
    name: ClusterArgument,
    every: Annotated[
        int | None, typer.Option("--every", metavar="HOURS", help="A snapshot every 6, 8, 12 or 24 hours.")
    ] = None,
    keep_days: Annotated[
        int | None, typer.Option("--keep-days", metavar="DAYS", help="Keep each for 2, 3, 4 or 5 days.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="HH:MM", help="One of the times of the day; the others follow from it."),
    ] = None,
    offset: Annotated[
        str | None, typer.Option("--offset", metavar="+HHMM", help="That time's offset from UTC, or Z.")
    ] = None,
    checkpoints: Annotated[
        int | None,
        typer.Option(
            "--checkpoints",
            metavar="MINUTES",
            help="A checkpoint every 15, 30 or 60 minutes; of sharded clusters.",
        ),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Change a cluster's schedule; what is not given stays as it is.

    How long to keep is for snapshots to come: those that exist keep their time (ebbtide snapshots expire).
    """
    change = schedule_change(every=every, keep_days=keep_days, at=at, offset=offset, checkpoints=checkpoints)
    with open_session(profile, group, output) as session:
        schedule = session.client.change_schedule(session.group_id, name, change)
        session.output.document(schedule)
        session.output.fields(schedule_fields(schedule))


def schedule_change(
    *,
    every: int | None,
    keep_days: int | None,
    at: str | None,
    offset: str | None,
    checkpoints: int | None = None,
) -> Document:
    """The body that asks for it. Raises InvalidInput where nothing, or no time of the day, was given."""
    change: Document = {}
    if every is not None:
        change["snapshotIntervalHours"] = every
    if keep_days is not None:
        change["snapshotRetentionDays"] = keep_days
    if at is not None:
        match = _TIME.fullmatch(at)
        if match is None:
            raise InvalidInput("--at", expected="a time such as 03:30", got=at)
        change |= {"referenceHourOfDay": int(match[1]), "referenceMinuteOfHour": int(match[2])}
    if offset is not None:
        change["referenceTimeZoneOffset"] = offset
    if checkpoints is not None:
        change["clusterCheckpointIntervalMin"] = checkpoints
    if not change:
        raise InvalidInput(
            "schedule set", expected="at least one of --every, --keep-days, --at, --offset, --checkpoints"
        )
    return change


def schedule_fields(schedule: Mapping[str, Any]) -> Fields:
    """The schedule as rows of text."""
    hour, minute = schedule.get("referenceHourOfDay", 0), schedule.get("referenceMinuteOfHour", 0)
    interval = schedule.get("clusterCheckpointIntervalMin")
    checkpoints: Fields = [] if interval is None else [("checkpoints", f"every {interval} minutes")]
    return [
        ("snapshots", f"every {cell(schedule.get('snapshotIntervalHours'))} hours"),
        ("at", f"{hour:02}:{minute:02}, offset from UTC {cell(schedule.get('referenceTimeZoneOffset'))}"),
        ("each kept for", f"{cell(schedule.get('snapshotRetentionDays'))} days"),
        *checkpoints,
    ]
