"""What every command that talks to the API shares: its options, the connection, the project, waiting.

The project (`group` on the wire) is the one given, else the profile's, else the only one that the key sees.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ebbtide.cli.client import Callers, Document, EbbtideClient
from ebbtide.cli.exit_codes import Interrupted
from ebbtide.cli.profile import resolve_connection
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.errors import EbbtideError, InvalidInput, NotFound, Unreachable

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""While waiting, the API may be away for so long (a restart of `serve`) before that is an error."""

COMPLETION_SECONDS = 1.0
"""A shell that waits longer for a completion feels broken."""


def complete_clusters(context: typer.Context, incomplete: str) -> list[str]:
    """Names of clusters for the shell; nothing at all if anything is wrong."""

    def clusters(client: EbbtideClient) -> list[Document]:
        return client.list_clusters(resolve_group(client, context.params.get("group")))

    return _complete(context, incomplete, clusters)


def complete_checkpoints(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of the checkpoints of the cluster that was named before; nothing at all if anything is wrong."""

    def checkpoints(client: EbbtideClient) -> list[Document]:
        group_id = resolve_group(client, context.params.get("group"))
        return client.list_checkpoints(group_id, str(context.params.get("name")))

    return _complete(context, incomplete, checkpoints, field="id")


def complete_projects(context: typer.Context, incomplete: str) -> list[str]:
    """Names of projects for the shell; nothing at all if anything is wrong."""
    return _complete(context, incomplete, EbbtideClient.list_groups)


def complete_members(context: typer.Context, incomplete: str) -> list[str]:
    """Keys and service accounts with a role in the project, for the shell; nothing at all if anything is wrong."""

    def members(client: EbbtideClient) -> list[Document]:
        return client.list_members(resolve_group(client, context.params.get("group")))

    return _complete(context, incomplete, members)


def complete_keys(context: typer.Context, incomplete: str) -> list[str]:
    """Public keys for the shell; nothing at all if anything is wrong."""
    return _complete(context, incomplete, EbbtideClient.list_keys, field="publicKey")


def complete_accounts(context: typer.Context, incomplete: str) -> list[str]:
    """Client ids of service accounts for the shell; nothing at all if anything is wrong."""
    return _complete(context, incomplete, lambda c: c.list_callers(Callers.ACCOUNTS), field="clientId")


def _complete(
    context: typer.Context,
    incomplete: str,
    ask: Callable[[EbbtideClient], list[Document]],
    *,
    field: str = "name",
) -> list[str]:
    try:
        with EbbtideClient(
            resolve_connection(profile=context.params.get("profile"), environment=os.environ),
            connect_seconds=COMPLETION_SECONDS,
            read_seconds=COMPLETION_SECONDS,
        ) as client:
            names = [str(named.get(field, "")) for named in ask(client)]
    except (EbbtideError, OSError):
        return []
    return [name for name in names if name.startswith(incomplete)]


OutputOption = Annotated[
    OutputFormat, typer.Option("--output", "-o", help="What to print: text for people, json for programs.")
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="The profile to use. [default: default]")
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        "--group",
        metavar="PROJECT",
        help="The project's id or name. [default: the profile's]",
        autocompletion=complete_projects,
    ),
]
ClusterArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The cluster's name or id.", autocompletion=complete_clusters)
]


@dataclass(frozen=True, kw_only=True)
class Session:
    """One command's client, project and output."""

    client: EbbtideClient
    group_id: str
    output: Output


@contextmanager
def open_client(profile: str | None) -> Iterator[EbbtideClient]:
    """A client for the connection that the options and the environment name."""
    with EbbtideClient(resolve_connection(profile=profile, environment=os.environ)) as client:
        yield client


@contextmanager
def open_session(profile: str | None, group: str | None, output: OutputFormat) -> Iterator[Session]:
    """The same with the project resolved."""
    with open_client(profile) as client:
        yield Session(client=client, group_id=resolve_group(client, group), output=Output(output))


def resolve_group(client: EbbtideClient, group: str | None) -> str:
    """The project's id. Raises NotFound for an unknown name, InvalidInput if there is a choice to make."""
    if group is None and client.connection.group_id is not None:
        return client.connection.group_id
    if group is not None and _is_id(group):
        return group
    return choose_group(client.list_groups(), group)


def choose_group(groups: list[Document], name: str | None) -> str:
    """One of `groups` by name, or the only one. Pure."""
    known = ", ".join(f"{group.get('name')} ({group.get('id')})" for group in groups)
    if name is not None:
        found = [str(group["id"]) for group in groups if group.get("name") == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise InvalidInput(
                "--group", expected="the id, because several projects have this name", got=name
            )
        raise NotFound(f"no project is named {name!r}", hint=f"this key sees: {known or 'none'}")
    if len(groups) == 1:
        return str(groups[0]["id"])
    if not groups:
        raise NotFound("this key sees no project", hint="use another key")
    raise InvalidInput(
        "--group", expected="one of the projects that this key sees", hint=f"they are: {known}"
    )


def iter_states(
    fetch: Callable[[], Document],
    is_over: Callable[[Document], bool],
    *,
    poll_seconds: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Document]:
    """The document again and again, until it is over: that one comes last.

    An API that is away for less than PATIENCE_SECONDS goes unnoticed; then Unreachable is raised.
    """
    pause = POLL_SECONDS if poll_seconds is None else poll_seconds
    answered_at = monotonic()
    while True:
        try:
            document = fetch()
        except EbbtideError as error:
            away = monotonic() - answered_at
            if not (error.retryable and away < PATIENCE_SECONDS):
                raise
        else:
            answered_at = monotonic()
            yield document
            if is_over(document):
                return
        sleep(pause)


@contextmanager
def going_on_without_us(message: str) -> Iterator[None]:
    """Ctrl-C inside ends the command with `message`: what happens in the background, and how to see it."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(message) from error


def require(document: Document, field: str) -> Any:
    """A field that the API always sends. Raises Unreachable where it did not: that is another API."""
    try:
        return document[field]
    except KeyError as error:
        raise Unreachable(
            f"the API's answer lacks {field!r}", hint="is this URL that of an Ebbtide API?"
        ) from error


def _is_id(text: str) -> bool:
    return len(text) == 24 and set(text) <= set("0123456789abcdef")
