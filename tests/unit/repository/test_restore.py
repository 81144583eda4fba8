"""Getting data out: files, archives, ranges of archives; and every kind of damage named."""

import gzip
import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ebbtide.domain.progress import NoProgress
from ebbtide.errors import IntegrityError, InvalidInput, NotFound, ObjectNotFound, Refused, StorageError
from ebbtide.repository import materialise as materialise_module
from ebbtide.repository.archive import Archive, _tar_header, hash_archive, iter_range, plan_archive
from ebbtide.repository.manifest import Manifest
from ebbtide.repository.reader import open_span, plan_spans, read_span, span_buffer
from ebbtide.repository.repository import ReplicaSetStore, Repository
from ebbtide.repository.verify import verify_snapshot
from ebbtide.testing.snapshots import NOW, new_store, restore, snapshot_id, take, write_tree
from ebbtide.testing.storage import MemoryStorage

DIRECTORY = "rs0-1700000000-0123456789abcdef01234567"
MTIME = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
INFO = b"what this is\n" * 50

TREE = {
    "WiredTiger": b"WiredTiger 11",
    "WiredTiger.backup": random.Random(1).randbytes(70_001),
    "collection-0.wt": random.Random(2).randbytes(400_000) + bytes(400_000),
    "index-0.wt": b"a key " * 30_000,
    "empty.wt": b"",
    "journal/WiredTigerLog.0000000001": bytes(200_000),
    "shop/" + "n" * 120 + "/long.wt": b"a long name",
    "käse.wt": b"not ASCII",
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryStorage, Manifest]:
    root = tmp_path_factory.mktemp("source")
    write_tree(root, TREE)
    storage = MemoryStorage()
    manifest, _ = take(new_store(storage), root, 1)
    return storage, manifest


@pytest.fixture
def store(stored: tuple[MemoryStorage, Manifest]) -> ReplicaSetStore:
    """A copy of the stored snapshot, to be harmed."""
    storage = MemoryStorage()
    storage.objects = dict(stored[0].objects)
    return next(Repository.open(storage).iter_replica_sets())


@pytest.fixture
def manifest(stored: tuple[MemoryStorage, Manifest]) -> Manifest:
    return stored[1]


def plan(manifest: Manifest) -> Archive:
    return plan_archive(manifest, directory=DIRECTORY, extra_files=[("restoreInfo.txt", INFO)], mtime=MTIME)


def whole(store: ReplicaSetStore, archive: Archive) -> bytes:
    return b"".join(iter_range(store, archive, start=0, end=archive.length_bytes))


def sha1(store: ReplicaSetStore, archive: Archive) -> str:
    return hash_archive(store, archive, threads=2, progress=NoProgress(), check_cancelled=lambda: None)


# Files


def test_everything_is_found_with_the_repository_alone(store: ReplicaSetStore, manifest: Manifest) -> None:
    repository = Repository.open(store.storage)
    found = list(repository.iter_replica_sets())
    assert [(manifest.cluster_id, "rs0")] == [(s.cluster_id, s.replica_set_name) for s in found]
    assert [manifest.snapshot_id] == list(found[0].iter_snapshot_ids())
    assert manifest == found[0].load_manifest(manifest.snapshot_id)


def test_opening_what_is_no_repository_says_so() -> None:
    with pytest.raises(NotFound, match="holds no repository"):
        Repository.open(MemoryStorage())
    storage = MemoryStorage()
    Repository.create(storage, now=NOW)
    with pytest.raises(Refused):
        Repository.create(storage, now=NOW)


