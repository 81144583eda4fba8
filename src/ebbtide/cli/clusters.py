"""`ebbtide clusters …`: register replica sets and sharded clusters, watch their heads, let them go.

Files named on the command line are read here; the API gets their contents, never a path. A password is never an
argument: it would be in the process list and in the shell's history.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ebbtide.cli import credentials, heads
from ebbtide.cli.api_errors import ApiRefusal
from ebbtide.cli.client import Document
from ebbtide.cli.exit_codes import Interrupted
from ebbtide.cli.render import documents
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.render.progress import ProgressView
from ebbtide.cli.render.quantities import human_bytes
from ebbtide.cli.secret_files import read_password, read_secret_file
from ebbtide.cli.session import (
    ClusterArgument,
    GroupOption,
    OutputOption,
    ProfileOption,
    iter_states,
    open_session,
)
from ebbtide.errors import HeadUnavailable, InvalidInput, Refused, RegistrationRefused

_AUTHORITY = re.compile(r"mongodb(?:\+srv)?://(?P<rest>[^?]*)", re.IGNORECASE)

_HEAD_GONE = ("LEAVING", "GONE")


def register(app: typer.Typer) -> None:
    """Add `clusters` to the command line."""
    commands = typer.Typer(
        name="clusters",
        help="Register replica sets and sharded clusters for backup, and watch them.",
        no_args_is_help=True,
    )
    commands.command(name="add", epilog=_ADD_EXAMPLES)(add)
    commands.command(name="list", epilog=_LIST_EXAMPLES)(list_)
    commands.command(name="show", epilog=_SHOW_EXAMPLES)(show)
    commands.command(name="watch", epilog=_WATCH_EXAMPLES)(watch)
    commands.command(name="remove", epilog=_REMOVE_EXAMPLES)(remove)
    heads.register(commands)
    credentials.register(commands)
    app.add_typer(commands)


_ADD_EXAMPLES = """\b
Examples:
  ebbtide clusters add shop --uri 'mongodb://db1:27017,db2:27017/?replicaSet=rs0' --dry-run
  ebbtide clusters add shop --uri 'mongodb://db1:27017/?replicaSet=rs0' \\
      --username ebbtide --password-file ./password --keyfile /etc/mongodb/keyfile
  ebbtide clusters add shop --uri mongodb://db1 --head-host backup.internal --head-port 27117
  ebbtide clusters add orders --uri 'mongodb://config1:27019/?replicaSet=config' \\
      --username ebbtide --password-file ./password --keyfile /etc/mongodb/keyfile   # a sharded cluster, whole
  ebbtide clusters add shop --uri mongodb+srv://shop.internal --username ebbtide --password-file ./password \\
      --tls-ca ./ca.pem --tls-certificate ./head.pem --head-host backup.internal
"""


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it: letters, digits, hyphens.")],
    uri: Annotated[str, typer.Option("--uri", help="Its connection string, without credentials.")],
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
    keyfile: Annotated[
        Path | None,
        typer.Option(
            "--keyfile", metavar="FILE", help="The set's keyfile, where it uses one; its contents are sent."
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca",
            metavar="FILE",
            help="The authority of the members' certificates, where the set uses TLS.",
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            "--tls-certificate",
            metavar="FILE",
            help="The head's own certificate with its private key, PEM; its contents are sent.",
        ),
    ] = None,
    head_host: Annotated[
        str | None,
        typer.Option("--head-host", metavar="NAME", help="The name at which members reach the head."),
    ] = None,
    head_port: Annotated[
        int | None, typer.Option("--head-port", metavar="PORT", min=1, max=65535, help="The head's port.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check; change nothing.")] = False,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Register a replica set, or a whole sharded cluster, for backup.

    Checks everything first and reports all problems together; nothing is changed unless all is well. Then a hidden
    member (the head) joins the set, in the background: this command does not wait for it.

    Of a sharded cluster name the config server (a shard, or a router, leads there too): every shard and the config
    server get a head. The user must exist in each of them, and the keyfile is needed to stop the balancer meanwhile.
    """
    require_no_credentials(uri)
    registration = build_registration(
        name=name,
        uri=uri,
        username=username,
        password=read_password(username=username, password_file=password_file),
        auth_source=auth_source,
        keyfile=None if keyfile is None else read_secret_file(str(keyfile), "--keyfile"),
        tls_ca=None if tls_ca is None else read_secret_file(str(tls_ca), "--tls-ca"),
        tls_certificate=(
            None if tls_certificate is None else read_secret_file(str(tls_certificate), "--tls-certificate")
        ),
        head_host=head_host,
        head_port=head_port,
    )
    with open_session(profile, group, output) as session:
        session.output.remark("checking the replica set; nothing is changed by that …")
        report = session.client.check_cluster(session.group_id, registration)
        _show_report(session.output, report)
        if not report.get("ok"):
            raise ChecksFailed(name, report.get("checks", []))
        if dry_run:
            session.output.document(report)
            session.output.text(f"{name} can be registered: run the same command without --dry-run")
            return
        try:
            cluster = session.client.add_cluster(session.group_id, registration)
        except ApiRefusal as refusal:
            # Something changed since the dry run: the answer holds all the checks again.
            if refusal.document.get("checks"):
                _show_report(session.output, refusal.document)
            raise
        session.output.document(cluster)
        parts = cluster.get("parts")
        joining = (
            f"the heads of its {len(parts)} parts join their sets" if parts else "its head joins the set"
        )
        session.output.text(f"registered {name} ({cluster.get('id')}); {joining} in the background")
        session.output.text(f"next: ebbtide clusters watch {name}")


