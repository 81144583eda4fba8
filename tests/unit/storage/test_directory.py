"""The directory storage: what it leaves on disk."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from ebbtide.errors import StorageError, StorageFull
from ebbtide.storage.directory import DirectoryStorage


def test_a_full_disk_is_storage_full_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = DirectoryStorage(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageFull):
        storage.put("a", [b"data"])
    assert os.listdir(tmp_path) == ["tmp"]
    assert os.listdir(tmp_path / "tmp") == []


def test_another_error_is_a_storage_error_with_its_reason(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)
    storage.put("a", [b"a file"])
    with pytest.raises(StorageError, match="put 'a/b'"):
        storage.put("a/b", [b"a file where a directory should be"])
    assert os.listdir(tmp_path / "tmp") == []


def test_a_directory_removed_by_someone_is_made_again(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)
    storage.put("a/b", [b"x"])
    (tmp_path / "a" / "b").unlink()
    (tmp_path / "a").rmdir()
    storage.put("a/b", [b"y"])
    assert storage.get("a/b", limit=1) == b"y"


def test_sweep_removes_only_what_a_dead_process_left(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)
    with subprocess.Popen(["true"]) as ended:
        pass
    dead = tmp_path / "tmp" / f"{ended.pid}-1234-aa"
    living = tmp_path / "tmp" / f"{storage._owner}-bb"
    stranger = tmp_path / "tmp" / "unnamed"
    for path in (dead, living, stranger):
        path.write_bytes(b"left")
    assert storage.sweep_temporary() == 2
    assert [living.name] == os.listdir(tmp_path / "tmp")


def test_a_reused_process_id_does_not_protect_a_temporary_file(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)
    (tmp_path / "tmp" / f"{os.getpid()}-1-aa").write_bytes(b"left")
    assert storage.sweep_temporary() == 1


def test_free_bytes_is_known(tmp_path: Path) -> None:
    free = DirectoryStorage(tmp_path).free_bytes()
    assert free is not None
    assert free > 0
