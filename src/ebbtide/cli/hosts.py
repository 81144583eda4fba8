"""`ebbtide hosts …`: mirrored config servers, declared by their operator, and snapshots of them.

A password is never an argument: it would be in the process list and in the shell's history.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ebbtide.cli.client import Document
from ebbtide.cli.render.documents import Fields, cell, size
from ebbtide.cli.render.output import OutputFormat
from ebbtide.cli.render.progress import ProgressView
from ebbtide.cli.render.quantities import human_bytes
from ebbtide.cli.secret_files import read_password
from ebbtide.cli.session import (
    GroupOption,
    OutputOption,
    ProfileOption,
    Session,
    going_on_without_us,
    iter_states,
    open_session,
    require,
)
from ebbtide.cli.snapshots import show_job
from ebbtide.errors import JobFailed, NotFound

HEADERS = ("ID", "ADDRESS", "MONGOD", "LAST SNAPSHOT", "STATE")
_ID_LENGTH = 32


def register(app: typer.Typer) -> None:
    """Add `hosts` to the command line."""
    commands = typer.Typer(
        name="hosts", help="Back up mirrored (SCCC) config servers by themselves.", no_args_is_help=True
    )
    commands.command(name="add", epilog=_ADD_EXAMPLES)(add)
    commands.command(name="list", epilog=_LIST_EXAMPLES)(list_)
    commands.command(name="show", epilog=_SHOW_EXAMPLES)(show)
    commands.command(name="remove", epilog=_REMOVE_EXAMPLES)(remove)
    commands.command(name="snapshot", epilog=_SNAPSHOT_EXAMPLES)(snapshot)
    app.add_typer(commands)


HostArgument = Annotated[str, typer.Argument(metavar="HOST:PORT|ID", help="Its address, or its id.")]

_ADD_EXAMPLES = """\b
Examples:
  ebbtide hosts add cfg1.internal:27019
  ebbtide hosts add cfg1.internal:27019 --username ebbtide --password-file ./password
"""


def add(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where it listens.")],
    username: Annotated[
        str | None, typer.Option("--username", help="The user that Ebbtide logs in as.")
    ] = None,
    password_file: Annotated[
        str | None,
        typer.Option(
            "--password-file", metavar="FILE", help="A file with that user's password; - for standard input."
        ),
    ] = None,
    auth_source: Annotated[
        str, typer.Option("--auth-source", help="The database that has the user.")
    ] = "admin",
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Declare a mongod by itself to be a mirrored config server.

    Its version is not checked. Once more for the same address, it changes the account. The account needs the roles
    backup, clusterMonitor, hostManager and readAnyDatabase.
    """
    declaration: Document = {"address": address}
    password = read_password(username=username, password_file=password_file)
    if username is not None:
        declaration |= {"username": username, "password": password, "authSource": auth_source}
    with open_session(profile, group, output) as session:
        host = session.client.declare_host(session.group_id, declaration)
        session.output.document(host)
        session.output.text(f"host {host.get('address')} is declared, with id {host.get('id')}")
        session.output.text(f"next: ebbtide hosts snapshot {host.get('address')}")


_LIST_EXAMPLES = """\b
Examples:
  ebbtide hosts list
  ebbtide hosts list -o json | jq -r '.[].id'
"""