_LIST_EXAMPLES = """\b
Examples:
  ebbtide clusters list
  ebbtide clusters list -o json | jq -r '.[] | select(.head.state != "FOLLOWING") | .name'
"""


def list_(
    output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None, group: GroupOption = None
) -> None:
    """List the registered clusters with the state of their heads."""
    with open_session(profile, group, output) as session:
        found = session.client.list_clusters(session.group_id)
        session.output.document(found)
        session.output.table(
            documents.CLUSTER_HEADERS,
            [documents.cluster_row(cluster) for cluster in found],
            empty="no cluster is registered; next: ebbtide clusters add NAME --uri …",
        )


_SHOW_EXAMPLES = """\b
Examples:
  ebbtide clusters show shop
  ebbtide clusters show shop -o json | jq .head.lagSeconds
"""


def show(
    name: ClusterArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Show one cluster: its head's state and lag, its oplog archive's, and its last snapshot."""
    with open_session(profile, group, output) as session:
        cluster = session.client.get_cluster(session.group_id, name)
        session.output.document(cluster)
        session.output.fields(documents.cluster_fields(cluster))


_WATCH_EXAMPLES = """\b
Examples:
  ebbtide clusters watch shop
  ebbtide clusters watch shop && ebbtide snapshots create shop
  ebbtide clusters watch shop -o json | jq -c .head
"""


def watch(
    name: ClusterArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Wait until the head follows its set, showing the initial sync on the way.

    Exit code 0 when it follows; 10 when it failed and needs a person. With -o json, one document a line, whenever
    something changed.
    """
    with open_session(profile, group, output) as session, ProgressView(session.output) as view:
        last: Document = {}
        try:
            for cluster in iter_states(
                lambda: session.client.get_cluster(session.group_id, name), head_has_settled
            ):
                if cluster != last:
                    session.output.document_line(cluster)
                last = cluster
                _show_head(view, cluster)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"the head goes on in the background; to look again: ebbtide clusters watch {name}"
            ) from error
        require_following(last)
        whose = (
            f"all heads of {name} follow their sets"
            if last.get("parts")
            else f"the head of {name} follows its set"
        )
        session.output.text(f"{whose}; next: ebbtide snapshots create {name}")


_REMOVE_EXAMPLES = """\b
Examples:
  ebbtide clusters remove shop
  ebbtide clusters remove shop --yes
  ebbtide clusters remove shop --force      # the set is lost: as `detach --force`
"""


