"""`ebbtide restores …`: get a snapshot, or any second, back as an archive.

A job's link holds a key that lets anyone download all the data, so nothing here prints it unless told to
(`show --link`). Downloads use the link that carries the key in a header.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ebbtide.cli import automated
from ebbtide.cli import download as downloads
from ebbtide.cli.client import Document
from ebbtide.cli.download_fetch import DownloadLink, link_of
from ebbtide.cli.moments import AtOption, OplogOption, parse_hours, parse_moment
from ebbtide.cli.prepare import PREPARE_EXAMPLES, prepare
from ebbtide.cli.render import documents
from ebbtide.cli.render.output import OutputFormat
from ebbtide.cli.render.progress import ProgressView
from ebbtide.cli.render.quantities import human_bytes, human_seconds
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

EXPIRES_IN = "24h"
MAX_DOWNLOADS = 10
"""People come back to a download: a day and ten tries. The API's own defaults stay at one hour and one download."""

STDOUT = "-"


def register(app: typer.Typer) -> None:
    """Add `restores` to the command line."""
    commands = typer.Typer(name="restores", help="Get snapshots back as archives.", no_args_is_help=True)
    commands.command(name="start", epilog=_START_EXAMPLES)(start)
    commands.command(name="list", epilog=_LIST_EXAMPLES)(list_)
    commands.command(name="show", epilog=_SHOW_EXAMPLES)(show)
    commands.command(name="watch", epilog=_WATCH_EXAMPLES)(watch)
    commands.command(name="download", epilog=_DOWNLOAD_EXAMPLES)(download)
    commands.command(name="cancel", epilog=_CANCEL_EXAMPLES)(cancel)
    automated.register(commands)
    commands.command(name="prepare", epilog=PREPARE_EXAMPLES)(prepare)
    app.add_typer(commands)


JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The restore job's id.")]

_START_EXAMPLES = """\b
Examples:
  ebbtide restores start shop --wait
  ebbtide restores start shop --snapshot 6650f0a1b2c3d4e5f6a7b8c9 --expires-in 3d --max-downloads 2
  ebbtide restores start shop --at 2026-11-22T10:00:00Z --wait
  ebbtide restores start shop --at now
  ebbtide restores start shop --oplog 1795341600:12
  ebbtide restores start shop --at 2026-11-22T09:59:59Z --into shop --namespace shop.orders --wait
  JOB=$(ebbtide restores start shop -o json | jq -r .id) && ebbtide restores download "$JOB"
"""


