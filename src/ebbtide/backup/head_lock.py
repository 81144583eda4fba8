"""The lock on a head while its files are taken, and the proof that it held.

`fsync` with `lock` opens WiredTiger's backup cursor: what the copy needs is not overwritten until the unlock. The lock
survives the client that took it, so the intention is in the catalog first (`Head.lock_job_id`), and whoever finds
such an intention without a running job unlocks. The lock dies with the mongod: `release` proves that it was the same
one, else what was read is worth nothing.
"""

from pathlib import Path
from typing import Any

from pymongo import MongoClient

from ebbtide.domain.capture import BACKUP_METADATA
from ebbtide.errors import EbbtideError, HeadUnavailable, SnapshotUnusable
from ebbtide.mongod.deployment import DeploymentError, run_admin

Document = dict[str, Any]

LOCK_SECONDS_MAX = 120
"""fsync itself writes a checkpoint first: it takes 10 to 100 ms, and much longer on a very busy disk."""


NOT_LOCKED = "called when not locked"
"""How fsyncUnlock refuses on a server that is not locked; 6.0.5 gives this refusal no code."""


class HeadLock:
    """One counted lock on a head."""

    def __init__(self, client: MongoClient[Document], dbpath: Path) -> None:
        self._client = client
        self._metadata = dbpath / BACKUP_METADATA
        self._inode: int | None = None

    def take(self) -> None:
        """Lock. Raises HeadUnavailable where the head refuses."""
        try:
            run_admin(self._client, "fsync", lock=True, maxTimeMS=LOCK_SECONDS_MAX * 1000)
            self._inode = self._metadata.stat().st_ino
        except FileNotFoundError:
            self.abandon()
            raise SnapshotUnusable(f"the locked head has no {BACKUP_METADATA}") from None
        except DeploymentError as error:
            raise HeadUnavailable(f"the head cannot be locked: {error.message}") from error

    def release(self) -> None:
        """Unlock, and prove that the lock held all the time. Raises SnapshotUnusable where it did not."""
        try:
            same = self._metadata.stat().st_ino == self._inode
        except FileNotFoundError:
            same = False
        try:
            run_admin(self._client, "fsyncUnlock")
        except EbbtideError as error:
            raise SnapshotUnusable(
                f"the head lost its lock while its files were read: {error.message}",
                hint="what was read is thrown away, and the snapshot is taken again",
            ) from error
        if not same:
            raise SnapshotUnusable(
                "the head restarted while its files were read",
                hint="what was read is thrown away, and the snapshot is taken again",
            )

    def abandon(self) -> None:
        """Unlock after a failure. Raises as `unlock_once` does."""
        unlock_once(self._client)


def unlock_once(client: MongoClient[Document]) -> bool:
    """Undo one lock; False where the head is not locked.

    Raises Unreachable or DeploymentError where that is not known: the head may still be locked then.
    """
    try:
        run_admin(client, "fsyncUnlock")
    except DeploymentError as error:
        if NOT_LOCKED in error.message:
            return False
        raise
    return True


def unlock_wholly(client: MongoClient[Document], *, locks_max: int = 100) -> int:
    """Undo every lock; returns how many there were. Raises as `unlock_once` does."""
    for undone in range(locks_max):
        if not unlock_once(client):
            return undone
    return locks_max
