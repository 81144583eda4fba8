"""`ebbtide keys …`: who may call the API, and from where.

A private key is printed once, by the command that made it, and kept nowhere.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from ebbtide.cli import callers
from ebbtide.cli.callers import (
    AddressArgument,
    AddressesArgument,
    AllowOption,
    DescriptionOption,
    RoleOption,
    access_entry,
    read_grants,
    without_absent,
)
from ebbtide.cli.client import Callers, Document
from ebbtide.cli.moments import parse_hours
from ebbtide.cli.render import documents
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.session import GroupOption, OutputOption, ProfileOption, complete_keys, open_client
from ebbtide.errors import InvalidInput
from ebbtide.logs import configure_logs
from ebbtide.settings import Settings


def register(app: typer.Typer) -> None:
    """Add `keys` to the command line."""
    commands = typer.Typer(
        name="keys", help="API keys and the addresses that may use them.", no_args_is_help=True
    )
    commands.command(name="list", epilog=_LIST_EXAMPLES)(list_)
    commands.command(name="show", epilog=_SHOW_EXAMPLES)(show)
    commands.command(name="create", epilog=_CREATE_EXAMPLES)(create)
    commands.command(name="change", epilog=_CHANGE_EXAMPLES)(change)
    commands.command(name="rotate", epilog=_ROTATE_EXAMPLES)(rotate)
    commands.command(name="revoke", epilog=_REVOKE_EXAMPLES)(revoke)
    commands.command(name="allow", epilog=_ALLOW_EXAMPLES)(allow)
    commands.command(name="disallow", epilog=_DISALLOW_EXAMPLES)(disallow)
    commands.command(name="reset-owner", epilog=_RESET_EXAMPLES)(reset_owner)
    app.add_typer(commands)


KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="The public key.", autocompletion=complete_keys)
]
ExpiresOption = Annotated[
    str | None,
    typer.Option(
        "--expires-in", metavar="TIME", help="How long it is good for: 12h, 90d. [default: for good]"
    ),
]

_LIST_EXAMPLES = """\b
Examples:
  ebbtide keys list
  ebbtide keys list -o json | jq -r '.[].accessList[].cidrBlock'
"""


def list_(output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None) -> None:
    """List API keys with the addresses that may use them: your own, and those of projects that you own."""
    with open_client(profile) as client:
        out = Output(output)
        found = client.list_keys()
        out.document(found)
        out.table(documents.KEY_HEADERS, [documents.key_row(key) for key in found], empty="there is no key")


_SHOW_EXAMPLES = """\b
Examples:
  ebbtide keys show zmmrboas
  ebbtide keys show zmmrboas -o json | jq '.accessList[] | {cidrBlock, lastUsed, count}'
"""


def show(key: KeyArgument, output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None) -> None:
    """Show one API key."""
    callers.show_caller(Callers.KEYS, key, rows=_rows, output=output, profile=profile)


_CREATE_EXAMPLES = """\b
Examples:
  ebbtide keys create --role GROUP_READ_ONLY --description dashboards
  ebbtide keys create --role GROUP_BACKUP_ADMIN --group shop --allow 192.0.2.7
  ebbtide keys create --role GROUP_READ_ONLY --description auditor --expires-in 90d
  ebbtide keys create --role GROUP_OWNER:shop --role GROUP_READ_ONLY:billing -o json
"""


def create(
    roles: RoleOption,
    description: DescriptionOption = None,
    allow: AllowOption = None,
    expires_in: ExpiresOption = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Make an API key. Its private key is printed once, here.

    Without --allow it may read from anywhere, but not ask for restores: those need a listed address. A key that ends
    cannot be prolonged: make another one in time. An event and `ebbtide doctor` tell of it beforehand.
    """
    expires = None if expires_in is None else _end_after(expires_in)
    entries = [access_entry(address) for address in allow or []]
    with open_client(profile) as client:
        body = without_absent(
            description=description,
            grants=read_grants(client, roles, group),
            accessList=entries or None,
            expires=expires,
        )
        made = client.create_caller(Callers.KEYS, body)
    _show_new(output, made)


_CHANGE_EXAMPLES = """\b
Examples:
  ebbtide keys change zmmrboas --role GROUP_READ_ONLY
  ebbtide keys change zmmrboas --description "nightly restore test"
"""


def change(
    key: KeyArgument,
    roles: RoleOption = None,
    description: DescriptionOption = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Give a key other roles, in place of all that it has, or another description."""
    callers.change_caller(
        Callers.KEYS,
        key,
        roles=roles,
        group=group,
        texts={"description": description},
        rows=_rows,
        output=output,
        profile=profile,
    )


_ROTATE_EXAMPLES = """\b
Examples:
  ebbtide keys rotate zmmrboas
"""


def rotate(key: KeyArgument, output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None) -> None:
    """Give a key another private key, printed once, here. The old one stops working at once."""
    with open_client(profile) as client:
        _show_new(output, client.rotate_key(key))


_REVOKE_EXAMPLES = """\b
Examples:
  ebbtide keys revoke zmmrboas
"""


def revoke(key: KeyArgument, output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None) -> None:
    """End a key, at once and for good. Links that it asked for stay until they expire."""
    done = {"publicKey": key, "revoked": True}
    callers.end_caller(Callers.KEYS, key, done=done, told=f"{key} is revoked", output=output, profile=profile)


_ALLOW_EXAMPLES = """\b
Examples:
  ebbtide keys allow zmmrboas 192.0.2.7
  ebbtide keys allow zmmrboas 192.0.2.0/24 2001:db8::/32
"""


def allow(
    key: KeyArgument,
    addresses: AddressesArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Let a key be used from more addresses."""
    callers.allow_addresses(Callers.KEYS, key, addresses, output=output, profile=profile)


_DISALLOW_EXAMPLES = """\b
Examples:
  ebbtide keys disallow zmmrboas 192.0.2.7
  ebbtide keys disallow zmmrboas 192.0.2.0/24
"""


def disallow(
    key: KeyArgument,
    address: AddressArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Take an address off a key's access list. The address that you call from cannot be taken off."""
    callers.disallow_address(Callers.KEYS, key, address, output=output, profile=profile)


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


def _show_new(output: OutputFormat, key: Document) -> None:
    callers.show_new(Output(output), key, _rows, what="private key", secrets=[key.get("privateKey")])


def _rows(key: Document) -> list[tuple[str, str]]:
    return [
        ("public key", documents.cell(key.get("publicKey"))),
        ("description", documents.cell(key.get("description"))),
        ("roles", documents.roles_of(key)),
        ("may be used from", documents.addresses_of(key)),
        ("made", documents.cell(key.get("created"))),
        ("ends", documents.cell(key.get("expires")) or "never"),
    ]


def _end_after(text: str) -> str:
    """The moment that is `text` (`12h`, `90d`) from now, as the API takes it. Raises InvalidInput."""
    try:
        return (datetime.now(UTC) + timedelta(hours=parse_hours(text))).isoformat(timespec="seconds")
    except OverflowError:
        raise InvalidInput(
            "--expires-in", expected="a time that ends before the year 10000", got=text
        ) from None


def _service_settings(data: Path) -> Settings:
    from ebbtide.settings import resolve_settings

    return resolve_settings(
        flags={}, environment=os.environ, file=data / "ebbtide.toml", file_must_exist=False
    )
