"""`ebbtide clusters credentials`: what opens a cluster's set, given again.

Files named on the command line are read here; the API gets their contents, never a path.
"""

from pathlib import Path
from typing import Annotated

import typer

from ebbtide.cli.callers import without_absent
from ebbtide.cli.render.output import OutputFormat
from ebbtide.cli.secret_files import read_password, read_secret_file
from ebbtide.cli.session import ClusterArgument, GroupOption, OutputOption, ProfileOption, open_session
from ebbtide.errors import InvalidInput


def register(commands: typer.Typer) -> None:
    """Add the command to `clusters`."""
    commands.command(name="credentials", epilog=_EXAMPLES)(credentials)


_EXAMPLES = """\b
Examples:
  ebbtide clusters credentials shop --username ebbtide --password-file ./password
  ebbtide clusters credentials shop --username ebbtide --password-file ./password --keyfile /etc/mongodb/keyfile
  ebbtide clusters credentials shop --tls-certificate ./head.pem
"""


def credentials(
    name: ClusterArgument,
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
        str | None, typer.Option("--auth-source", help="The database that has the user; else as before.")
    ] = None,
    keyfile: Annotated[
        Path | None,
        typer.Option("--keyfile", metavar="FILE", help="The set's keyfile; its contents are sent."),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", metavar="FILE", help="Whom to believe from now on; else as before."),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option("--tls-certificate", metavar="FILE", help="Certificate and private key, PEM; sent."),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Give the credentials of a cluster again: they changed, or Ebbtide's secret.key was lost.

    They are tried on the set first, and nothing is replaced unless all of them hold. What is not given stays as it is;
    after secret.key was lost nothing of it can be read any more, so then give all that the cluster was added with.
    Another keyfile means a restart of the head, as soon as no snapshot holds it.
    """
    password = read_password(username=username, password_file=password_file)
    body = without_absent(
        username=username,
        password=password,
        authSource=auth_source,
        keyfile=_read(keyfile, "--keyfile"),
        tlsCa=_read(tls_ca, "--tls-ca"),
        tlsCertificate=_read(tls_certificate, "--tls-certificate"),
    )
    if not body:
        raise InvalidInput(
            "--username", expected="it with --password-file, or --keyfile, or --tls-certificate"
        )
    with open_session(profile, group, output) as session:
        session.output.remark("trying them on the replica set; nothing is changed by that …")
        changed = session.client.set_credentials(session.group_id, name, body)
        session.output.document(changed)
        session.output.text(f"{name} has its credentials again; next: ebbtide clusters watch {name}")


def _read(path: Path | None, option: str) -> str | None:
    return None if path is None else read_secret_file(str(path), option)
