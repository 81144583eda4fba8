"""Clones: made once it is known that they can be, all or none, and read in place of what they were made of."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebbtide.backup import reflink
from ebbtide.backup.reflink import can_clone, clone_all, clone_file, remove_clones
from ebbtide.errors import SnapshotUnusable
from ebbtide.repository.source import SourceFile, stat_file

Clone = Callable[[Path, Path], None]


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reflink, "_capable", {})
        yield


@pytest.fixture
def dbpath(tmp_path: Path) -> Path:
    (tmp_path / "db" / "journal").mkdir(parents=True)
    for name in ("WiredTiger", "collection-0.wt", "journal/WiredTigerLog.1"):
        (tmp_path / "db" / name).write_text(f"the text of {name}")
    return tmp_path / "db"


def fails_with(number: int, *, after: int = 0) -> Clone:
    """As a filesystem that clones `after` files, and then says no."""
    left = [after]

    def clone(source: Path, target: Path) -> None:
        if left[0] == 0:
            raise OSError(number, os.strerror(number), str(source))
        left[0] -= 1
        shutil.copy(source, target)

    return clone


def sources(dbpath: Path) -> list[SourceFile]:
    files = sorted(p for p in dbpath.rglob("*") if p.is_file())
    return [SourceFile(path=p.relative_to(dbpath).as_posix(), absolute=p, stat=stat_file(p)) for p in files]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY])
def test_a_filesystem_that_cannot_is_asked_once(dbpath: Path, number: int) -> None:
    assert not can_clone(dbpath, clone=fails_with(number))
    assert not can_clone(dbpath, clone=shutil.copy)  # type: ignore[arg-type]
    assert [p.name for p in dbpath.parent.iterdir()] == ["db"]


def test_a_full_disk_proves_nothing(dbpath: Path) -> None:
    assert not can_clone(dbpath, clone=fails_with(errno.ENOSPC))
    assert can_clone(dbpath, clone=shutil.copy)  # type: ignore[arg-type]
    assert can_clone(dbpath, clone=fails_with(errno.EOPNOTSUPP))
    assert [p.name for p in dbpath.parent.iterdir()] == ["db"]


def test_clones_are_read_with_the_stat_of_their_originals(dbpath: Path, tmp_path: Path) -> None:
    originals = sources(dbpath)
    (tmp_path / "clones").mkdir()
    (tmp_path / "clones" / "left over").write_text("of a run that was killed")
    cloned = clone_all(
        originals, tmp_path / "clones", clone=fails_with(errno.EIO, after=9), check_cancelled=lambda: None
    )
    assert cloned is not None
    assert [(s.path, s.stat) for s in originals] == [(s.path, s.stat) for s in cloned]
    assert [s.absolute.read_text() for s in originals] == [s.absolute.read_text() for s in cloned]
    assert all(s.absolute.is_relative_to(tmp_path / "clones") for s in cloned)
    assert len(originals) == len([p for p in (tmp_path / "clones").rglob("*") if p.is_file()])
    assert remove_clones(tmp_path / "clones")
    assert not remove_clones(tmp_path / "clones")


def test_where_one_clone_fails_none_is_left(dbpath: Path, tmp_path: Path) -> None:
    clone = fails_with(errno.ENOSPC, after=1)
    assert clone_all(sources(dbpath), tmp_path / "clones", clone=clone, check_cancelled=lambda: None) is None
    assert not (tmp_path / "clones").exists()


def test_a_file_that_vanished_makes_the_attempt_worthless(dbpath: Path, tmp_path: Path) -> None:
    originals = sources(dbpath)
    originals[1].absolute.unlink()
    with pytest.raises(SnapshotUnusable, match=r"collection-0.* vanished"):
        clone_all(originals, tmp_path / "clones", clone=shutil.copy, check_cancelled=lambda: None)  # type: ignore[arg-type]
    assert not (tmp_path / "clones").exists()


def test_the_call_itself_clones_or_is_understood_as_impossible(dbpath: Path, tmp_path: Path) -> None:
    """Whatever this filesystem can."""
    if can_clone(dbpath):
        clone_file(dbpath / "WiredTiger", tmp_path / "copy")
        assert (dbpath / "WiredTiger").read_bytes() == (tmp_path / "copy").read_bytes()
    assert [dbpath] == list(reflink._capable)
