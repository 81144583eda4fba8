"""`ebbtide oplog …`: which moments can be restored."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from ebbtide.cli.render.documents import cell, seconds
from ebbtide.cli.render.output import OutputFormat
from ebbtide.cli.session import (
    ClusterArgument,
    GroupOption,
    OutputOption,
    ProfileOption,
    open_session,
)

RANGE_HEADERS = ("FROM", "TO", "FROM (TS, INC)", "TO (TS, INC)", "BASE SNAPSHOT")
GAP_HEADERS = ("MISSING AFTER", "MISSING BEFORE", "FOUND", "REASON")


def register(app: typer.Typer) -> None:
    """Add `oplog` to the command line."""
    commands = typer.Typer(name="oplog", no_args_is_help=True)
    # Of a group with one command Typer would make that command, were it not for this.
    commands.callback()(_group)
    commands.command(name="ranges", epilog=_RANGES_EXAMPLES)(ranges)
    app.add_typer(commands)


def _group() -> None:
    """See which moments can be restored."""


_RANGES_EXAMPLES = """\b
Examples:
  ebbtide oplog ranges shop
  ebbtide oplog ranges shop -o json | jq .restorable
  ebbtide oplog ranges shop -o json | jq '.restorable[-1].last | [.oplogTs, .oplogInc]'
"""


def ranges(
    name: ClusterArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """List the ranges of moments that can be restored, to the second and increment, and what is missing between.

    Both ends are included. The newest end moves on every few seconds; a restore to now has it moved first.
    """
    with open_session(profile, group, output) as session:
        found = session.client.get_oplog_ranges(session.group_id, name)
        session.output.document(found)
        session.output.table(
            RANGE_HEADERS,
            [_range_row(covered) for covered in found.get("restorable") or []],
            empty="no moment can be restored but those of the snapshots; a range begins with a complete snapshot",
        )
        gaps = [_gap_row(gap) for gap in found.get("gaps") or []]
        if gaps:
            session.output.table(GAP_HEADERS, gaps, empty="")
        archive = found.get("archive") or {}
        if archive:
            session.output.text(f"the archive is {seconds(archive.get('lagSeconds'))} behind its set")


def _range_row(covered: Mapping[str, Any]) -> Sequence[str]:
    first, last = covered.get("first") or {}, covered.get("last") or {}
    return (
        cell(first.get("date")),
        cell(last.get("date")),
        _pair(first),
        _pair(last),
        cell(covered.get("snapshotId")),
    )


def _gap_row(gap: Mapping[str, Any]) -> Sequence[str]:
    after, before = gap.get("after") or {}, gap.get("before") or {}
    return (
        f"{cell(after.get('date'))} {_pair(after)}",
        f"{cell(before.get('date'))} {_pair(before)}",
        cell(gap.get("found")),
        cell(gap.get("reason")),
    )


def _pair(moment: Mapping[str, Any]) -> str:
    return f"({cell(moment.get('oplogTs'))}, {cell(moment.get('oplogInc'))})"
