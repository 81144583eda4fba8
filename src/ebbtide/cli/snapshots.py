"""`ebbtide snapshots …`: take them, list them, wait for them."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ebbtide.cli.client import Document
from ebbtide.cli.render import documents
from ebbtide.cli.render.output import OutputFormat
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
from ebbtide.errors import InvalidInput, JobFailed, NotFound

LATEST = "latest"


def register(app: typer.Typer) -> None:
    """Add `snapshots` to the command line."""
    commands = typer.Typer(name="snapshots", help="Take snapshots, and look at them.", no_args_is_help=True)
    commands.command(name="create", epilog=_CREATE_EXAMPLES)(create)
    commands.command(name="list", epilog=_LIST_EXAMPLES)(list_)
    commands.command(name="show", epilog=_SHOW_EXAMPLES)(show)
    commands.command(name="watch", epilog=_WATCH_EXAMPLES)(watch)
    commands.command(name="keep", epilog=_KEEP_EXAMPLES)(keep)
    commands.command(name="expire", epilog=_EXPIRE_EXAMPLES)(expire)
    commands.command(name="delete", epilog=_DELETE_EXAMPLES)(delete)
    commands.command(name="undelete", epilog=_UNDELETE_EXAMPLES)(undelete)
    app.add_typer(commands)


SnapshotArgument = Annotated[
    str, typer.Argument(metavar="ID|latest", help="The snapshot's id, or latest for the newest.")
]

SnapshotIdArgument = Annotated[str, typer.Argument(metavar="ID", help="The snapshot's id.")]

_CREATE_EXAMPLES = """\b
Examples:
  ebbtide snapshots create shop
  ebbtide snapshots create shop --no-wait
  ebbtide snapshots create shop -o json | jq .newStoredBytes
"""


def create(
    name: ClusterArgument,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is complete.")] = True,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Take a snapshot now.

    Only blocks of the data files that the last snapshot did not have are stored. Of a sharded cluster all parts are taken
    together, and its balancer rests meanwhile. Exit code 11 if it fails.
    """
    with open_session(profile, group, output) as session:
        snapshot = session.client.create_snapshot(session.group_id, name)
        snapshot_id = str(require(snapshot, "id"))
        if not wait:
            session.output.document(snapshot)
            session.output.text(f"snapshot {snapshot_id} of {name} begins")
            session.output.text(f"next: ebbtide snapshots watch {name} {snapshot_id}")
            return
        snapshot = _wait(session, name, snapshot_id, lines=False)
        session.output.document(snapshot)
        _say_complete(session, snapshot)


_LIST_EXAMPLES = """\b
Examples:
  ebbtide snapshots list shop
  ebbtide snapshots list shop -o json | jq -r '.[] | select(.state == "COMPLETE") | .id'
  ebbtide snapshots list shop --deleted
"""


def list_(
    name: ClusterArgument,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Only those that were deleted, and may still come back.")
    ] = False,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """List a cluster's snapshots, newest first."""
    with open_session(profile, group, output) as session:
        found = session.client.list_snapshots(session.group_id, name, deleted=deleted)
        session.output.document(found)
        nothing = f"{name} has no snapshot; next: ebbtide snapshots create {name}"
        session.output.table(
            documents.DELETED_HEADERS if deleted else documents.SNAPSHOT_HEADERS,
            [documents.deleted_row(s) if deleted else documents.snapshot_row(s) for s in found],
            empty=f"no snapshot of {name} was deleted" if deleted else nothing,
        )


_SHOW_EXAMPLES = """\b
Examples:
  ebbtide snapshots show shop
  ebbtide snapshots show shop 6650f0a1b2c3d4e5f6a7b8c9
  ebbtide snapshots show shop latest -o json | jq .stableTimestamp
"""


