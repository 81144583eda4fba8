"""`ebbtide checkpoints …`: moments of a sharded cluster that can be restored, between its snapshots."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ebbtide.cli.client import Document
from ebbtide.cli.render.documents import Fields, cell
from ebbtide.cli.render.output import OutputFormat
from ebbtide.cli.render.progress import ProgressView
from ebbtide.cli.session import (
    ClusterArgument,
    GroupOption,
    OutputOption,
    ProfileOption,
    Session,
    complete_checkpoints,
    going_on_without_us,
    iter_states,
    open_session,
    require,
)
from ebbtide.errors import InvalidInput, JobFailed, NotFound

LATEST = "latest"
HEADERS = ("ID", "ASKED FOR", "RESTORES TO", "STATE", "RESTORABLE")
_OVER = ("COMPLETE", "FAILED")


def register(app: typer.Typer) -> None:
    """Add `checkpoints` to the command line."""
    commands = typer.Typer(
        name="checkpoints",
        help="Moments of a sharded cluster that can be restored, between its snapshots.",
        no_args_is_help=True,
    )
    commands.command(name="list", epilog=_LIST_EXAMPLES)(list_)
    commands.command(name="show", epilog=_SHOW_EXAMPLES)(show)
    commands.command(name="take", epilog=_TAKE_EXAMPLES)(take)
    app.add_typer(commands)


_LIST_EXAMPLES = """\b
Examples:
  ebbtide checkpoints list bank
  ebbtide checkpoints list bank -o json | jq -r '.[] | select(.restorable) | .id'
"""


def list_(
    name: ClusterArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """List a sharded cluster's checkpoints, newest first.

    They are taken by its schedule (ebbtide schedule set NAME --checkpoints MINUTES), and go with its point-in-time window.
    """
    with open_session(profile, group, output) as session:
        found = session.client.list_checkpoints(session.group_id, name)
        session.output.document(found)
        session.output.table(
            HEADERS,
            [_row(checkpoint) for checkpoint in found],
            empty=f"{name} has no checkpoint; next: ebbtide checkpoints take {name}",
        )


_SHOW_EXAMPLES = """\b
Examples:
  ebbtide checkpoints show bank
  ebbtide checkpoints show bank 6650f0a1b2c3d4e5f6a7b8c9
  ebbtide checkpoints show bank latest -o json | jq .restoresTo
"""


def show(
    name: ClusterArgument,
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="ID|latest",
            help="The checkpoint's id, or latest for the newest.",
            autocompletion=complete_checkpoints,
        ),
    ] = LATEST,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Show one checkpoint: what it restores to, and what it waits for, part by part."""
    with open_session(profile, group, output) as session:
        checkpoint_id = _resolve(session, name, checkpoint)
        found = session.client.get_checkpoint(session.group_id, name, checkpoint_id)
        session.output.document(found)
        session.output.fields(_fields(found))


_TAKE_EXAMPLES = """\b
Examples:
  ebbtide checkpoints take bank
  ebbtide checkpoints take bank --no-wait
  ebbtide checkpoints take bank -o json | jq .restorable
"""


def take(
    name: ClusterArgument,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the archives of all parts have it.")
    ] = True,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Take a checkpoint of a sharded cluster now.

    A note is written into the oplog of every part; no data is copied. Exit code 11 if it fails.
    """
    with open_session(profile, group, output) as session:
        taken = session.client.create_checkpoint(session.group_id, name)
        checkpoint_id = str(require(taken, "id"))
        if not wait:
            session.output.document(taken)
            session.output.text(f"checkpoint {checkpoint_id} of {name} was asked for")
            session.output.text(f"next: ebbtide checkpoints show {name} {checkpoint_id}")
            return
        taken = _wait(session, name, checkpoint_id)
        session.output.document(taken)
        moment = _moment(taken.get("restoresTo"))
        session.output.text(f"checkpoint {checkpoint_id} of {name} restores to {moment}")
        if not taken.get("restorable"):
            session.output.text(f"it cannot be restored now: {taken.get('message')}")
            session.output.text(f"next: ebbtide snapshots create {name}, and then another checkpoint")


def _wait(session: Session, name: str, checkpoint_id: str) -> Document:
    """The checkpoint once it is complete. Raises JobFailed."""
    last: Document = {}
    goes_on = f"it is taken all the same; to look again: ebbtide checkpoints show {name} {checkpoint_id}"
    with going_on_without_us(goes_on), ProgressView(session.output) as view:
        for last in iter_states(
            lambda: session.client.get_checkpoint(session.group_id, name, checkpoint_id),
            lambda found: found.get("state") in _OVER,
        ):
            view.show(str(last.get("message") or "complete"))
    if last.get("state") != "COMPLETE":
        raise JobFailed(f"checkpoint {checkpoint_id} of {name} failed: {last.get('message')}")
    return last


def _resolve(session: Session, cluster: str, wanted: str) -> str:
    """The id that `wanted` stands for. Raises NotFound if there is none that `latest` could be."""
    if wanted != LATEST:
        if len(wanted) != 24:
            raise InvalidInput("checkpoint", expected="an id of 24 hex digits, or latest", got=wanted)
        return wanted
    for checkpoint in session.client.list_checkpoints(session.group_id, cluster):
        return str(require(checkpoint, "id"))
    raise NotFound(f"{cluster} has no checkpoint", hint=f"ebbtide checkpoints take {cluster}")


def _row(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        cell(checkpoint.get("id")),
        cell(checkpoint.get("created")),
        _moment(checkpoint.get("restoresTo")),
        cell(checkpoint.get("state")),
        "yes" if checkpoint.get("restorable") else "no",
    )


def _fields(checkpoint: Mapping[str, Any]) -> Fields:
    fields: Fields = [
        ("id", cell(checkpoint.get("id"))),
        ("cluster", cell(checkpoint.get("clusterName"))),
        ("state", cell(checkpoint.get("state"))),
        ("restorable", "yes" if checkpoint.get("restorable") else "no"),
        ("restores to", _moment(checkpoint.get("restoresTo"))),
        ("cluster time", _moment(checkpoint.get("clusterTime"))),
        ("asked for", cell(checkpoint.get("created"))),
        ("for the slot", cell(checkpoint.get("scheduledFor"))),
        ("noted on all parts", cell(checkpoint.get("completed"))),
        ("message", cell(checkpoint.get("message"))),
    ]
    for part in checkpoint.get("parts") or []:
        archived = "archived" if part.get("tokenDiscovered") else "not archived yet"
        fields.append((cell(part.get("clusterName")), f"{_moment(part.get('tokenTimestamp'))}, {archived}"))
    return fields


def _moment(timestamp: Mapping[str, Any] | None) -> str:
    return "-" if timestamp is None else f"{timestamp.get('date')} increment {timestamp.get('increment')}"
