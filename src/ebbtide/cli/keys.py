"""`ebbtide keys …`: who may call the API, and from where."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated

import typer

from ebbtide.cli.client import Document
from ebbtide.cli.render import documents
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.session import OutputOption, ProfileOption, open_client
from ebbtide.errors import InvalidInput
from ebbtide.logs import configure_logs
from ebbtide.settings import Settings


def register(app: typer.Typer) -> None:
    """Add `keys` to the command line."""
    commands = typer.Typer(
        name="keys", help="API keys and the addresses that may use them.", no_args_is_help=True
    )
    commands.command(name="list", epilog=_LIST_EXAMPLES)(list_)
    commands.command(name="allow", epilog=_ALLOW_EXAMPLES)(allow)
    commands.command(name="disallow", epilog=_DISALLOW_EXAMPLES)(disallow)
    commands.command(name="reset-owner", epilog=_RESET_EXAMPLES)(reset_owner)
    app.add_typer(commands)


KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The public key.")]

_LIST_EXAMPLES = """\b
Examples:
  ebbtide keys list
  ebbtide keys list -o json | jq -r '.[].accessList[].cidrBlock'
"""


def list_(output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None) -> None:
    """List API keys with the addresses that may use them: your own, or all for a global owner."""
    with open_client(profile) as client:
        out = Output(output)
        found = client.list_keys()
        out.document(found)
        out.table(documents.KEY_HEADERS, [documents.key_row(key) for key in found], empty="there is no key")


_ALLOW_EXAMPLES = """\b
Examples:
  ebbtide keys allow zmmrboas 192.0.2.7
  ebbtide keys allow zmmrboas 192.0.2.0/24 2001:db8::/32
"""


def allow(
    key: KeyArgument,
    addresses: Annotated[list[str], typer.Argument(metavar="CIDR", help="Addresses or CIDR blocks.")],
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Let a key be used from more addresses."""
    entries = [access_entry(address) for address in addresses]
    with open_client(profile) as client:
        _show_key(Output(output), client.allow_addresses(key, entries))


_DISALLOW_EXAMPLES = """\b
Examples:
  ebbtide keys disallow zmmrboas 192.0.2.7
  ebbtide keys disallow zmmrboas 192.0.2.0/24
"""


def disallow(
    key: KeyArgument,
    address: Annotated[
        str, typer.Argument(metavar="CIDR", help="The address or CIDR block, as it is listed.")
    ],
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Take an address off a key's access list. The address that you call from cannot be taken off."""
    entry = next(iter(access_entry(address).values()))
    with open_client(profile) as client:
        _show_key(Output(output), client.disallow_address(key, entry))


_RESET_EXAMPLES = """\b
Examples:
  ebbtide keys reset-owner --data /var/lib/ebbtide
"""


def reset_owner(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="The data directory of `ebbtide serve`.")
    ],
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Replace a lost owner key, on the machine of the service.

    Works on the data directory, not through the API. The new private key is printed once, here, and kept nowhere.
    """
    if not data.is_dir():
        raise InvalidInput("--data", expected="the data directory of `ebbtide serve`", got=str(data))
    # Late: it brings the catalog and mongod along, which no other command here needs.
    from ebbtide.serve.first_start import reset_owner as reset

    settings = _service_settings(data)
    # Without this, log lines go to standard output, among the result.
    configure_logs(level=str(settings["log.level"]), style=str(settings["log.format"]))
    public_key, private_key = reset(data, settings)
    out = Output(output)
    out.document({"publicKey": public_key, "privateKey": private_key})
    out.fields([("public key", public_key), ("private key", private_key)])
    if not out.as_json:
        out.remark("the private key is not shown again; put both into your profile (`ebbtide config path`)")


def access_entry(address: str) -> Document:
    """One entry for an access list: `{"ipAddress"}` or `{"cidrBlock"}`. Raises InvalidInput."""
    try:
        if "/" in address:
            return {"cidrBlock": str(ipaddress.ip_network(address))}
        return {"ipAddress": str(ipaddress.ip_address(address))}
    except ValueError as error:
        raise InvalidInput("CIDR", expected=f"an address or a CIDR block ({error})", got=address) from error


def _show_key(output: Output, key: Document) -> None:
    output.document(key)
    entries = ", ".join(documents.address_of(entry) for entry in key.get("accessList") or [])
    output.text(f"{key.get('publicKey')} may be used from: {entries or 'anywhere'}")


def _service_settings(data: Path) -> Settings:
    from ebbtide.settings import resolve_settings

    return resolve_settings(
        flags={}, environment=os.environ, file=data / "ebbtide.toml", file_must_exist=False
    )
