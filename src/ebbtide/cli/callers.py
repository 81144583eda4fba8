"""What the commands for API keys and for service accounts share: their options, what they do, and what they show."""

import ipaddress
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ebbtide.cli.client import Callers, Document, EbbtideClient
from ebbtide.cli.render import documents
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.session import open_client, resolve_group
from ebbtide.errors import InvalidInput

GROUP_ROLES = ("GROUP_READ_ONLY", "GROUP_BACKUP_ADMIN", "GROUP_OWNER")
GLOBAL_ROLES = ("GLOBAL_READ_ONLY", "GLOBAL_BACKUP_ADMIN", "GLOBAL_OWNER")


def complete_group_roles(incomplete: str) -> list[str]:
    """Roles in a project, for the shell."""
    return [role for role in GROUP_ROLES if role.startswith(incomplete)]


def complete_roles(incomplete: str) -> list[str]:
    """Roles, for the shell."""
    return [role for role in (*GROUP_ROLES, *GLOBAL_ROLES) if role.startswith(incomplete)]


RoleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        metavar="ROLE[:PROJECT]",
        help="GROUP_READ_ONLY, GROUP_BACKUP_ADMIN or GROUP_OWNER, in PROJECT or else --group; GLOBAL_READ_ONLY, "
        "GLOBAL_BACKUP_ADMIN or GLOBAL_OWNER. Can be repeated.",
        autocompletion=complete_roles,
    ),
]
DescriptionOption = Annotated[
    str | None, typer.Option("--description", metavar="TEXT", help="What it is for, for people.")
]
AddressesArgument = Annotated[list[str], typer.Argument(metavar="CIDR", help="Addresses or CIDR blocks.")]
AddressArgument = Annotated[
    str, typer.Argument(metavar="CIDR", help="The address or CIDR block, as it is listed.")
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="CIDR", help="An address or CIDR block to use it from. Can be repeated."),
]


def read_grants(client: EbbtideClient, roles: list[str] | None, group: str | None) -> list[Document]:
    """The roles that `--role` and `--group` name. Raises InvalidInput without any, NotFound for an unknown project."""
    if not roles:
        raise InvalidInput("--role", expected="at least one role", hint="for example --role GROUP_READ_ONLY")
    return [_read_grant(client, text, group) for text in roles]


def _read_grant(client: EbbtideClient, text: str, group: str | None) -> Document:
    role, _, project = text.partition(":")
    if role.startswith("GLOBAL_"):
        return {"role": role}
    return {"role": role, "groupId": resolve_group(client, project or group)}


def access_entry(address: str) -> Document:
    """One entry for an access list: `{"ipAddress"}` or `{"cidrBlock"}`. Raises InvalidInput."""
    try:
        if "/" in address:
            return {"cidrBlock": str(ipaddress.ip_network(address))}
        return {"ipAddress": str(ipaddress.ip_address(address))}
    except ValueError as error:
        raise InvalidInput("CIDR", expected=f"an address or a CIDR block ({error})", got=address) from error


def without_absent(**values: Any) -> Document:
    """A body of the values that were given."""
    return {name: value for name, value in values.items() if value is not None}


Rows = Callable[[Document], list[tuple[str, str]]]
"""What people see of one, line by line."""


def show_caller(kind: Callers, name: str, *, rows: Rows, output: OutputFormat, profile: str | None) -> None:
    """Show one."""
    with open_client(profile) as client:
        show_whole(Output(output), client.get_caller(kind, name), rows)


def change_caller(
    kind: Callers,
    name: str,
    *,
    roles: list[str] | None,
    group: str | None,
    texts: dict[str, str | None],
    rows: Rows,
    output: OutputFormat,
    profile: str | None,
) -> None:
    """Give one other roles, in place of all that it has, or other texts."""
    with open_client(profile) as client:
        grants = read_grants(client, roles, group) if roles else None
        changed = client.change_caller(kind, name, without_absent(**texts, grants=grants))
        show_whole(Output(output), changed, rows)


def allow_addresses(
    kind: Callers, name: str, addresses: list[str], *, output: OutputFormat, profile: str | None
) -> None:
    """Let one be used from more addresses."""
    entries = [access_entry(address) for address in addresses]
    with open_client(profile) as client:
        _show_addresses(Output(output), client.allow_addresses(kind, name, entries), name=name)


def disallow_address(
    kind: Callers, name: str, address: str, *, output: OutputFormat, profile: str | None
) -> None:
    """Take an address off the list of one."""
    entry = next(iter(access_entry(address).values()))
    with open_client(profile) as client:
        _show_addresses(Output(output), client.disallow_address(kind, name, entry), name=name)


def end_caller(
    kind: Callers, name: str, *, done: Document, told: str, output: OutputFormat, profile: str | None
) -> None:
    """End one; `done` and `told` say so, to programs and to people."""
    with open_client(profile) as client:
        client.end_caller(kind, name)
    out = Output(output)
    out.document(done)
    out.text(told)


def show_whole(output: Output, caller: Document, rows: Rows) -> None:
    """One, without anything secret."""
    output.document(caller)
    output.fields(rows(caller))


def show_new(output: Output, caller: Document, rows: Rows, *, what: str, secrets: list[Any]) -> None:
    """One with the secrets that were made just now; `what` they are called."""
    output.document(caller)
    output.fields([*rows(caller), *((what, documents.cell(secret)) for secret in secrets)])
    if not output.as_json:
        output.remark(f"the {what} is not shown again")


def _show_addresses(output: Output, caller: Document, *, name: str) -> None:
    output.document(caller)
    output.text(f"{name} may be used from: {documents.addresses_of(caller)}")
