"""The log of a real mongod is begun anew once it is large."""

import time
from collections.abc import Callable
from pathlib import Path

from ebbtide.mongod.log_rotation import KEPT, moved_aside, rotate_log
from ebbtide.mongod.options import MongodOptions
from ebbtide.mongod.process import MongodProcess

WAIT_SECONDS = 90.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_large_log_is_moved_aside_and_the_oldest_go(
    mongod_binary: Path, mongod_options: Callable[..., MongodOptions], identity_path: Path
) -> None:
    process = MongodProcess.start(mongod_binary, mongod_options(), identity_path=identity_path)
    log = process.options.log_path
    try:
        assert not rotate_log(process)
        assert moved_aside(log) == []
        for year in range(2001, 2006):
            log.with_name(f"{log.name}.{year}-01-01T00-00-00").write_text("old")

        assert rotate_log(process, bytes_max=1000)
        newest = f"{log.name}.2005-01-01T00-00-00"
        wait_until(lambda: moved_aside(log)[-1].name > newest and log.exists())
        assert len(moved_aside(log)) == KEPT
        assert log.stat().st_mode & 0o777 == 0o600
        assert "Waiting for connections" in moved_aside(log)[-1].read_text()

        # What a failure would quote is still found.
        assert process.is_running()
        assert process.log_tail(5) != []
    finally:
        process.kill()
    assert not rotate_log(process, bytes_max=0)
