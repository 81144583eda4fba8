"""Where the demo lives, that there is one at a time, and how what is left of one is removed.

    <temporary directory>/ebbtide-demo-<uid>/   0700
      demo.json     of the running demo: pid, start ticks, boot id, and what `--detach` prints
      demo.lock     held by the running demo; dies with it
      work/         data directory of Ebbtide, download, restored copies

Crash: the lock is gone, demo.json and work/ stay, and so may mongods. `clear_leftovers` ends those of them that it can
prove to be ours, by their identity files.
"""

import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ebbtide.errors import EbbtideError, Refused
from ebbtide.mongod.process import MongodProcess
from ebbtide.processes import current_boot_id, process_start_ticks
from ebbtide.testing.lab_directory import default_base_directory, sweep_dead_labs

STOP_SECONDS = 45.0


@dataclass(frozen=True)
class DemoPlace:
    """The directory of this user's demo."""

    root: Path

    @classmethod
    def of_this_user(cls) -> "DemoPlace":
        """Raises Refused where someone else made that directory."""
        root = Path(tempfile.gettempdir()) / f"ebbtide-demo-{os.getuid()}"
        root.mkdir(mode=0o700, exist_ok=True)
        status = root.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise Refused(
                f"{root} is not private to you", hint="remove it, or set TMPDIR to a directory of yours"
            )
        return cls(root)

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def record(self) -> Path:
        return self.root / "demo.json"

    def lock(self) -> IO[str]:
        """Become the one demo. Raises Refused, saying where the running one is."""
        file = (self.root / "demo.lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            running = self.read_record()
            where = running.get("base_url") or f"starting (pid {running.get('pid', 'unknown')})"
            raise Refused(
                f"a demo is running already: {where}, its files in {self.work}",
                hint="use it, or end it with: ebbtide demo --stop",
            ) from None
        return file

    def write_record(self, facts: Mapping[str, Any]) -> None:
        """What a second demo and `--stop` need to know, 0600."""
        pid = os.getpid()
        record = {"pid": pid, "start_ticks": process_start_ticks(pid), "boot_id": current_boot_id(), **facts}
        descriptor, temporary = tempfile.mkstemp(dir=self.root, prefix=".demo.")
        with os.fdopen(descriptor, "w") as file:
            json.dump(record, file)
        Path(temporary).replace(self.record)

    def read_record(self) -> dict[str, Any]:
        """The record, empty where there is none."""
        try:
            found = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def clear_leftovers(self) -> bool:
        """Remove what a demo that is gone left; whether there was anything. Only while no demo runs."""
        found = self.record.exists() or self.work.exists()
        for identity in sorted(self.work.rglob("*.json")):
            if identity.name in ("mongod.json", "catalog.json"):
                process = MongodProcess.find_running(identity)
                if process is not None:
                    process.kill()
        _wait_for_serve(self.work)
        swept = sweep_dead_labs(default_base_directory())
        shutil.rmtree(self.work, ignore_errors=True)
        self.record.unlink(missing_ok=True)
        return found or bool(swept)


def stop_demo(place: DemoPlace) -> bool:
    """End the running demo in order, and remove what is left of any; whether there was something to do."""
    record = place.read_record()
    pid = record.get("pid")
    is_running = (
        isinstance(pid, int)
        and record.get("boot_id") == current_boot_id()
        and process_start_ticks(pid) == record.get("start_ticks")
    )
    if is_running and isinstance(pid, int):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while process_start_ticks(pid) == record.get("start_ticks"):
            if time.monotonic() > deadline:
                raise EbbtideError(
                    f"the demo (pid {pid}) does not stop", hint=f"kill -9 {pid}, then: ebbtide demo --stop"
                )
            time.sleep(0.1)
    with place.lock():
        return place.clear_leftovers() or is_running


def _wait_for_serve(work: Path) -> None:
    """A serve whose demo was killed stops by itself (parent-death signal); give it the time that it needs."""
    path = work / "data" / "run" / "serve.lock"
    deadline = time.monotonic() + 25
    while path.exists() and time.monotonic() < deadline:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.1)
