"""What the commands for API keys and for service accounts share: their options, and what they show."""

import ipaddress
from typing import Annotated, Any

import typer

from ebbtide.cli.client import Document, EbbtideClient
from ebbtide.cli.render import documents
from ebbtide.cli.render.output import Output
from ebbtide.cli.session import resolve_group
from ebbtide.errors import InvalidInput

RoleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        metavar="ROLE[:PROJECT]",
        help="GROUP_READ_ONLY, GROUP_BACKUP_ADMIN or GROUP_OWNER, in PROJECT or else --group; GLOBAL_READ_ONLY, "
        "GLOBAL_BACKUP_ADMIN or GLOBAL_OWNER. Can be repeated.",
    ),
]
DescriptionOption = Annotated[
    str | None, typer.Option("--description", metavar="TEXT", help="What it is for, for people.")
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


def show_addresses(output: Output, caller: Document, *, name: str) -> None:
    """The result of a change of an access list."""
    output.document(caller)
    output.text(f"{name} may be used from: {documents.addresses_of(caller)}")