def remove(
    name: ClusterArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: heads.ForceOption = False,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Stop backing up a cluster: its head leaves the set, its last snapshot stays."""
    if force:
        heads.detach(name, force=True, yes=yes, output=output, profile=profile, group=group)
        return
    with open_session(profile, group, output) as session:
        cluster = session.client.get_cluster(session.group_id, name)
        if not yes:
            _confirm_removal(session.output, cluster)
        # By id: the cluster that was shown is the one that is removed, whoever took its name meanwhile.
        removed = session.client.remove_cluster(session.group_id, str(cluster.get("id", name)))
        session.output.document(removed)
        session.output.text(
            f"{cluster.get('name')} is being removed; its last snapshot stays, older ones until they expire"
        )


# Rules


def require_no_credentials(uri: str) -> None:
    """Raise InvalidInput, without repeating `uri`, if it is none or has credentials in it."""
    found = _AUTHORITY.match(uri)
    if found is None:
        raise InvalidInput("--uri", expected="a string that begins with mongodb:// or mongodb+srv://")
    # An @ anywhere before the options is one of credentials: neither hosts nor database names have any.
    if "@" in found["rest"]:
        raise InvalidInput(
            "--uri",
            expected="no user or password in it",
            hint="give --username and --password-file FILE; a password that was typed here is in the shell's history "
            "and was in the process list: change it",
        )


def build_registration(**fields: Any) -> Document:
    """The body of a registration; what was not given is left out."""
    wire = {
        "auth_source": "authSource",
        "tls_ca": "tlsCa",
        "tls_certificate": "tlsCertificate",
        "head_host": "headHost",
        "head_port": "headPort",
    }
    return {wire.get(name, name): value for name, value in fields.items() if value is not None}


class ChecksFailed(RegistrationRefused):
    """A dry run found problems. They were shown one by one; `details` has them for `-o json`."""

    def __init__(self, name: str, checks: Sequence[Mapping[str, Any]]) -> None:
        failed = [check for check in checks if not check.get("ok")]
        super().__init__([(str(check.get("what", "")), str(check.get("fix", ""))) for check in failed])
        self.message = f"{name} cannot be registered: {len(failed)} of {len(checks)} checks failed"
        self.hint = "put right what failed and run the same command again; nothing was changed"
        self.kind = RegistrationRefused
        self.details = {"errorCode": "REGISTRATION_REFUSED", "checks": list(checks)}


def head_has_settled(cluster: Mapping[str, Any]) -> bool:
    """Whether waiting for the head, or for those of all parts, is over, well or not."""
    if cluster.get("parts"):
        settled = [part for part in cluster["parts"] if head_has_settled(part)]
        is_trouble = any((part.get("head") or {}).get("state") != "FOLLOWING" for part in settled)
        return is_trouble or len(settled) == len(cluster["parts"])
    if cluster.get("state") in ("REMOVING", "REMOVED"):
        return True
    return (cluster.get("head") or {}).get("state") in ("FOLLOWING", "FAILED", "REMOVED", *_HEAD_GONE)


def require_following(cluster: Mapping[str, Any]) -> None:
    """Raise HeadUnavailable for a failed head, Refused for a cluster that is being removed."""
    for part in cluster.get("parts") or ():
        if head_has_settled(part):
            require_following(part)
    head = cluster.get("head") or {}
    name = cluster.get("name")
    if cluster.get("parts") and cluster.get("state") == "ACTIVE":
        return
    if cluster.get("state") in ("REMOVING", "REMOVED") or head.get("state") in _HEAD_GONE:
        raise Refused(f"{name} is being removed: its head does not come back")
    if head.get("state") == "REMOVED":
        raise HeadUnavailable(
            f"somebody took the head of {name} out of its set", hint=f"ebbtide clusters rejoin {name}"
        )
    if head.get("state") == "FAILED":
        raise HeadUnavailable(
            f"the head of {name} failed: {head.get('message') or 'no reason was given'}",
            hint=f"`ebbtide events list {name}` tells more",
        )


# Showing


def _show_report(output: Output, report: Mapping[str, Any]) -> None:
    if output.as_json:
        return
    for check in report.get("checks", []):
        output.remark(f"  {'ok  ' if check.get('ok') else 'FAIL'}  {check.get('name')}: {check.get('what')}")
        if not check.get("ok") and check.get("fix"):
            output.remark(f"        fix: {check['fix']}")
    head, needs = report.get("head") or {}, report.get("needs") or {}
    for part in report.get("parts") or ():
        output.remark(f"the head of {part['name']} will be {part['head']['host']}:{part['head']['port']}")
    if needs and (head or report.get("parts")):
        who = (
            f"the head will be {head.get('host')}:{head.get('port')}; it takes"
            if head
            else "together they take"
        )
        output.remark(
            f"{who} about {human_bytes(needs.get('diskBytes') or 0)} of disk and "
            f"{human_bytes(needs.get('memoryBytes') or 0)} of memory on Ebbtide's machine"
        )


def _show_head(view: ProgressView, cluster: Mapping[str, Any]) -> None:
    if cluster.get("parts"):
        view.show(documents.heads_in_short(cluster["parts"]))
        return
    head = cluster.get("head") or {}
    sync = head.get("initialSync")
    state = str(head.get("state", "waiting for a worker"))
    if state in ("SYNCING", "RESEEDING") and sync:
        view.show(
            "initial sync" if state == "SYNCING" else "built from a snapshot",
            done=sync.get("doneBytes"),
            total=sync.get("totalBytes"),
            seconds_left=sync.get("secondsLeft"),
        )
    else:
        message = head.get("message")
        view.show(f"head: {state}" + (f" ({message})" if message else ""))


def _confirm_removal(output: Output, cluster: Mapping[str, Any]) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("--yes", expected="it, because there is no terminal to ask on")
    output.remark(f"{cluster.get('name')} will not be backed up any more:")
    for part in cluster.get("parts") or (cluster,):
        head = part.get("head") or {}
        output.remark(
            f"  the head {head.get('host', '')}:{head.get('port', '')} leaves {part.get('replicaSetName')},"
        )
    output.remark("  and their files are deleted; snapshots and restore jobs stay.")
    if not typer.confirm("remove it?", err=True):
        raise Interrupted("nothing was changed")
