"""The directories of labs: who owns one, and what to do with one whose owner is gone.

Shape and crash: see `ebbtide.testing.lab`.
"""

import json
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ebbtide.errors import Refused
from ebbtide.mongod.process import MongodProcess
from ebbtide.processes import current_boot_id, process_start_ticks

IDENTITY_FILE = "identity.json"

_OWNER_FILE = "owner.json"
_UNOWNED_SECONDS_MAX = 60.0


def default_base_directory() -> Path:
    """Where labs live, made if it lacks. Raises Refused if it is not ours alone: others could swap files in it."""
    base = Path(tempfile.gettempdir()) / f"ebbtide-lab-{os.getuid()}"
    with suppress(FileExistsError):
        base.mkdir(mode=0o700)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Refused(f"{base} is not a directory of ours with mode 0700", hint="remove it")
    return base


def sweep_dead_labs(base_directory: Path) -> list[Path]:
    """Stop the mongods and remove the directories of all labs in `base_directory` whose owner is gone.

    The directories removed. What is not a lab's directory is left alone.
    """
    return [path for path in sorted(base_directory.iterdir()) if path.is_dir() and sweep_if_dead(path)]


def sweep_if_dead(root: Path) -> bool:
    """Remove the lab in `root`, mongods and all, if its owner is gone; whether it was."""
    if not _is_dead(root):
        return False
    for identity_path in sorted(root.glob(f"*/{IDENTITY_FILE}")):
        process = MongodProcess.find_running(identity_path)
        if process is not None:
            process.kill()
    # Another lab that starts now may be removing the same one.
    shutil.rmtree(root, ignore_errors=True)
    return True


def _is_dead(root: Path) -> bool:
    """Whether this is a lab's directory and the process that owns it is gone."""
    try:
        owner = json.loads((root / _OWNER_FILE).read_text())
        is_alive = (
            owner["boot_id"] == current_boot_id()
            and process_start_ticks(owner["pid"]) == owner["start_ticks"]
        )
    except FileNotFoundError:
        return _is_abandoned(root)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return not is_alive


def _is_abandoned(root: Path) -> bool:
    """Whether it is a directory whose maker ended before it could even say so."""
    try:
        is_old = time.time() - root.stat().st_mtime > _UNOWNED_SECONDS_MAX
        return is_old and root.name.startswith("lab-") and not any(root.iterdir())
    except OSError:
        return False


def write_owner(root: Path) -> None:
    """Say that the lab in `root` is this process's."""
    pid = os.getpid()
    record = {"pid": pid, "start_ticks": process_start_ticks(pid), "boot_id": current_boot_id()}
    write_private(root / _OWNER_FILE, json.dumps(record))


def write_private(path: Path, text: str) -> None:
    """Write a file, 0600, whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
