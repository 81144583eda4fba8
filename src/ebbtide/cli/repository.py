"""`ebbtide repository …`: look after what is stored."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ebbtide.cli.client import Document, EbbtideClient
from ebbtide.cli.render.documents import cell, size
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.render.progress import ProgressView
from ebbtide.cli.session import (
    OutputOption,
    ProfileOption,
    going_on_without_us,
    iter_states,
    open_client,
    require,
)
from ebbtide.errors import JobFailed

HEADERS = ("CLUSTER", "REPLICA SET", "SNAPSHOTS", "NEEDED", "WAITING", "REMOVED", "REMARK")


def register(app: typer.Typer) -> None:
    """Add `repository` to the command line."""
    commands = typer.Typer(name="repository", no_args_is_help=True)
    # Of a group with one command Typer would make that command, were it not for this.
    commands.callback()(_group)
    commands.command(name="prune", epilog=_PRUNE_EXAMPLES)(prune)
    app.add_typer(commands)


def _group() -> None:
    """Look after what is stored."""


_PRUNE_EXAMPLES = """\b
Examples:
  ebbtide repository prune --dry-run
  ebbtide repository prune
  ebbtide repository prune -o json | jq .removedBytes
"""


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")] = True,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Remove what no snapshot needs any more.

    Prune also runs by itself (repository.prune_every_hours). What nothing needs is first marked, and removed once it
    has been marked for repository.prune_grace_hours; deleted snapshots wait for repository.delete_delay_hours before.
    It needs a key that owns everything. Exit code 11 if it could not come to its end.
    """
    with open_client(profile) as client:
        out = Output(output)
        run = client.start_prune(dry_run=dry_run)
        if wait:
            run = _wait(client, out, str(require(run, "id")))
        out.document(run)
        if wait:
            _say_done(out, run)
        else:
            out.text(f"prune {run.get('id')} was asked for")


def _say_done(out: Output, run: Document) -> None:
    rows = [report_row(report) for report in run.get("replicaSets", [])]
    out.table(HEADERS, rows, empty="the repository is empty")
    verb = "would remove" if run.get("dryRun") else "removed"
    out.text(
        f"prune {verb} {size(run.get('removedBytes'))}; {size(run.get('waitingBytes'))} wait to be removed"
    )


def _wait(client: EbbtideClient, out: Output, run_id: str) -> Document:
    """The run once it has ended. Raises JobFailed."""
    last: Document = {}
    with going_on_without_us("prune goes on without us"), ProgressView(out) as view:
        for last in iter_states(
            lambda: client.get_prune(run_id),
            lambda found: found.get("state") in ("DONE", "FAILED"),
        ):
            looked_at = len(last.get("replicaSets", []))
            waiting = last.get("state") == "QUEUED"
            view.show("waiting for a worker" if waiting else f"{looked_at} replica sets looked at")
    if last.get("state") == "FAILED":
        raise JobFailed(
            f"prune ended early: {last.get('error')}", hint="what it removed was whole; the next run goes on"
        )
    return last


def report_row(report: Mapping[str, Any]) -> tuple[str, ...]:
    removed, waiting, live = (report.get(name) or {} for name in ("removed", "waiting", "live"))
    return (
        cell(report.get("clusterId")),
        cell(report.get("replicaSetName")),
        cell(report.get("snapshots")),
        size(live.get("bytes")),
        size(waiting.get("bytes")),
        size(removed.get("bytes")),
        cell(report.get("problem")),
    )
