"""`ebbtide restores start --into …`, `plan`, `undo`: restores into a running cluster, which replace what is on it.

Nothing is begun before the plan was shown and a person said yes, or `--yes` was given.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ebbtide.cli.client import Document
from ebbtide.cli.exit_codes import Interrupted
from ebbtide.cli.moments import AtOption, OplogOption, parse_moment
from ebbtide.cli.render import documents
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.render.progress import ProgressView
from ebbtide.cli.render.quantities import human_bytes
from ebbtide.cli.session import (
    ClusterArgument,
    GroupOption,
    OutputOption,
    ProfileOption,
    Session,
    going_on_without_us,
    iter_states,
    open_session,
    require,
)
from ebbtide.cli.snapshots import LATEST, resolve_snapshot, show_job
from ebbtide.errors import InvalidInput, JobFailed, Refused

SHOWN_MAX = 40
"""Namespaces that a plan lists for people; -o json has all of them."""

IntoOption = Annotated[
    str, typer.Option("--into", metavar="CLUSTER", help="The running cluster whose data is replaced.")
]
NamespaceOption = Annotated[
    list[str] | None,
    typer.Option("--namespace", metavar="DB.COLLECTION", help="Only this one; may be given more than once."),
]
RenameOption = Annotated[
    str | None,
    typer.Option("--rename-to", metavar="DB.COLLECTION", help="The one --namespace gets this name."),
]
CompareOption = Annotated[
    bool, typer.Option("--compare/--no-compare", help="Compare the content at the end, not only the counts.")
]
AccountsOption = Annotated[bool, typer.Option("--with-users-and-roles", help="Restore users and roles too.")]
UndoOption = Annotated[
    bool, typer.Option("--undo/--no-undo", help="Keep what is there now, so that it can be brought back.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]
SnapshotOption = Annotated[
    str | None,
    typer.Option(
        "--snapshot", metavar="ID|latest", help="A snapshot as it is; latest is the newest complete one."
    ),
]


@dataclass(frozen=True, kw_only=True)
class IntoRequest:
    """What was asked for on the command line, but for the moment."""

    into: str
    namespaces: Sequence[str] = ()
    rename_to: str | None = None
    compare: bool = True
    with_users_and_roles: bool = False
    undo: bool = True

    def body(self, point: Mapping[str, Any]) -> Document:
        """As the API takes it."""
        body: Document = {
            "targetClusterName": self.into,
            "compare": self.compare,
            "withUsersAndRoles": self.with_users_and_roles,
            "undo": self.undo,
            **point,
        }
        if self.namespaces:
            body["namespaces"] = list(self.namespaces)
        if self.rename_to is not None:
            body["renameTo"] = self.rename_to
        return body


def register(commands: typer.Typer) -> None:
    """Add the commands to `restores`."""
    commands.command(name="plan", epilog=_PLAN_EXAMPLES)(plan)
    commands.command(name="undo", epilog=_UNDO_EXAMPLES)(undo)


_PLAN_EXAMPLES = """\b
Examples:
  ebbtide restores plan shop --into shop --at 2026-11-22T10:00:00Z
  ebbtide restores plan shop --into staging --namespace shop.orders -o json | jq .removed
"""


def plan(
    name: ClusterArgument,
    into: IntoOption,
    snapshot: SnapshotOption = None,
    at: AtOption = None,
    oplog: OplogOption = None,
    namespace: NamespaceOption = None,
    rename_to: RenameOption = None,
    undo: UndoOption = True,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Show what a restore into a running cluster would do: on what it is built, and what would be removed.

    Changes nothing. Exit code 3 where the restore would not begin as things are.
    """
    wanted = IntoRequest(into=into, namespaces=namespace or (), rename_to=rename_to, undo=undo)
    point = parse_moment(snapshot=snapshot, at=at, oplog=oplog)
    with open_session(profile, group, output) as session:
        found = fetch_plan(session, name, wanted, point_of(session, name, point))
        session.output.document(found)
        for line in plan_lines(found):
            session.output.text(line)
        require_possible(found)


def start_into(
    session: Session,
    name: str,
    wanted: IntoRequest,
    point: Mapping[str, Any] | None,
    *,
    yes: bool,
    wait: bool,
) -> None:
    """Show the plan, ask, and begin. `point` None is the newest snapshot."""
    moment = point_of(session, name, point)
    found = fetch_plan(session, name, wanted, moment)
    require_possible(found)
    confirm(session.output, found, yes=yes)
    # The very snapshot that the plan named: a newer one may have come meanwhile.
    job = session.client.create_automated_restore(session.group_id, name, wanted.body(moment))
    _tell_begun(session, job, wait=wait)


_UNDO_EXAMPLES = """\b
Examples:
  ebbtide restores undo 6650f0a1b2c3d4e5f6a7b8c9 --wait
  ebbtide restores undo 6650f0a1b2c3d4e5f6a7b8c9 --yes -o json | jq -r .id
"""