def start(
    name: ClusterArgument,
    snapshot: Annotated[
        str | None,
        typer.Option(
            "--snapshot",
            metavar="ID|latest",
            help="A snapshot as it is. The default: latest is the newest complete one.",
        ),
    ] = None,
    at: AtOption = None,
    oplog: OplogOption = None,
    expires_in: Annotated[
        str, typer.Option("--expires-in", metavar="HOURS", help="How long it can be downloaded: 24h, 3d.")
    ] = EXPIRES_IN,
    max_downloads: Annotated[
        int, typer.Option("--max-downloads", min=1, max=2**31 - 1, help="How many complete downloads.")
    ] = MAX_DOWNLOADS,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is ready.")] = False,
    into: Annotated[
        str | None,
        typer.Option(
            "--into",
            metavar="CLUSTER",
            help="Replace the data of this running cluster, instead of a download.",
        ),
    ] = None,
    namespace: automated.NamespaceOption = None,
    rename_to: automated.RenameOption = None,
    compare: automated.CompareOption = True,
    with_users_and_roles: automated.AccountsOption = False,
    undo: automated.UndoOption = True,
    yes: automated.YesOption = False,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Ask for a snapshot, or for any second, as an archive to download; or restore it into a running cluster.

    With --into, what is on that cluster is removed first, all of it or what --namespace says. The plan is shown, and
    you are asked. `ebbtide restores undo JOB` takes it back.

    A moment is built from the newest snapshot before it: mongod replays the archived oplog on it, which takes a while
    and a copy of the data in the data directory. `ebbtide oplog ranges` tells what can be had.
    """
    hours = parse_hours(expires_in)
    point = parse_moment(snapshot=snapshot, at=at, oplog=oplog)
    if into is not None:
        wanted = automated.IntoRequest(
            into=into,
            namespaces=namespace or (),
            rename_to=rename_to,
            compare=compare,
            with_users_and_roles=with_users_and_roles,
            undo=undo,
        )
        with open_session(profile, group, output) as session:
            automated.start_into(session, name, wanted, point, yes=yes, wait=wait)
        return
    if namespace or rename_to or with_users_and_roles:
        raise InvalidInput("--into", expected="it, where only a part or its users are to be restored")
    with open_session(profile, group, output) as session:
        if point is None or snapshot is not None:
            snapshot_id = resolve_snapshot(session, name, snapshot or LATEST, only_complete=True)
            jobs = session.client.create_restore_jobs(
                session.group_id,
                name,
                snapshot_id=snapshot_id,
                expiration_hours=hours,
                max_downloads=max_downloads,
            )
            what = f"snapshot {snapshot_id}"
        else:
            made = session.client.create_point_in_time_restore(
                session.group_id, name, point=point, expiration_hours=hours, max_downloads=max_downloads
            )
            jobs = [_full_job(session, one) for one in made.get("jobs") or (made,)]
            what = f"{name} at {at or oplog}"
        if jobs and jobs[0].get("batchId"):
            _tell_batch(session, name, jobs, what, wait=wait)
            return
        job = jobs[0]
        job_id = str(require(job, "id"))
        if wait:
            job = _full_job(session, _wait(session, job_id, lines=False))
        session.output.document(documents.without_link(job))
        session.output.text(f"restore job {job_id} of {what}" + (" is ready" if wait else " begins"))
        session.output.text(f"next: ebbtide restores download {job_id}")


_LIST_EXAMPLES = """\b
Examples:
  ebbtide restores list shop
  ebbtide restores list shop -o json | jq -r '.[] | select(.delivery.statusName == "READY") | .id'
"""


def _tell_batch(session: Session, name: str, jobs: list[Document], what: str, *, wait: bool) -> None:
    """What was begun for the parts of a sharded cluster; with `wait` once all of it is ready."""
    batch_id = str(jobs[0]["batchId"])
    if wait:
        jobs = [_full_job(session, _wait(session, str(require(job, "id")), lines=False)) for job in jobs]
    session.output.document([documents.without_link(job) for job in jobs])
    session.output.table(
        documents.RESTORE_HEADERS, [documents.restore_row(job) for job in jobs], empty="no part was asked for"
    )
    at = documents.bson_time(jobs[0].get("timestamp"))
    session.output.text(f"batch {batch_id} of {what}: {len(jobs)} parts, all of them at {at}")
    session.output.text(f"next: ebbtide restores download {batch_id} --of {name} --to DIRECTORY")


def list_(
    name: ClusterArgument,
    batch: Annotated[
        str | None,
        typer.Option("--batch", metavar="ID", help="Only the jobs of this batch of a sharded cluster."),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """List a cluster's restore jobs, newest first."""
    with open_session(profile, group, output) as session:
        found = session.client.list_restore_jobs(session.group_id, name, batch_id=batch)
        session.output.document([documents.without_link(job) for job in found])
        session.output.table(
            documents.RESTORE_HEADERS,
            [documents.restore_row(job) for job in found],
            empty=f"{name} has no restore job; next: ebbtide restores start {name}",
        )


_SHOW_EXAMPLES = """\b
Examples:
  ebbtide restores show 6650f0a1b2c3d4e5f6a7b8c9
  ebbtide restores show 6650f0a1b2c3d4e5f6a7b8c9 -o json | jq -r '.hashes[0].hash'
  curl -O "$(ebbtide restores show 6650f0a1b2c3d4e5f6a7b8c9 --link -o json | jq -r .delivery.url)"
"""


def show(
    job: JobArgument,
    link: Annotated[
        bool, typer.Option("--link", help="Show the download link too. Whoever has it has all the data.")
    ] = False,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Show one restore job: its state, its size, until when it can be downloaded."""
    with open_session(profile, group, output) as session:
        progress = session.client.get_restore_progress(session.group_id, job)
        found = _full_job(session, progress)
        shown = found if link else documents.without_link(found)
        session.output.document(shown)
        session.output.fields(documents.restore_fields(found, progress))
        if link:
            session.output.fields([("link", str((found.get("delivery") or {}).get("url") or ""))])


_WATCH_EXAMPLES = """\b
Examples:
  ebbtide restores watch 6650f0a1b2c3d4e5f6a7b8c9
  ebbtide restores watch 6650f0a1b2c3d4e5f6a7b8c9 -o json | jq -c .job.progress
"""


def watch(
    job: JobArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Wait until a restore job can be downloaded.

    Exit code 0 when it can, 11 when it broke or was cancelled, 3 when it has expired. With -o json, one document a
    line, whenever something changed.
    """
    with open_session(profile, group, output) as session:
        done = _wait(session, job, lines=True)
        if done.get("automated"):
            session.output.text(f"restore job {job} is done; to take it back: ebbtide restores undo {job}")
        else:
            session.output.text(f"restore job {job} is ready; next: ebbtide restores download {job}")


_DOWNLOAD_EXAMPLES = """\b
Examples:
  ebbtide restores download 6650f0a1b2c3d4e5f6a7b8c9
  ebbtide restores download 6650f0a1b2c3d4e5f6a7b8c9 --to /restore/
  ebbtide restores download 6650f0a1b2c3d4e5f6a7b8c9 --to - | tar -xz -C /restore
  ebbtide restores download 6650f0a1b2c3d4e5f6a7b8d0 --of orders --to /restore/    # a batch: all parts
"""


def download(
    job: JobArgument,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="FILE|DIR|-", help="Where to: a file, a directory, or - for standard output."
        ),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(
            "--of",
            metavar="NAME",
            help="JOB is a batch of this sharded cluster: all archives, into a directory.",
        ),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Download a restore job's archive, and verify it.

    Waits until it is ready. What was interrupted goes on where it stopped: run the same command again. The file gets
    its name when its length and SHA-1 are those of the server; else it ends with exit code 8 and keeps its .part.

    With --to -, the archive goes to standard output and -o json tells its result on standard error. Of a batch -o json
    prints one document a line.
    """
    with open_session(profile, group, output) as session:
        if of is None:
            _download_one(session, job, to)
            return
        if to is None or to == STDOUT or not Path(to).is_dir():
            raise InvalidInput(
                "--to", expected="a directory that exists, for the archives of a batch", got=to
            )
        parts = session.client.list_restore_jobs(session.group_id, of, batch_id=job)
        if not parts:
            raise InvalidInput("JOB", expected=f"the id of a batch of {of}", got=job)
        for part in parts:
            _download_one(session, str(require(part, "id")), to, lines=True)


def _download_one(session: Session, job: str, to: str | None, *, lines: bool = False) -> None:
    """With `lines` its document is one of several, a line each."""
    progress = _wait_until_over(session, job, lines=False)
    found = _full_job(session, progress)
    if progress.get("statusName") != "FINISHED":
        require_ready(progress)
    link = link_of(found, base_url=session.client.base_url)
    path = None if to == STDOUT else downloads.target_path(to, link.file_name)
    # A link can die while all that is left to do is to compare a SHA-1; and what an expiry broke off may be
    # resumed for a while: the server decides that.
    is_resumption = path is not None and downloads.part_has_begun(path)
    has_all = path is not None and downloads.part_is_complete(path, progress.get("archiveBytes"))
    if not has_all and not (is_resumption and progress.get("deliveryStatusName") == "EXPIRED"):
        require_ready(progress)
    result = _fetch(session, progress, link, path)
    _say_downloaded(session, progress, link, result, lines=lines)


_CANCEL_EXAMPLES = """\b
Examples:
  ebbtide restores cancel 6650f0a1b2c3d4e5f6a7b8c9
"""


def cancel(
    job: JobArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Cancel a restore job: its work stops, its link dies. The snapshot stays."""
    with open_session(profile, group, output) as session:
        cancelled = session.client.cancel_restore_job(session.group_id, job)
        session.output.document(cancelled)
        session.output.text(f"restore job {job} is cancelled; its snapshot stays")


# Rules


def require_ready(progress: Mapping[str, Any]) -> None:
    """Raise JobFailed (broken, cancelled) or Refused (expired, used up) unless the job can be downloaded."""
    status, delivery = progress.get("statusName"), progress.get("deliveryStatusName")
    job, reason = progress.get("id"), progress.get("reason") or "no reason was given"
    again = f"start another: ebbtide restores start {progress.get('clusterName')}"
    if status == "KILLED":
        raise JobFailed(f"restore job {job} was cancelled", hint=again)
    if status == "BROKEN" or delivery == "FAILED":
        raise JobFailed(f"restore job {job} failed: {reason}", hint="`ebbtide events list` tells more")
    if delivery == "EXPIRED":
        raise Refused(f"restore job {job} expired at {progress.get('expires')}", hint=again)
    if delivery == "MAX_DOWNLOADS_EXCEEDED":
        raise Refused(f"restore job {job} was downloaded as often as it may be", hint=again)


# Doing


def _wait(session: Session, job_id: str, *, lines: bool) -> Document:
    """The job in our own API's form, once it can be downloaded. Raises as `require_ready`."""
    progress = _wait_until_over(session, job_id, lines=lines)
    require_ready(progress)
    return progress


def _wait_until_over(session: Session, job_id: str, *, lines: bool) -> Document:
    """The same, once its work is over, well or not."""
    last: Document = {}
    with (
        going_on_without_us(f"the restore job goes on; to look again: ebbtide restores watch {job_id}"),
        ProgressView(session.output) as view,
    ):
        for progress in iter_states(
            lambda: session.client.get_restore_progress(session.group_id, job_id),
            lambda found: found.get("statusName") != "IN_PROGRESS",
        ):
            if lines and progress != last:
                session.output.document_line(progress)
            last = progress
            if progress.get("statusName") == "IN_PROGRESS":
                show_job(view, progress.get("job"), waiting="waiting for a worker")
    return last


def _full_job(session: Session, progress: Mapping[str, Any]) -> Document:
    """The job as the restore-jobs API shows it. By the cluster's id: a name can have been given anew."""
    found = dict(progress)
    return session.client.get_restore_job(
        session.group_id, str(require(found, "clusterId")), str(require(found, "id"))
    )


def _fetch(
    session: Session, progress: Mapping[str, Any], link: DownloadLink, path: Path | None
) -> downloads.Downloaded:
    again = f"ebbtide restores download {progress.get('id')}" + (f" --to {path}" if path else "")
    stopped = f"what came so far is kept; to go on: {again}" if path else "the download was stopped"
    with going_on_without_us(stopped), ProgressView(session.output) as view:

        def report(phase: str, done: int, total: int | None) -> None:
            view.show(phase, done=done, total=total)

        def fetch_job() -> Document:
            return _full_job(session, progress)

        if path is None:
            return downloads.download_to_stream(
                session.client, link, sys.stdout.buffer, fetch_job=fetch_job, report=report
            )
        return downloads.download_to_file(
            session.client,
            link,
            path,
            fetch_job=fetch_job,
            report=report,
            expected_bytes=progress.get("archiveBytes"),
            may_fetch=progress.get("deliveryStatusName") == "READY",
        )


def _say_downloaded(
    session: Session,
    progress: Mapping[str, Any],
    link: DownloadLink,
    result: downloads.Downloaded,
    *,
    lines: bool,
) -> None:
    document = {
        "jobId": progress.get("id"),
        "file": None if result.path is None else str(result.path),
        "fileName": link.file_name,
        "bytes": result.size_bytes,
        "sha1": result.sha1,
        "sha1Ok": True,
        "resumedAtByte": result.resumed_at,
        "seconds": round(result.seconds, 3),
    }
    directory = link.file_name.removesuffix(".tar.gz")
    took = f"{human_bytes(result.size_bytes)} in {human_seconds(result.seconds)}"
    if result.path is None:
        # Standard output is the archive: not a word may get into it.
        session.output.remark(
            json.dumps(document) if session.output.as_json else f"{took}; SHA-1 {result.sha1} is the server's"
        )
        return
    (session.output.document_line if lines else session.output.document)(document)
    session.output.text(f"{result.path}: {took}")
    session.output.text(f"SHA-1 {result.sha1} is the server's")
    session.output.text(f"to extract: tar -xzf {result.path}")
    session.output.text(f"how to start it: {directory}/restoreInfo.txt")