def show(
    name: ClusterArgument,
    snapshot: SnapshotArgument = LATEST,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Show one snapshot: what it restores to, its sizes, how long the head was locked."""
    with open_session(profile, group, output) as session:
        snapshot_id = resolve_snapshot(session, name, snapshot, only_complete=False)
        found = session.client.get_snapshot(session.group_id, name, snapshot_id)
        session.output.document(found)
        session.output.fields(documents.snapshot_fields(found))


_WATCH_EXAMPLES = """\b
Examples:
  ebbtide snapshots watch shop
  ebbtide snapshots watch shop 6650f0a1b2c3d4e5f6a7b8c9
  ebbtide snapshots watch shop -o json | jq -c .job.progress
"""


def watch(
    name: ClusterArgument,
    snapshot: SnapshotArgument = LATEST,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Wait until a snapshot is complete, showing rate and time left.

    Exit code 0 when it is complete, 11 when it failed. With -o json, one document a line, whenever something changed.
    """
    with open_session(profile, group, output) as session:
        snapshot_id = resolve_snapshot(session, name, snapshot, only_complete=False)
        _say_complete(session, _wait(session, name, snapshot_id, lines=True))


_KEEP_EXAMPLES = """\b
Examples:
  ebbtide snapshots keep shop latest
  ebbtide snapshots keep shop 6650f0a1b2c3d4e5f6a7b8c9
"""


def keep(
    name: ClusterArgument,
    snapshot: SnapshotArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Keep a snapshot until further notice, whatever the schedule's retention says."""
    with open_session(profile, group, output) as session:
        _change(session, name, snapshot, {"doNotDelete": True})


_EXPIRE_EXAMPLES = """\b
Examples:
  ebbtide snapshots expire shop 6650f0a1b2c3d4e5f6a7b8c9 --at 2026-12-31
  ebbtide snapshots expire shop 6650f0a1b2c3d4e5f6a7b8c9
"""


def expire(
    name: ClusterArgument,
    snapshot: SnapshotArgument,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="An ISO 8601 date or time; without a zone it is UTC."),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Say when retention may delete a snapshot.

    Without --at a snapshot that was kept gets the schedule's retention, from now on. The newest complete snapshot of a
    cluster under backup stays beyond its time, until there is another one.
    """
    with open_session(profile, group, output) as session:
        _change(session, name, snapshot, {"doNotDelete": False} if at is None else {"expires": at})


_DELETE_EXAMPLES = """\b
Examples:
  ebbtide snapshots delete shop 6650f0a1b2c3d4e5f6a7b8c9
"""


def delete(
    name: ClusterArgument,
    snapshot: SnapshotIdArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Delete a snapshot. Its download links are dead at once.

    Its data stays for repository.delete_delay_hours (24), and so long it can be brought back. A snapshot
    that undoing a restore is built on is refused for as long as that can be undone.
    """
    with open_session(profile, group, output) as session:
        snapshot_id = require_id(snapshot)
        session.client.delete_snapshot(session.group_id, name, snapshot_id)
        deleted = session.client.get_snapshot(session.group_id, name, snapshot_id)
        session.output.document(deleted)
        session.output.text(f"snapshot {snapshot_id} of {name} is deleted")
        session.output.text(
            f"until {deleted.get('pruneAfter')} this brings it back: "
            f"ebbtide snapshots undelete {name} {snapshot_id}"
        )


_UNDELETE_EXAMPLES = """\b
Examples:
  ebbtide snapshots list shop --deleted
  ebbtide snapshots undelete shop 6650f0a1b2c3d4e5f6a7b8c9
"""


def undelete(
    name: ClusterArgument,
    snapshot: SnapshotIdArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Bring a deleted snapshot back, as long as its data is whole.

    One whose time is over is kept from then on; its old download links stay dead.
    """
    with open_session(profile, group, output) as session:
        found = session.client.undelete_snapshot(session.group_id, name, require_id(snapshot))
        session.output.document(found)
        session.output.text(f"snapshot {found.get('id')} of {name} is back, {documents.kept_until(found)}")


def _change(session: Session, name: str, snapshot: str, change: Document) -> None:
    snapshot_id = resolve_snapshot(session, name, snapshot, only_complete=True)
    changed = session.client.change_snapshot(session.group_id, name, snapshot_id, change)
    session.output.document(changed)
    session.output.text(f"snapshot {snapshot_id} of {name} is {documents.kept_until(changed)}")


def require_id(text: str) -> str:
    """The id itself. Raises InvalidInput for anything else: what is destroyed is named."""
    if len(text) != 24:
        raise InvalidInput("snapshot", expected="an id of 24 hex digits", got=text)
    return text


def resolve_snapshot(session: Session, cluster: str, wanted: str, *, only_complete: bool) -> str:
    """The id that `wanted` stands for. Raises NotFound if there is no snapshot that `latest` could be."""
    if wanted != LATEST:
        if len(wanted) != 24:
            raise InvalidInput("snapshot", expected="an id of 24 hex digits, or latest", got=wanted)
        return wanted
    for snapshot in session.client.list_snapshots(session.group_id, cluster):
        if not only_complete or snapshot.get("state") == "COMPLETE":
            return str(require(snapshot, "id"))
    raise NotFound(
        f"{cluster} has no {'complete ' if only_complete else ''}snapshot",
        hint=f"ebbtide snapshots create {cluster}",
    )


def show_job(view: ProgressView, job: Mapping[str, Any] | None, *, waiting: str) -> None:
    """How far the work behind a snapshot or a restore job is."""
    job = job or {}
    progress = job.get("progress")
    if progress:
        view.show(
            str(progress.get("phase")),
            done=progress.get("done"),
            total=progress.get("total"),
            unit=str(progress.get("unit", "bytes")),
            rate=progress.get("ratePerSecond"),
            seconds_left=progress.get("secondsLeft"),
        )
    elif job.get("error") and job.get("state") == "QUEUED":
        view.show(f"{waiting}: will be tried again after: {job['error']}")
    else:
        view.show(str(job.get("step") or waiting))


def _wait(session: Session, name: str, snapshot_id: str, *, lines: bool) -> Document:
    """The snapshot once it is complete. Raises JobFailed."""
    last: Document = {}
    goes_on = f"the snapshot goes on; to look again: ebbtide snapshots watch {name} {snapshot_id}"
    with going_on_without_us(goes_on), ProgressView(session.output) as view:
        for snapshot in iter_states(
            lambda: session.client.get_snapshot(session.group_id, name, snapshot_id),
            lambda found: found.get("state") != "IN_PROGRESS",
        ):
            if lines and snapshot != last:
                session.output.document_line(snapshot)
            last = snapshot
            if snapshot.get("state") == "IN_PROGRESS":
                show_job(view, snapshot.get("job"), waiting="waiting for a worker")
    if last.get("state") != "COMPLETE":
        reason = last.get("error") or (last.get("job") or {}).get("error") or "no reason was given"
        raise JobFailed(
            f"snapshot {snapshot_id} of {name} failed: {reason}",
            hint=f"`ebbtide events list {name}` tells more",
        )
    return last


def _say_complete(session: Session, snapshot: Mapping[str, Any]) -> None:
    session.output.text(
        f"snapshot {snapshot.get('id')} of {snapshot.get('clusterName')} is complete: "
        f"{human_bytes(snapshot.get('fileSizeBytes') or 0)} of data files, "
        f"newly stored: {documents.newly_stored(snapshot)}"
    )
    session.output.text(f"next: ebbtide restores start {snapshot.get('clusterName')} --wait")