def undo(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The id of the restore job to be undone.")],
    yes: YesOption = False,
    wait: WaitOption = False,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Bring back what a restore into a running cluster has replaced.

    What was written there since is lost, as after any restore; this can be undone in turn.
    """
    with open_session(profile, group, output) as session:
        found = session.client.undo_restore(session.group_id, job, {"dryRun": True})
        require_possible(found)
        confirm(session.output, found, yes=yes)
        _tell_begun(session, session.client.undo_restore(session.group_id, job, {}), wait=wait)


# Rules


def plan_lines(found: Mapping[str, Any]) -> list[str]:
    """A plan for people."""
    what = ", ".join(found.get("namespaces") or ()) or "everything"
    renamed = f" as {found['renameTo']}" if found.get("renameTo") else ""
    lines = [
        f"{what}{renamed} is restored into {found.get('targetClusterName')}",
        f"  built on snapshot {found.get('snapshotId')} of {documents.bson_time(found.get('snapshotTimestamp'))}",
    ]
    if found.get("pointInTime"):
        lines.append(
            f"  and the oplog up to {documents.bson_time(found.get('limit'))}: "
            f"about {found.get('entriesToReplay')} entries"
        )
    removed = found.get("removed") or []
    lines.append(
        f"removed from {found.get('targetClusterName')}: {len(removed)} collections, "
        f"{human_bytes(found.get('removedBytes') or 0)}"
    )
    for gone in removed[:SHOWN_MAX]:
        lines.append(
            f"  {gone.get('namespace')}: {gone.get('documents')} documents, {human_bytes(gone.get('sizeBytes') or 0)}"
        )
    if len(removed) > SHOWN_MAX:
        lines.append(f"  and {len(removed) - SHOWN_MAX} more; -o json lists all of them")
    if found.get("withUndo", True):
        lines.append("what is there now is archived first: `ebbtide restores undo JOB` brings it back")
    else:
        lines.append("what is there now is NOT kept: this cannot be undone")
    return lines


def require_possible(found: Mapping[str, Any]) -> None:
    """Raise Refused with every reason why it would not begin."""
    problems = found.get("problems") or []
    if problems:
        raise Refused("; ".join(map(str, problems)), hint="nothing was changed")


def confirm(output: Output, found: Mapping[str, Any], *, yes: bool) -> None:
    """Show the plan, and ask unless told not to."""
    for line in plan_lines(found):
        output.remark(line)
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput("--yes", expected="it, because there is no terminal to ask on")
    if not typer.confirm(f"replace this data of {found.get('targetClusterName')}?", err=True):
        raise Interrupted("nothing was changed")


def require_restored(job: Mapping[str, Any]) -> None:
    """Raise JobFailed unless the data is in place."""
    if job.get("statusName") != "FINISHED":
        says = (job.get("automated") or {}).get("targetSays")
        raise JobFailed(
            f"restore job {job.get('id')} ended {job.get('statusName')}: {job.get('reason')}",
            hint=f"the target: {says}" if says else "`ebbtide events list` tells more",
        )


# Doing


def point_of(session: Session, name: str, point: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The moment as the API takes it; a snapshot by its id."""
    snapshot = (point or {}).get("snapshot", LATEST) if point is None or "snapshot" in point else None
    if snapshot is None:
        return point or {}
    return {"snapshotId": resolve_snapshot(session, name, str(snapshot), only_complete=True)}


def fetch_plan(session: Session, name: str, wanted: IntoRequest, point: Mapping[str, Any]) -> Document:
    body = {**wanted.body(point), "dryRun": True}
    return session.client.create_automated_restore(session.group_id, name, body)


def _tell_begun(session: Session, job: Document, *, wait: bool) -> None:
    job_id = str(require(job, "id"))
    if wait:
        job = wait_until_restored(session, job_id)
    session.output.document(job)
    if wait:
        automated = job.get("automated") or {}
        compared = automated.get("comparison") or {}
        session.output.text(
            f"restore job {job_id} is done: {compared.get('collections')} collections and "
            f"{compared.get('documents')} documents are as they were"
            + (", by count alone" if compared.get("digestSkipped") else ", compared by content")
        )
        if automated.get("canBeUndone"):
            session.output.text(f"to take it back: ebbtide restores undo {job_id}")
    else:
        session.output.text(f"restore job {job_id} begins; next: ebbtide restores watch {job_id}")


def wait_until_restored(session: Session, job_id: str) -> Document:
    """The job once it is done, with its progress meanwhile. Raises JobFailed."""
    last: Document = {}
    with (
        going_on_without_us(f"the restore job goes on; to look again: ebbtide restores watch {job_id}"),
        ProgressView(session.output) as view,
    ):
        for found in iter_states(
            lambda: session.client.get_restore_progress(session.group_id, job_id),
            lambda progress: progress.get("statusName") != "IN_PROGRESS",
        ):
            last = found
            if found.get("statusName") == "IN_PROGRESS":
                show_job(view, found.get("job"), waiting="waiting for a worker")
    require_restored(last)
    return last
