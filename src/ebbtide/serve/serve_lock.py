"""One process at a time runs what is in a data directory: a file lock, which dies with its holder."""

import fcntl
import os
from typing import IO

from ebbtide.data_directory import DataDirectory
from ebbtide.errors import Refused


def take_serve_lock(directory: DataDirectory) -> IO[str]:
    """Hold the data directory until the file returned is closed. Raises Refused, naming who holds it."""
    lock = (directory.run / "serve.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.read().strip() or "unknown"
        lock.close()
        raise Refused(
            f"another ebbtide serve (pid {pid}) uses {directory.root}",
            hint="stop it first, or choose another --data",
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock
