"""Heads whose worker was killed because it did not stop in time."""

from pathlib import Path

from ebbtide.data_directory import DataDirectory
from ebbtide.mongod.options import MongodOptions, Tcp
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.process import MongodProcess
from ebbtide.serve.supervisor import stop_left_heads


def test_the_supervisor_stops_the_heads_that_a_killed_worker_left(
    mongod_binary: Path, tmp_path: Path
) -> None:
    directory = DataDirectory.at(tmp_path / "data")
    directory.prepare()
    place = directory.heads / "cluster"
    options = MongodOptions(
        dbpath=place / "db",
        log_path=place / "mongod.log",
        listen=Tcp(host="127.0.0.1", port=free_port()),
        cache_gb=0.25,
    )
    head = MongodProcess.start(mongod_binary, options, identity_path=place / "mongod.json")
    try:
        stop_left_heads(directory)
        assert not head.is_running()
        assert head.exit_code == 0
        # Nothing is left to stop.
        stop_left_heads(directory)
    finally:
        head.kill()
