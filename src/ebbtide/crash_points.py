"""Named places where a crash is interesting: right after each durable step.

`reach(name)` costs one attribute check when nothing is armed. Tests arm a point in one of two ways:
  * a file named by EBBTIDE_CRASH_FILE with a name on each line: a process that reaches the first of them takes that
    line out of the file and kills itself with SIGKILL, or, where the line begins with `freeze `, stops with SIGSTOP
    until somebody lets it go on. The file without its last line is removed, which proves that all were visited;
  * `arm(hook)` in-process: the hook is called with the name and may raise.

Every name is in `CRASH_POINTS` with what is durable at that moment; reaching an unlisted name is an error, and a
test proves that every listed name is visited.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

CRASH_POINTS: dict[str, str] = {
    # registration and head
    "cluster.recorded": "the cluster is in the catalog; no head exists",
    "head.started": "the head's mongod runs on an empty dbpath; the set does not know it",
    "head.joined": "the set's configuration lists the head; the catalog does not say so yet",
    "head.rejoining": "the set's configuration lists the head again; the catalog does not say so yet",
    "head.left": "the set's configuration no longer lists the head; its files and process are still there",
    "head.files_removed": "the head's files are gone; the catalog still says that it is leaving",
    # snapshot
    "snapshot.recorded": "the snapshot and its job are in the catalog; nothing else happened",
    "snapshot.lock_intended": "the catalog says that the head is about to be locked; it is not",
    "snapshot.locked": "the head is locked",
    "snapshot.pack_written": "at least one pack is stored; no recipe names it",
    "snapshot.recipes_written": "all packs and recipes are stored; no manifest names them",
    "snapshot.manifest_written": "the snapshot is committed in the repository; the catalog does not know",
    "snapshot.unlocked": "the head is unlocked; the catalog still says that it is locked",
    "snapshot.completed": "the catalog lists the snapshot as complete; the job is still claimed",
    # snapshot of a sharded cluster
    "cluster_snapshot.recorded": "the cluster's snapshot and its job are in the catalog; nothing else happened",
    "cluster_snapshot.balancer_noted": "the catalog says how the balancer was found; it is not stopped",
    "cluster_snapshot.balancer_stopped": "the balancer is off, and no range is moved; no part was asked for",
    "cluster_snapshot.parts_planned": "the cluster's snapshot names those of its parts; none was asked for",
    "cluster_snapshot.parts_requested": "the parts' snapshots are in the catalog, each with its job",
    "cluster_snapshot.time_noted": "every part's oplog passed one cluster time; the catalog does not say which",
    "cluster_snapshot.balancer_restored": "the balancer is as it was found; the catalog still says that it is held",
    "cluster_snapshot.completed": "the cluster's snapshot is complete in the catalog; the job is still claimed",
    # snapshot of a host
    "host.lock_intended": "the catalog says that the host is about to be locked; it is not",
    "host.locked": "the host is locked; nothing of it was copied",
    "host.copied": "the host is locked; all of its documents are in a mongod in scratch",
    "host.unlocked": "the host is unlocked; the catalog still says that it is locked",
    "host.committed": "a host's snapshot is committed in the repository; the catalog does not know",
    "host.recorded": "the catalog lists a host's snapshot as complete; the job is still claimed",
    # oplog archive
    "oplog.slice_put": "a slice of the oplog is stored; the catalog does not say so",
    "oplog.state_recorded": "the catalog says how far the archive is; entries beyond are in memory at most",
    "oplog.merged": "a merged slice is stored; its parts are still there",
    "oplog.part_removed": "a part of a merged slice is gone; others may still be there",
    "oplog.trimmed": "a slice that nothing needs is gone; older and newer ones may still be there",
    # open work of a part of a sharded cluster
    "open_work.recorded": "what was open at a moment is stored; the slices before it may still be there",
    # checkpoint of a sharded cluster
    "checkpoint.recorded": "a checkpoint is in the catalog as wanted; nothing else happened",
    "checkpoint.noted": "every part's oplog has its token; the catalog does not say so",
    # restore job, HTTP
    "restore.recorded": "the restore job is in the catalog; no worker has begun",
    "restore.begun": "the restore job says IN_PROGRESS for its delivery; nothing was prepared",
    "restore.ready": "the link is usable; the archive's SHA-1 is not known",
    "restore.hashed": "the SHA-1 is in the catalog; the job is still claimed",
    # restore job, HTTP, point in time
    "replay.applied": "scratch files are at that moment; what was half done then is still in them",
    "replay.stored": "a result's blocks are stored; no manifest names them",
    "replay.result_committed": "a result is in the repository; its restore job does not say so yet",
    # restore into a running cluster
    "automated.claimed": "the target is claimed for a restore; its job is not in the catalog",
    "automated.source_proven": "the data is in scratch, and readable; nothing on the target was changed",
    "automated.write_blocked": "the target refuses the writes of others; its undo point is not recorded",
    "automated.protected": "the undo point is recorded; nothing on the target was removed",
    "automated.removed": "what makes way is gone from the target",
    "automated.collection_loaded": "one collection has its documents, and the catalog knows",
    "automated.compared": "the comparison is in the catalog; documents do not expire on the target yet",
    "automated.unblocked": "others may write into the target; the job does not say that it is done",
    # prune
    "prune.manifest_removed": "the manifest of a deleted snapshot is gone; what only it referred to is still there",
    "prune.marked": "the repository says what nothing refers to; nothing of that is swept",
    "prune.swept": "an object that nothing refers to is gone; others may still be there",
}

FREEZE = "freeze "

_hook: Callable[[str], None] | None = None
_file = os.environ.get("EBBTIDE_CRASH_FILE")
_armed = _file is not None


def reach(name: str) -> None:
    """Say that the durable step `name` is done. Does nothing unless a test armed something."""
    if not _armed:
        return
    if name not in CRASH_POINTS:
        raise ValueError(f"crash point {name!r} is not in the registry")
    if _hook is not None:
        _hook(name)
    if _file is not None:
        _end_here_if_wanted(Path(_file), name)


def _end_here_if_wanted(path: Path, name: str) -> None:
    try:
        first, *others = path.read_text().splitlines() or [""]
    except FileNotFoundError:
        return
    if first.removeprefix(FREEZE) != name:
        return
    if others:
        left = path.with_suffix(".left")
        left.write_text("\n".join(others))
        left.replace(path)
    else:
        path.unlink()
    os.kill(os.getpid(), signal.SIGSTOP if first.startswith(FREEZE) else signal.SIGKILL)


def is_armed() -> bool:
    """Whether somebody may be killing processes on purpose."""
    return _armed


def arm(hook: Callable[[str], None] | None) -> None:
    """Call `hook` at every point reached in this process; None disarms."""
    global _hook, _armed
    _hook = hook
    _armed = hook is not None or _file is not None
