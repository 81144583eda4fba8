"""Copies made under the lock: of what will be read and no more, all or none, and read in its place."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ebbtide.backup import lock_copies
from ebbtide.backup.lock_copies import copy_to_read
from ebbtide.errors import SnapshotUnusable
from ebbtide.repository.repository import never_cancelled
from ebbtide.repository.source import SourceFile
from ebbtide.testing.snapshots import new_store, sources_of, take, write_tree
from ebbtide.testing.storage import MemoryStorage

FILES = {
    "WiredTiger.backup": b"metadata",
    "collection-0.wt": os.urandom(3_000_000),
    "empty.wt": b"",
    "journal/WiredTigerLog.1": bytes(100_000),
}


@pytest.fixture
def dbpath(tmp_path: Path) -> Path:
    write_tree(tmp_path / "db", FILES)
    return tmp_path / "db"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_copies, "PIECE_BYTES", 1_000_000)


def copy(dbpath: Path, sources: list[SourceFile], **named: Any) -> list[SourceFile] | None:
    arguments: dict[str, Any] = {
        "parent": None,
        "full_read": False,
        "bytes_max": 10**9,
        "threads": 3,
        "check_cancelled": never_cancelled,
    }
    return copy_to_read(sources, dbpath.with_name("clones"), **(arguments | named))


def test_copies_are_read_in_place_of_the_originals(dbpath: Path) -> None:
    sources = sources_of(dbpath)
    with (dbpath / "journal" / "WiredTigerLog.1").open("ab") as file:
        file.write(b"it grew since it was looked at")
    copied = copy(dbpath, sources)
    assert copied is not None
    write_tree(dbpath, dict.fromkeys(FILES, b"other bytes"))
    assert {source.path: source.absolute.read_bytes() for source in copied} == FILES
    assert sources == [replace(source, absolute=dbpath / source.path) for source in copied]


def test_what_did_not_change_is_not_copied(dbpath: Path) -> None:
    parent, _ = take(new_store(MemoryStorage()), dbpath, 1, always_read=False)
    (dbpath / "collection-0.wt").write_bytes(b"changed")
    copied = copy(dbpath, sources_of(dbpath, always_read=False, aged_seconds=10), parent=parent)
    assert copied is not None
    places = {source.path: source.absolute.parent.name for source in copied}
    assert places.pop("collection-0.wt") == "clones"
    assert places.pop("journal/WiredTigerLog.1") == "journal"
    assert set(places.values()) == {"db"}


def test_a_full_read_copies_everything(dbpath: Path) -> None:
    parent, _ = take(new_store(MemoryStorage()), dbpath, 1, always_read=False)
    copied = copy(dbpath, sources_of(dbpath, always_read=False), parent=parent, full_read=True)
    assert copied is not None
    assert all("clones" in source.absolute.parts for source in copied)


def test_more_than_is_allowed_stays_where_it_is(dbpath: Path) -> None:
    total = sum(map(len, FILES.values()))
    assert copy(dbpath, sources_of(dbpath), bytes_max=total - 1) is None
    assert [dbpath] == list(dbpath.parent.iterdir())
    assert copy(dbpath, sources_of(dbpath), bytes_max=total) is not None


def test_a_disk_without_room_is_left_alone(dbpath: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_copies, "FREE_BYTES_MIN", 10**18)
    assert copy(dbpath, sources_of(dbpath)) is None
    assert [dbpath] == list(dbpath.parent.iterdir())


def test_a_copy_that_fails_leaves_none(dbpath: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    assert copy(dbpath, sources_of(dbpath)) is None
    assert [dbpath] == list(dbpath.parent.iterdir())


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_file_that_vanished_or_shrank_makes_the_snapshot_unusable(dbpath: Path, is_gone: bool) -> None:
    sources = sources_of(dbpath)
    changed = dbpath / "collection-0.wt"
    if is_gone:
        changed.unlink()
    else:
        changed.write_bytes(b"short")
    with pytest.raises(SnapshotUnusable, match=r"collection-0\.wt (vanished|shrank)"):
        copy(dbpath, sources)
