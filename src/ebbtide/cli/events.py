"""`ebbtide events …`: what happened."""

from typing import Annotated

import typer

from ebbtide.cli.render import documents
from ebbtide.cli.render.output import OutputFormat
from ebbtide.cli.session import GroupOption, OutputOption, ProfileOption, complete_clusters, open_session


def register(app: typer.Typer) -> None:
    """Add `events` to the command line."""
    commands = typer.Typer(name="events", help="See what happened.", no_args_is_help=True)
    commands.command(name="list", epilog=_LIST_EXAMPLES)(list_)
    app.add_typer(commands)


_LIST_EXAMPLES = """\b
Examples:
  ebbtide events list
  ebbtide events list shop --limit 500
  ebbtide events list -o json | jq -c '.[] | select(.level == "ERROR")'
"""


def list_(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Only of this cluster.", autocompletion=complete_clusters),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, newest first.")] = 50,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """List the project's events, newest first."""
    with open_session(profile, group, output) as session:
        found = session.client.list_events(session.group_id, cluster=name, limit=limit)
        session.output.document(found)
        session.output.table(
            documents.EVENT_HEADERS,
            [documents.event_row(event) for event in found],
            empty="nothing happened yet",
        )
