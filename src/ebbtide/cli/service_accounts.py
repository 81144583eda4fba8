"""`ebbtide service-accounts …`: callers that log in with OAuth client credentials instead of digest.

A secret is printed once, by the command that made it, and kept nowhere.
"""

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
from ebbtide.cli.render import documents
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.session import GroupOption, OutputOption, ProfileOption, complete_accounts, open_client


def register(app: typer.Typer) -> None:
    """Add `service-accounts` to the command line."""
    commands = typer.Typer(
        name="service-accounts", help="Callers with OAuth client credentials.", no_args_is_help=True
    )
    commands.command(name="list", epilog=_LIST_EXAMPLES)(list_)
    commands.command(name="show", epilog=_SHOW_EXAMPLES)(show)
    commands.command(name="create", epilog=_CREATE_EXAMPLES)(create)
    commands.command(name="change", epilog=_CHANGE_EXAMPLES)(change)
    commands.command(name="add-secret", epilog=_ADD_EXAMPLES)(add_secret)
    commands.command(name="remove-secret", epilog=_REMOVE_SECRET_EXAMPLES)(remove_secret)
    commands.command(name="remove", epilog=_REMOVE_EXAMPLES)(remove)
    commands.command(name="allow", epilog=_ALLOW_EXAMPLES)(allow)
    commands.command(name="disallow", epilog=_DISALLOW_EXAMPLES)(disallow)
    app.add_typer(commands)


AccountArgument = Annotated[
    str, typer.Argument(metavar="CLIENT_ID", help="The client id.", autocompletion=complete_accounts)
]
HoursOption = Annotated[
    int | None,
    typer.Option(
        "--expires-after-hours", metavar="N", help="8 to 8760, the life of its secret. [default: 8760]"
    ),
]

_LIST_EXAMPLES = """\b
Examples:
  ebbtide service-accounts list
"""


def list_(output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None) -> None:
    """List service accounts: those of projects that you own."""
    with open_client(profile) as client:
        out = Output(output)
        found = client.list_callers(Callers.ACCOUNTS)
        out.document(found)
        rows = [documents.account_row(account) for account in found]
        out.table(documents.ACCOUNT_HEADERS, rows, empty="there is no service account")


_SHOW_EXAMPLES = """\b
Examples:
  ebbtide service-accounts show mdb_sa_id_6650f0a1b2c3d4e5f6a7b8c9
"""


def show(
    account: AccountArgument, output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None
) -> None:
    """Show one service account, its secrets masked."""
    callers.show_caller(Callers.ACCOUNTS, account, rows=_rows, output=output, profile=profile)


_CREATE_EXAMPLES = """\b
Examples:
  ebbtide service-accounts create deploy --role GROUP_BACKUP_ADMIN --allow 192.0.2.7
  ebbtide service-accounts create nightly --role GROUP_OWNER:shop --expires-after-hours 720
"""


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    roles: RoleOption,
    description: DescriptionOption = None,
    allow: AllowOption = None,
    hours: HoursOption = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Make a service account. Its secret is printed once, here."""
    entries = [access_entry(address) for address in allow or []]
    with open_client(profile) as client:
        body = without_absent(
            name=name,
            description=description,
            grants=read_grants(client, roles, group),
            accessList=entries or None,
            secretExpiresAfterHours=hours,
        )
        made = client.create_caller(Callers.ACCOUNTS, body)
    _show_new(output, made)


_CHANGE_EXAMPLES = """\b
Examples:
  ebbtide service-accounts change mdb_sa_id_6650f0a1b2c3d4e5f6a7b8c9 --role GROUP_READ_ONLY
"""


def change(
    account: AccountArgument,
    roles: RoleOption = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Another name.")] = None,
    description: DescriptionOption = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Give an account other roles, in place of all that it has, or another name or description."""
    callers.change_caller(
        Callers.ACCOUNTS,
        account,
        roles=roles,
        group=group,
        texts={"name": name, "description": description},
        rows=_rows,
        output=output,
        profile=profile,
    )


_ADD_EXAMPLES = """\b
Examples:
  ebbtide service-accounts add-secret mdb_sa_id_6650f0a1b2c3d4e5f6a7b8c9 --expires-after-hours 720
"""


def add_secret(
    account: AccountArgument,
    hours: HoursOption = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Make a second secret, printed once, here. Put it everywhere, then remove the first."""
    with open_client(profile) as client:
        _show_new(output, client.add_secret(account, without_absent(secretExpiresAfterHours=hours)))


_REMOVE_SECRET_EXAMPLES = """\b
Examples:
  ebbtide service-accounts remove-secret mdb_sa_id_6650f0a1b2c3d4e5f6a7b8c9 6650f0a1b2c3d4e5f6a7b8ca
"""


def remove_secret(
    account: AccountArgument,
    secret: Annotated[str, typer.Argument(metavar="SECRET_ID", help="The secret's id, as `show` has it.")],
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Remove a secret. It stops working at once; tokens got with it live on for at most an hour."""
    with open_client(profile) as client:
        callers.show_whole(Output(output), client.remove_secret(account, secret), _rows)


_REMOVE_EXAMPLES = """\b
Examples:
  ebbtide service-accounts remove mdb_sa_id_6650f0a1b2c3d4e5f6a7b8c9
"""


def remove(
    account: AccountArgument, output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None
) -> None:
    """End a service account with its secrets and tokens, at once and for good."""
    done = {"clientId": account, "removed": True}
    callers.end_caller(
        Callers.ACCOUNTS, account, done=done, told=f"{account} is removed", output=output, profile=profile
    )


_ALLOW_EXAMPLES = """\b
Examples:
  ebbtide service-accounts allow mdb_sa_id_6650f0a1b2c3d4e5f6a7b8c9 192.0.2.0/24
"""


def allow(
    account: AccountArgument,
    addresses: AddressesArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Let an account's tokens be used from more addresses."""
    callers.allow_addresses(Callers.ACCOUNTS, account, addresses, output=output, profile=profile)


_DISALLOW_EXAMPLES = """\b
Examples:
  ebbtide service-accounts disallow mdb_sa_id_6650f0a1b2c3d4e5f6a7b8c9 192.0.2.0/24
"""


def disallow(
    account: AccountArgument,
    address: AddressArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Take an address off an account's access list."""
    callers.disallow_address(Callers.ACCOUNTS, account, address, output=output, profile=profile)


def _show_new(output: OutputFormat, account: Document) -> None:
    secrets = [secret["secret"] for secret in account.get("secrets") or [] if "secret" in secret]
    callers.show_new(Output(output), account, _rows, what="secret", secrets=secrets)


def _rows(account: Document) -> list[tuple[str, str]]:
    secrets = [
        f"{documents.cell(secret.get('id'))} until {documents.cell(secret.get('expiresAt'))}"
        for secret in account.get("secrets") or []
    ]
    return [
        ("client id", documents.cell(account.get("clientId"))),
        ("name", documents.cell(account.get("name"))),
        ("description", documents.cell(account.get("description"))),
        ("roles", documents.roles_of(account)),
        ("may be used from", documents.addresses_of(account)),
        *(("secret id", text) for text in secrets),
    ]
