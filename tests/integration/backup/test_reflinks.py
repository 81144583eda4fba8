"""Snapshots on a filesystem that clones files: the head is free again before anything is read.

A loop-mounted XFS where this machine can mount one; else a plain copy stands in for the clone, and the output says so.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.backup import reflink, snapshot_run
from ebbtide.backup.reflink import CLONES_NAME
from ebbtide.demo.copies import hash_advanced
from ebbtide.domain.cluster import Cluster
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab

AtPoint = Callable[[str, Callable[[], None]], None]

IMAGE_BYTES = 2 * 1024**3
"""Sparse. A head's empty journal files alone take 300 MB."""


def mount_xfs(image: Path, place: Path) -> str:
    """Mount a new XFS; empty, or why that cannot be."""
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    place.mkdir(exist_ok=True, mode=0o700)
    for command in (
        ["mkfs.xfs", "-q", "-m", "reflink=1", str(image)],
        ["mount", "-o", "loop", str(image), str(place)],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except OSError as error:
            return f"{command[0]}: {error.strerror} (Debian: xfsprogs, mount)"
        if done.returncode != 0:
            return f"{command[0]}: {done.stderr.strip()}"
    return ""


def is_unmounted(place: Path) -> bool:
    """Whether it is now: who looks at a file there at this moment keeps it."""
    return subprocess.run(["umount", str(place)], capture_output=True, timeout=60).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def reflinks(
    shared_installation: Any, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[None]:
    """While the tests of this module run, heads are where files can be cloned."""
    heads: Path = shared_installation.context.directory.heads
    problem = mount_xfs(tmp_path_factory.mktemp("image") / "xfs", heads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reflink, "_capable", {})
        if problem:
            reporter = request.config.pluginmanager.getplugin("terminalreporter")
            reporter.write_line(f"no XFS can be mounted here ({problem}): copies stand in for clones")
            patch.setattr(snapshot_run, "can_clone", lambda _: True)
            patch.setattr(
                snapshot_run,
                "clone_all",
                lambda *arguments, **named: reflink.clone_all(*arguments, clone=shutil.copy, **named),
            )
        yield
    if not problem:
        shared_installation.wait_until(lambda: is_unmounted(heads), what="the XFS to be unmounted")


@pytest.fixture(scope="module")
def cloned(shared_installation: Any, shared_lab: ReplicaSetLab) -> Iterator[Cluster]:
    """A set with 30 MB in it, followed by a head whose files can be cloned."""
    shared_lab.reset()
    with shared_lab.client(w="majority") as client:
        for part in range(3):
            client.shop[f"part{part}"].insert_many(
                [{"_id": i, "body": os.urandom(1000)} for i in range(10_000)]
            )
    with shared_installation.working():
        cluster = shared_installation.register_and_follow(shared_lab)
        yield cluster
        shared_installation.remove(cluster)


def is_locked(installation: Any, cluster: Cluster) -> bool:
    with installation.head_client(cluster) as client:
        return bool(client.admin.command("currentOp", 1, **{"$ownOps": True}).get("fsyncLock", False))


def test_the_head_goes_on_while_its_files_are_read(
    cloned: Cluster,
    shared_installation: Any,
    shared_lab: ReplicaSetLab,
    mongod_binary: Path,
    at_point: AtPoint,
    tmp_path: Path,
    socket_directory: Path,
) -> None:
    clones = shared_installation.context.head_directory(cloned) / CLONES_NAME
    hashes: list[Any] = []

    def hash_head() -> None:
        with shared_installation.head_client(cloned) as client:
            hashes.append(database_hashes(client))

    def write_on() -> None:
        """Between the unlock and the first byte that is read: the head changes its files as it likes."""
        assert (clones / "WiredTiger.backup").exists()
        assert not is_locked(shared_installation, cloned)
        with shared_lab.client(w=4) as client:
            client.shop.part0.update_many({}, {"$set": {"after": "the unlock"}})
            client.shop.drop_collection("part1")
        with shared_installation.head_client(cloned) as client:
            client.admin.command("fsync")

    at_point("snapshot.locked", hash_head)
    at_point("snapshot.unlocked", write_on)
    snapshot = shared_installation.take_snapshot(cloned)
    assert not clones.exists()

    shared_installation.materialise(snapshot, tmp_path / "db")
    assert hashes[0] == hash_advanced(
        mongod_binary, tmp_path / "db", socket_directory=socket_directory, hash_databases=database_hashes
    )


def test_the_next_one_knows_what_did_not_change(cloned: Cluster, shared_installation: Any) -> None:
    """Stats are those of the originals: those of clones would never be seen again."""
    shared_installation.take_snapshot(cloned)
    first = shared_installation.take_snapshot(cloned)
    second = shared_installation.take_snapshot(cloned)
    stats = [{e.path: e.stat for e in shared_installation.manifest(s).files} for s in (first, second)]
    dbpath = shared_installation.context.head_directory(cloned) / "db"
    # What was dropped by the test before goes in its own time.
    large = [
        path
        for path, stat in stats[0].items()
        if stat.size_bytes > 5_000_000 and "WiredTiger" not in path and (dbpath / path).exists()
    ]
    assert large
    for path in large:
        assert stats[1][path].inode == (dbpath / path).stat().st_ino
    assert second.new_stored_bytes < second.stored_bytes / 5


def test_clones_of_a_killed_run_are_removed(cloned: Cluster, shared_installation: Any) -> None:
    clones = shared_installation.context.head_directory(cloned) / CLONES_NAME
    (clones / "journal").mkdir(parents=True)
    (clones / "journal" / "WiredTigerLog.0000000001").write_bytes(bytes(1000))
    shared_installation.take_snapshot(cloned)
    assert not clones.exists()
