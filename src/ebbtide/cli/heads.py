"""`ebbtide clusters rejoin|detach|pause|resume|certificate|set`: what may be asked of the head of a registered cluster."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ebbtide.cli.client import Document
from ebbtide.cli.exit_codes import Interrupted
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.secret_files import read_password, read_secret_file
from ebbtide.cli.session import ClusterArgument, GroupOption, OutputOption, ProfileOption, open_session
from ebbtide.errors import InvalidInput


def register(commands: typer.Typer) -> None:
    """Add the commands to `clusters`."""
    commands.command(name="rejoin", epilog=_REJOIN_EXAMPLES)(rejoin)
    commands.command(name="detach", epilog=_DETACH_EXAMPLES)(detach)
    commands.command(name="pause", epilog=_PAUSE_EXAMPLES)(pause)
    commands.command(name="resume", epilog=_RESUME_EXAMPLES)(resume)
    commands.command(name="certificate", epilog=_CERTIFICATE_EXAMPLES)(certificate)
    commands.command(name="set", epilog=_SET_EXAMPLES)(set_)


_SET_EXAMPLES = """\b
Examples:
  ebbtide clusters set shop --mongod /opt/mongodb-7.0/bin/mongod
  ebbtide clusters set shop --default-mongod
  ebbtide clusters set shop --restore-target on --restore-username restorer --restore-password-file ./password
  ebbtide clusters set shop --restore-target off
"""


class Switch(StrEnum):
    """On or off, as a word."""

    ON = "on"
    OFF = "off"


def set_(
    name: ClusterArgument,
    mongod: Annotated[
        str | None,
        typer.Option("--mongod", metavar="PATH", help="The mongod that its head runs, on Ebbtide's machine."),
    ] = None,
    default_mongod: Annotated[
        bool, typer.Option("--default-mongod", help="Run the one that the settings say again.")
    ] = False,
    restore_target: Annotated[
        Switch | None,
        typer.Option("--restore-target", help="Whether restores may replace the data of this cluster."),
    ] = None,
    restore_username: Annotated[
        str | None,
        typer.Option("--restore-username", metavar="USER", help="Who writes then; not the user for backup."),
    ] = None,
    restore_password_file: Annotated[
        str | None,
        typer.Option(
            "--restore-password-file", metavar="FILE", help="A file with that user's password; - for stdin."
        ),
    ] = None,
    restore_auth_source: Annotated[
        str, typer.Option("--restore-auth-source", help="The database that has that user.")
    ] = "admin",
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Let restores into a cluster, or have its head run another mongod.

    With --restore-target on, automated restores may remove and replace its data, as a user that may write: one with the
    roles restore, dbAdminAnyDatabase, readWriteAnyDatabase and clusterMonitor. The user is proved first. A sharded cluster
    needs none: it is written with its keyfile.

    Another mongod, say because the set is being upgraded, must be of the set's major version. The head is started again
    with it as soon as no snapshot holds it; a head that runs is not stopped for a mongod that cannot be run: `ebbtide
    events list` tells. Only a global owner may do this.
    """
    if restore_target is not None:
        if mongod is not None or default_mongod:
            raise InvalidInput("--restore-target", expected="no other change with it")
        body = build_consent(
            restore_target,
            username=restore_username,
            password_file=restore_password_file,
            auth_source=restore_auth_source,
        )
        with open_session(profile, group, output) as session:
            changed = session.client.set_restore_target(session.group_id, name, body)
            session.output.document(changed)
            may = "may" if changed.get("restoreTarget") else "may not"
            session.output.text(f"restores {may} replace the data of {name}")
        return
    if restore_username is not None or restore_password_file is not None:
        raise InvalidInput("--restore-username", expected="--restore-target on with it")
    if (mongod is None) is not default_mongod:
        raise InvalidInput("--mongod", expected="either a path, or --default-mongod")
    with open_session(profile, group, output) as session:
        changed = session.client.change_cluster(session.group_id, name, {"mongod": mongod})
        session.output.document(changed)
        session.output.text(f"the head of {name} goes over to it; next: ebbtide clusters watch {name}")


def build_consent(
    restore_target: Switch, *, username: str | None, password_file: str | None, auth_source: str
) -> Document:
    """The body that makes a cluster a target of restores, or none any more."""
    if restore_target is Switch.OFF:
        if username is not None or password_file is not None:
            raise InvalidInput("--restore-username", expected="it with --restore-target on only")
        return {"enabled": False}
    password = read_password(username=username, password_file=password_file, prefix="--restore-")
    if username is None:
        return {"enabled": True}
    return {"enabled": True, "username": username, "password": password, "authSource": auth_source}


