"""Which directories the sweep takes for dead labs, without a mongod."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from ebbtide.errors import Refused
from ebbtide.processes import current_boot_id, process_start_ticks
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.lab_directory import default_base_directory, sweep_dead_labs

THIS_PROCESS = {
    "pid": os.getpid(),
    "start_ticks": process_start_ticks(os.getpid()),
    "boot_id": current_boot_id(),
}


@pytest.mark.parametrize(
    ("name", "owner", "is_swept"),
    [
        ("lab-a", THIS_PROCESS, False),
        ("lab-a", THIS_PROCESS | {"start_ticks": 1}, True),
        ("lab-a", THIS_PROCESS | {"boot_id": "another boot"}, True),
        ("lab-a", THIS_PROCESS | {"pid": 2**22 + 5}, True),
        ("lab-a", {}, False),  # not a record of ours: nothing is known, so nothing is removed
        ("lab-a", None, True),
        ("other", None, False),
    ],
)
def test_only_labs_whose_owner_is_gone_are_swept(
    tmp_path: Path, name: str, owner: dict[str, object] | None, is_swept: bool
) -> None:
    root = tmp_path / name
    root.mkdir()
    if owner is not None:
        (root / "owner.json").write_text(json.dumps(owner))
    os.utime(root, (1, 1))
    assert sweep_dead_labs(tmp_path) == ([root] if is_swept else [])
    assert root.exists() is not is_swept


def test_a_lab_that_is_just_being_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lab-new").mkdir()
    assert sweep_dead_labs(tmp_path) == []


def test_the_base_directory_is_made_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    base = default_base_directory()
    assert base.stat().st_mode & 0o777 == 0o700
    assert default_base_directory() == base


def test_a_base_directory_that_others_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    default_base_directory().chmod(0o777)
    with pytest.raises(Refused, match="0700"):
        default_base_directory()


def test_a_link_in_place_of_the_base_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / f"ebbtide-lab-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(Refused, match="0700"):
        default_base_directory()


def test_a_directory_with_other_things_in_it_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(Refused, match="not empty"):
        ReplicaSetLab(binary=Path("/nowhere/mongod"), root=tmp_path).start()
    assert (tmp_path / "precious").read_text() == "data"


def test_a_lab_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    lab = ReplicaSetLab(binary=tmp_path / "absent", root=tmp_path / "lab")
    with pytest.raises(Exception, match="cannot be run"):
        lab.start()
    assert list(tmp_path.iterdir()) == []
