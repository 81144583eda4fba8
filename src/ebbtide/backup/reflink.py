"""Clones of a head's files: on a filesystem with reflinks the lock need not last until the last byte is read.

A clone (FICLONE, ioctl_ficlone(2): Btrfs, XFS with reflink=1, bcachefs) shares the blocks of its original until one of
the two is written to; making one takes no reading. So all files are cloned under the lock into a directory beside the
dbpath, the head is unlocked, and the clones are read at leisure. The stat that goes into the manifest is that of the
original, taken before its clone was made: a later snapshot compares originals.

Crash: a directory of clones. It holds back disk space that the head gives up, and harms nothing else; the next
snapshot of the head removes it, and so does the end of the head.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from ebbtide.errors import SnapshotUnusable
from ebbtide.repository.source import SourceFile

CLONES_NAME = "clones"
"""The directory of clones, beside the dbpath, so that it is on the same filesystem."""

FICLONE = 0x40049409
"""linux/fs.h: _IOW(0x94, 9, int)."""

# How a filesystem, or the kernel, says that it cannot. ENOSPC, say, is none of these: it may pass.
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ENOSYS})

CloneFile = Callable[[Path, Path], None]
"""Make the second path, which must not exist, a clone of the first. Raises OSError."""

_log = structlog.get_logger()
_capable: dict[Path, bool] = {}


def clone_file(source: Path, target: Path) -> None:
    """One clone, mode 0600."""
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        writing = os.open(target, flags, 0o600)
        try:
            fcntl.ioctl(writing, FICLONE, reading)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def can_clone(dbpath: Path, *, clone: CloneFile = clone_file) -> bool:
    """Whether a head's files can be cloned beside its dbpath; tried out once for each, and remembered while we run."""
    if dbpath not in _capable:
        answer = _try_out(dbpath, clone)
        if answer is None:
            return False
        _capable[dbpath] = answer
        _log.info("reflink.probed", dbpath=str(dbpath), can_clone=answer)
    return _capable[dbpath]


def _try_out(dbpath: Path, clone: CloneFile) -> bool | None:
    """None where the trial failed for a reason that may pass."""
    trial = dbpath.parent / ".clone-trial"
    try:
        trial.unlink(missing_ok=True)
        # Of a file that every dbpath has, small and never written to again.
        clone(dbpath / "WiredTiger", trial)
    except OSError as error:
        return False if error.errno in _CANNOT else None
    finally:
        trial.unlink(missing_ok=True)
    return True


def clone_all(
    sources: Sequence[SourceFile],
    directory: Path,
    *,
    clone: CloneFile = clone_file,
    check_cancelled: Callable[[], None],
) -> list[SourceFile] | None:
    """Clone every file below `directory`, which is made anew; the sources to be read instead, stats as they were.

    None where a clone failed: what was made is removed then, and the originals have to be read under the lock.
    Raises SnapshotUnusable for a file that vanished since it was seen.
    """
    remove_clones(directory)
    cloned: list[SourceFile] = []
    try:
        for source in sources:
            check_cancelled()
            target = directory / source.path
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            clone(source.absolute, target)
            cloned.append(replace(source, absolute=target))
    except FileNotFoundError as error:
        remove_clones(directory)
        raise SnapshotUnusable(f"{error.filename} vanished while the head was locked") from error
    except OSError as error:
        _log.warning("reflink.failed", directory=str(directory), message=str(error))
        remove_clones(directory)
        return None
    return cloned


def remove_clones(directory: Path) -> bool:
    """Remove the clones of this or an earlier run; False where there were none."""
    if not directory.exists():
        return False
    shutil.rmtree(directory, ignore_errors=True)
    return True