_REJOIN_EXAMPLES = """\b
Examples:
  ebbtide clusters rejoin shop && ebbtide clusters watch shop
"""


def rejoin(
    name: ClusterArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Put a head back that somebody else took out of its set.

    Ebbtide does that by itself once; who takes the head out again seems to mean it, so then it waits for this command.
    """
    with open_session(profile, group, output) as session:
        session.output.document(session.client.ask_head(session.group_id, name, "rejoin"))
        session.output.text(f"the head of {name} is put back; next: ebbtide clusters watch {name}")


_DETACH_EXAMPLES = """\b
Examples:
  ebbtide clusters detach --force shop
"""

ForceOption = Annotated[
    bool, typer.Option("--force", help="Without the set: for a set, or a head's machine, that is lost.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def detach(
    name: ClusterArgument,
    force: ForceOption = False,
    yes: YesOption = False,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Let go of a cluster whose set, or whose head's machine, is lost; its last snapshot stays.

    The set is not asked, so it goes on listing the head: this prints the one line that takes it out, for its primary.
    """
    if not force:
        raise InvalidInput(
            "--force",
            expected="it, because the set is not asked",
            hint=f"while the set is there: ebbtide clusters remove {name}",
        )
    with open_session(profile, group, output) as session:
        cluster = session.client.get_cluster(session.group_id, name)
        if not yes:
            _confirm_detaching(session.output, cluster)
        # By id: what was shown is what is let go of.
        detached = session.client.ask_head(session.group_id, str(cluster.get("id", name)), "detach")
        session.output.document(detached)
        show_detached(session.output, detached)


def show_detached(output: Output, detached: Document) -> None:
    """What is left to do for the person who let go of a cluster."""
    output.text(f"{detached.get('name')} is let go of; its last snapshot stays, older ones until they expire")
    output.text("on the set's primary, once there is one, in mongosh:")
    for line in str(detached.get("removalCommand")).splitlines():
        output.text(f"  {line}")


def _confirm_detaching(output: Output, cluster: Document) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("--yes", expected="it, because there is no terminal to ask on")
    output.remark(f"{cluster.get('name')} will not be backed up any more, and its set is not told:")
    output.remark("  the set lists its head as unreachable until somebody removes it there.")
    if not typer.confirm("let go of it?", err=True):
        raise Interrupted("nothing was changed")


_PAUSE_EXAMPLES = """\b
Examples:
  ebbtide clusters pause shop
"""


def pause(
    name: ClusterArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Take no snapshots of a cluster until it is resumed.

    Its head stays a member and goes on following, so nothing is lost of the time between, and the set notices nothing.
    """
    with open_session(profile, group, output) as session:
        session.output.document(session.client.ask_head(session.group_id, name, "pause"))
        session.output.text(f"no snapshots of {name} until: ebbtide clusters resume {name}")


_RESUME_EXAMPLES = """\b
Examples:
  ebbtide clusters resume shop
"""


def resume(
    name: ClusterArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Take snapshots of a cluster again."""
    with open_session(profile, group, output) as session:
        session.output.document(session.client.ask_head(session.group_id, name, "resume"))
        session.output.text(f"snapshots of {name} are taken again")


_CERTIFICATE_EXAMPLES = """\b
Examples:
  ebbtide clusters certificate shop --tls-certificate ./head-2027.pem
  ebbtide clusters certificate shop --tls-certificate ./head.pem --tls-ca ./both-authorities.pem
"""


def certificate(
    name: ClusterArgument,
    tls_certificate: Annotated[
        Path,
        typer.Option("--tls-certificate", metavar="FILE", help="Certificate and private key, PEM; sent."),
    ],
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", metavar="FILE", help="Whom to believe from now on; else as before."),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Give a head another certificate, before the one it has ends. It is checked first; the head goes on running."""
    body = {"tlsCertificate": read_secret_file(str(tls_certificate), "--tls-certificate")}
    if tls_ca is not None:
        body["tlsCa"] = read_secret_file(str(tls_ca), "--tls-ca")
    with open_session(profile, group, output) as session:
        session.output.document(session.client.ask_head(session.group_id, name, "certificate", body))
        session.output.text(f"the head of {name} shows the new certificate in a moment")