def test_a_directory_that_holds_something_is_refused(
    store: ReplicaSetStore, manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_bytes(b"dear")
    with pytest.raises(Refused, match="is not an empty directory"):
        restore(store, manifest, tmp_path)
    assert [tmp_path / "mine"] == list(tmp_path.iterdir())


def test_too_little_space_is_noticed_before_anything_is_written(
    store: ReplicaSetStore, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5000))
    with pytest.raises(StorageError, match="5000 are free"):
        restore(store, manifest, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_an_aborted_restore_cannot_pass_for_a_finished_one(
    store: ReplicaSetStore, manifest: Manifest, tmp_path: Path
) -> None:
    pack = next(name for name in store.storage.objects if "/packs/" in name)  # type: ignore[attr-defined]
    store.storage.put(pack, [store.storage.get(pack, limit=2**30)[:-2000]])
    with pytest.raises(IntegrityError, match=pack):
        restore(store, manifest, tmp_path / "new")
    assert not (tmp_path / "new" / materialise_module.LAST_FILE).exists()


def test_a_restore_that_need_not_be_durable_waits_for_no_disk(
    store: ReplicaSetStore, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(_: int) -> None:
        raise OSError("synced")

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(materialise_module, "_sync_filesystem", sync)
    with pytest.raises(StorageError, match="synced"):
        restore(store, manifest, tmp_path / "durable")
    assert restore(store, manifest, tmp_path / "scratch", durable=False) == TREE


def test_a_block_with_the_right_crc_but_another_identity_is_named(
    store: ReplicaSetStore, manifest: Manifest
) -> None:
    entry = next(entry for entry in manifest.files if entry.path == "collection-0.wt")
    recipe = store.load_recipe(entry.stretches[0], snapshot_id=manifest.snapshot_id)
    ids = bytearray(recipe.block_ids)
    ids[16] ^= 1
    span = plan_spans(recipe)[0]
    data = read_span(store, recipe, span, what="it")
    plain = open_span(store, recipe, span, data, into=span_buffer(), what="it")
    assert plain == TREE["collection-0.wt"][: len(plain)]
    with pytest.raises(IntegrityError, match="block 1 of it is not the block"):
        open_span(store, replace(recipe, block_ids=bytes(ids)), span, data, into=span_buffer(), what="it")


# Archives


def test_gnu_tar_extracts_the_archive(store: ReplicaSetStore, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(whole(store, plan(manifest)))
    done = subprocess.run(["tar", "-xzf", tmp_path / "a.tar.gz", "-C", tmp_path], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [DIRECTORY]
    for path, content in (TREE | {"restoreInfo.txt": INFO}).items():
        extracted = tmp_path / DIRECTORY / path
        assert content == extracted.read_bytes()
        assert int(MTIME.timestamp()) == extracted.stat().st_mtime


def test_pythons_tarfile_extracts_the_archive(store: ReplicaSetStore, manifest: Manifest) -> None:
    with tarfile.open(fileobj=io.BytesIO(whole(store, plan(manifest))), mode="r:gz") as tar:
        members = tar.getmembers()
        found = {}
        for member in members:
            if member.isfile():
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    assert {
        f"{DIRECTORY}/{path}": content for path, content in (TREE | {"restoreInfo.txt": INFO}).items()
    } == found
    assert (DIRECTORY, f"{DIRECTORY}/restoreInfo.txt") == (members[0].name, members[1].name)


def test_bsdtar_extracts_the_archive(store: ReplicaSetStore, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(whole(store, plan(manifest)))
    if shutil.which("bsdtar") is None:
        sys.stderr.write("bsdtar is not installed: only gzip judged the archive's stream\n")
        subprocess.run(["gzip", "-t", tmp_path / "a.tar.gz"], check=True)
        return
    subprocess.run(["bsdtar", "-xzf", tmp_path / "a.tar.gz", "-C", tmp_path], check=True)
    assert TREE["index-0.wt"] == (tmp_path / DIRECTORY / "index-0.wt").read_bytes()


def test_the_length_and_hash_are_those_of_the_bytes_and_never_change(
    store: ReplicaSetStore, manifest: Manifest
) -> None:
    archive = plan(manifest)
    content = whole(store, archive)
    assert archive.length_bytes == len(content)
    assert hashlib.sha1(content).hexdigest() == sha1(store, archive)
    assert archive == plan(manifest)
    with gzip.open(io.BytesIO(content)) as file:
        assert archive.plain_bytes == len(file.read())


def test_an_archive_is_planned_without_the_storage_and_adds_little_to_the_stored_blocks(
    manifest: Manifest,
) -> None:
    overhead = plan(manifest).length_bytes - manifest.stored_bytes
    assert 0 < overhead < 2000 * (len(manifest.files) + 6)


def test_every_range_equals_that_slice_of_the_whole(store: ReplicaSetStore, manifest: Manifest) -> None:
    archive = plan(manifest)
    content = whole(store, archive)
    rng = random.Random(5)
    borders = [s + d for s in archive.starts for d in (-1, 0, 1)] + [0, len(content)]
    borders = [b for b in borders if 0 <= b <= len(content)]
    ranges = [sorted(rng.choices(borders, k=2)) for _ in range(150)]
    ranges += [sorted(rng.choices(range(len(content) + 1), k=2)) for _ in range(150)]
    for start, end in [*ranges, (0, 0), (len(content), len(content)), (len(content) - 1, len(content))]:
        assert content[start:end] == b"".join(iter_range(store, archive, start=start, end=end)), (start, end)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4), (0, 10**12)])
def test_a_range_outside_of_the_archive_is_refused(
    store: ReplicaSetStore, manifest: Manifest, start: int, end: int
) -> None:
    with pytest.raises(InvalidInput):
        list(iter_range(store, plan(manifest), start=start, end=end))


def test_sizes_over_eight_gibibytes_are_written_right() -> None:
    size = 20 * 2**30 + 5
    header = _tar_header("d/large.wt", size_bytes=size, mtime_seconds=1)
    with tarfile.open(fileobj=io.BytesIO(header)) as tar:
        member = tar.next()
    assert member is not None
    assert ("d/large.wt", size) == (member.name, member.size)


@pytest.mark.parametrize("directory", ["", "..", "a/b", "/a", "a\n"])
def test_unsafe_directory_names_are_refused(manifest: Manifest, directory: str) -> None:
    with pytest.raises(InvalidInput):
        plan_archive(manifest, directory=directory, extra_files=[], mtime=MTIME)


def test_an_extra_file_may_not_hide_a_file_of_the_snapshot(manifest: Manifest) -> None:
    with pytest.raises(InvalidInput):
        plan_archive(manifest, directory="d", extra_files=[("index-0.wt", b"")], mtime=MTIME)


# Damage


def flip(content: bytes, rng: random.Random) -> bytes:
    bit = rng.randrange(len(content) * 8)
    spoiled = bytearray(content)
    spoiled[bit // 8] ^= 1 << bit % 8
    return bytes(spoiled)


HARM: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "flipped": flip,
    "truncated": lambda content, rng: content[: rng.randrange(len(content))],
    "removed": lambda _content, _rng: None,
}


@pytest.mark.parametrize("harm", HARM)
def test_every_damaged_object_is_noticed_and_named(
    store: ReplicaSetStore, manifest: Manifest, harm: str
) -> None:
    objects: dict[str, bytes] = store.storage.objects  # type: ignore[attr-defined]
    rng = random.Random(7)
    kinds = set()
    for name, content in list(objects.items()):
        for _ in range(12 if harm != "removed" else 1):
            spoiled = HARM[harm](content, rng)
            if spoiled is None:
                del objects[name]
            else:
                objects[name] = spoiled
            assert name in damage_named(store, manifest), (name, harm)
        objects[name] = content
        kinds.add(name.split("/")[2] if "/" in name else name)
    assert {"repository.json", "packs", "recipes", "snapshots"} == kinds
    assert set() == damage_named(store, manifest)


def damage_named(store: ReplicaSetStore, manifest: Manifest) -> set[str]:
    """The objects that opening, loading and verifying complain about."""
    try:
        Repository.open(store.storage)
        loaded = store.load_manifest(manifest.snapshot_id)
    except NotFound:
        return {"repository.json"}
    except (IntegrityError, ObjectNotFound) as error:
        return {error.object_name}
    found = verify_snapshot(store, loaded, threads=1, progress=NoProgress(), check_cancelled=lambda: None)
    return {finding.object_name for finding in found}


def test_no_byte_of_a_damaged_block_is_sent(store: ReplicaSetStore, manifest: Manifest) -> None:
    archive = plan(manifest)
    content = whole(store, archive)
    objects: dict[str, bytes] = store.storage.objects  # type: ignore[attr-defined]
    rng = random.Random(9)
    for name in [name for name in objects if "/packs/" in name]:
        before = objects[name]
        for _ in range(10):
            objects[name] = flip(before, rng)
            sent, error = send_until_error(store, archive)
            assert content.startswith(sent)
            if error is not None:  # else the bit is in no block of this archive
                assert name == error.object_name
                assert ".wt" in error.problem or "WiredTiger" in error.problem
                with pytest.raises(IntegrityError, match=name):
                    sha1(store, archive)
        objects[name] = before


def send_until_error(store: ReplicaSetStore, archive: Archive) -> tuple[bytes, IntegrityError | None]:
    sent = b""
    try:
        for piece in iter_range(store, archive, start=0, end=archive.length_bytes):
            sent += piece
    except IntegrityError as error:
        return sent, error
    return sent, None


def test_a_manifest_under_another_name_is_noticed(store: ReplicaSetStore, manifest: Manifest) -> None:
    objects: dict[str, bytes] = store.storage.objects  # type: ignore[attr-defined]
    objects[store.manifest_name(snapshot_id(2))] = objects[store.manifest_name(manifest.snapshot_id)]
    with pytest.raises(IntegrityError, match="another snapshot"):
        store.load_manifest(snapshot_id(2))