def list_(
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """List the project's hosts."""
    with open_session(profile, group, output) as session:
        found = session.client.list_hosts(session.group_id)
        session.output.document(found)
        session.output.table(
            HEADERS,
            [_row(host) for host in found],
            empty="no host is declared; next: ebbtide hosts add HOST:PORT",
        )


_SHOW_EXAMPLES = """\b
Examples:
  ebbtide hosts show cfg1.internal:27019
  ebbtide hosts show cfg1.internal:27019 -o json | jq -r .lastSnapshot.id
"""


def show(
    host: HostArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Show a host and its last snapshot."""
    with open_session(profile, group, output) as session:
        found = session.client.get_host(session.group_id, resolve_host(session, host))
        session.output.document(found)
        session.output.fields(_fields(found))


_REMOVE_EXAMPLES = """\b
Examples:
  ebbtide hosts remove cfg1.internal:27019
"""


def remove(
    host: HostArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Take no more snapshots of a host; those that were taken stay.

    Declared again, it has them back.
    """
    with open_session(profile, group, output) as session:
        removed = session.client.remove_host(session.group_id, resolve_host(session, host))
        session.output.document(removed)
        session.output.text(f"host {removed.get('address')} is removed; its snapshots stay")


_SNAPSHOT_EXAMPLES = """\b
Examples:
  ebbtide hosts snapshot cfg1.internal:27019
  ebbtide hosts snapshot cfg1.internal:27019 --no-wait
"""


def snapshot(
    host: HostArgument,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is complete.")] = True,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Take a snapshot of a host now. It is locked against writes while its documents are copied.

    Exit code 11 if it fails.
    """
    with open_session(profile, group, output) as session:
        host_id = resolve_host(session, host)
        taken = session.client.create_host_snapshot(session.group_id, host_id)
        if wait:
            taken = _wait(session, host, host_id, str(require(taken, "id")))
        session.output.document(taken)
        if wait:
            session.output.text(
                f"snapshot {taken.get('id')} of host {host} is complete: "
                f"{human_bytes(taken.get('fileSizeBytes') or 0)} of data files; "
                f"the host was locked for {taken.get('lockSeconds')} s"
            )
        else:
            session.output.text(f"snapshot {taken.get('id')} of host {host} begins")
            session.output.text(f"next: ebbtide hosts show {host}")


def resolve_host(session: Session, wanted: str) -> str:
    """The id that `wanted` stands for. Raises NotFound for an address that no host has."""
    if len(wanted) == _ID_LENGTH and ":" not in wanted:
        return wanted
    for found in session.client.list_hosts(session.group_id):
        if found.get("address") == wanted:
            return str(require(found, "id"))
    raise NotFound(f"no host {wanted} is declared", hint="ebbtide hosts list shows those that are")


def _wait(session: Session, host: str, host_id: str, snapshot_id: str) -> Document:
    """The snapshot once it is complete. Raises JobFailed."""
    last: Document = {}
    goes_on = f"the snapshot goes on; to look again: ebbtide hosts show {host}"
    with going_on_without_us(goes_on), ProgressView(session.output) as view:
        for last in iter_states(
            lambda: session.client.get_host_snapshot(session.group_id, host_id, snapshot_id),
            lambda found: found.get("state") != "IN_PROGRESS",
        ):
            if last.get("state") == "IN_PROGRESS":
                show_job(view, last.get("job"), waiting="waiting for a worker")
    if last.get("state") != "COMPLETE":
        raise JobFailed(f"snapshot {snapshot_id} of host {host} failed: {last.get('error')}")
    return last


def _row(host: Mapping[str, Any]) -> tuple[str, ...]:
    last = host.get("lastSnapshot") or {}
    return (
        cell(host.get("id")),
        cell(host.get("address")),
        cell(host.get("mongodVersion")),
        cell(last.get("created")),
        cell(last.get("state")),
    )


def _fields(host: Mapping[str, Any]) -> Fields:
    last = host.get("lastSnapshot") or {}
    return [
        ("id", cell(host.get("id"))),
        ("address", cell(host.get("address"))),
        ("state", cell(host.get("state"))),
        ("mongod", cell(host.get("mongodVersion"))),
        ("user", cell(host.get("username"))),
        ("locked", "yes" if host.get("locked") else "no"),
        ("last snapshot", cell(last.get("id"))),
        ("asked for", cell(last.get("created"))),
        ("its state", cell(last.get("state"))),
        ("files", size(last.get("fileSizeBytes")) if last else ""),
        ("error", cell(last.get("error") or (last.get("job") or {}).get("error"))),
    ]
