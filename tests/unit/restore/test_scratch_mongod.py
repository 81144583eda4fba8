"""How a restore's mongod is run; that it does is for the integration tests to show."""

from pathlib import Path

import pytest

from ebbtide.mongod.options import UnixSocket, render_arguments
from ebbtide.restore import scratch_mongod
from ebbtide.restore.scratch_mongod import ScratchFiles, cache_gb
from ebbtide.settings import resolve_settings


def cache(free_gb: float, asked: float, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(scratch_mongod, "_free_memory_gb", lambda: free_gb)
    return cache_gb(resolve_settings(flags={"restore.cache_gb": asked}, environment={}, file=None))


@pytest.mark.parametrize(
    ("free_gb", "asked", "expected"),
    [(8.0, 0.0, 2.0), (0.2, 0.0, 0.25), (400.0, 0.0, 8.0), (8.0, 12.0, 12.0), (8.0, 0.25, 0.25)],
)
def test_the_cache_is_a_quarter_of_what_is_free_unless_it_is_set(
    free_gb: float, asked: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert expected == cache(free_gb, asked, monkeypatch)


def test_nothing_expires_and_nobody_else_can_reach_it(tmp_path: Path) -> None:
    files = ScratchFiles(
        directory=tmp_path, binary=Path("/bin/true"), cache_gb=0.5, storage={"directoryPerDB": True}
    )
    options = scratch_mongod._options(
        files, "open", tmp_path / "m.sock", {"recoverFromOplogAsStandalone": True}
    )
    arguments = render_arguments(options)
    assert options.listen == UnixSocket(path=tmp_path / "m.sock")
    assert "--nounixsocket" in arguments
    assert "ttlMonitorEnabled=false" in arguments
    assert "disableLogicalSessionCacheRefresh=true" in arguments
    assert "recoverFromOplogAsStandalone=true" in arguments
    assert "--directoryperdb" in arguments
    assert "--replSet" not in arguments


def test_a_socket_whose_path_would_be_too_long_is_in_a_private_directory_for_a_while(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with scratch_mongod._socket_path(deep) as path:
        assert deep not in path.parents
        assert path.parent.stat().st_mode & 0o077 == 0
    assert not path.parent.exists()


def test_logs_that_are_not_there_yet_say_nothing(tmp_path: Path) -> None:
    files = ScratchFiles(directory=tmp_path, binary=Path("/bin/true"), cache_gb=0.5)
    assert files.log_lines("replay") == files.log_tail("replay") == []
    files.log_path("replay").write_text("x" * 100_000 + "\nlast\n")
    assert files.log_tail("replay")[-1] == "last"
    assert len("".join(files.log_tail("replay"))) < 70_000
