"""`ebbtide clusters rejoin|detach|pause|resume|certificate|set`: what may be asked of the head of a registered cluster."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ebbtide.cli.client import Document
from ebbtide.cli.exit_codes import Interrupted
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.secret_files import read_secret_file
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
"""


def set_(
    name: ClusterArgument,
    mongod: Annotated[
        str | None,
        typer.Option("--mongod", metavar="PATH", help="The mongod that its head runs, on Ebbtide's machine."),
    ] = None,
    default_mongod: Annotated[
        bool, typer.Option("--default-mongod", help="Run the one that the settings say again.")
    ] = False,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Have a cluster's head run another mongod, say because its set is being upgraded.

    It must be of the set's major version. The head is started again with it as soon as no snapshot holds it; a head that
    runs is not stopped for a mongod that cannot be run: `ebbtide events list` tells. Only a global owner may do this.
    """
    if (mongod is None) is not default_mongod:
        raise InvalidInput("--mongod", expected="either a path, or --default-mongod")
    with open_session(profile, group, output) as session:
        changed = session.client.change_cluster(session.group_id, name, {"mongod": mongod})
        session.output.document(changed)
        session.output.text(f"the head of {name} goes over to it; next: ebbtide clusters watch {name}")


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
    output.text(f"  {detached.get('removalCommand')}")


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
