"""Who vouches for a base, and what counts as files."""

from dataclasses import replace
from pathlib import Path

from ebbtide.backup.reseed import has_files, read_log_from, reseed_base, wipe
from ebbtide.repository.manifest import ManifestKind
from ebbtide.testing.snapshots import make_manifest


def test_a_replayed_result_is_never_a_base() -> None:
    manifest = make_manifest(1, ())
    base = reseed_base(manifest)
    assert base is not None
    assert (manifest.snapshot_id, manifest.stable_timestamp) == (base.snapshot_id, base.stable_timestamp)
    assert reseed_base(replace(manifest, kind=ManifestKind.DELIVER_ONLY)) is None


def test_a_wiped_or_half_laid_dbpath_has_no_files(tmp_path: Path) -> None:
    dbpath = tmp_path / "db"
    assert not has_files(dbpath)
    wipe(dbpath)
    (dbpath / "journal").mkdir(parents=True)
    (dbpath / "collection-0.wt").write_text("laid down")
    (dbpath / "WiredTiger.ebbtide-part").write_text("not in place yet")
    assert not has_files(dbpath)
    (dbpath / "WiredTiger").write_text("in place")
    assert has_files(dbpath)
    wipe(dbpath)
    assert not dbpath.exists()


def test_only_what_this_start_logged_is_read(tmp_path: Path) -> None:
    log = tmp_path / "mongod.log"
    assert read_log_from(log, 0) == ""
    log.write_text("before\nafter\n")
    assert read_log_from(log, 7) == "after\n"
