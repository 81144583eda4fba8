"""A real head's snapshot, with each kind of stored object damaged in each way: a restore job notices and names it.

Each object is put back as it was after its turn. A damaged snapshot never stops the next one from being taken.
"""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ebbtide.cli.api_errors import ApiRefusal
from ebbtide.testing.running_service import RunningService
from ebbtide.testing.service import Document, Owner

KINDS = ["packs", "recipes", "snapshots"]


def flip(path: Path) -> None:
    """Invert one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Cut off the second half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def remove(path: Path) -> None:
    path.unlink()


@pytest.fixture(scope="module")
def owner(new_service: Callable[..., RunningService], new_owner: Callable[[RunningService], Owner]) -> Owner:
    owner = new_owner(new_service().start())
    owner.register()
    owner.write(megabytes=3)
    return owner


@pytest.fixture(scope="module")
def snapshot(owner: Owner) -> Document:
    return owner.take_snapshot()


@pytest.fixture(scope="module")
def objects(owner: Owner, snapshot: Document) -> dict[str, Path]:
    """The largest stored object of each kind that the first snapshot needs: it is alone yet."""
    assert snapshot["state"] == "COMPLETE"
    root = owner.service.data / "repository"
    files = {kind: [p for p in root.glob(f"*/*/{kind}/**/*") if p.is_file()] for kind in KINDS}
    return {kind: max(found, key=lambda path: path.stat().st_size) for kind, found in files.items()}


def wait_until_noticed(owner: Owner, job_id: str) -> Document:
    """The restore job once it says what is wrong, in Ebbtide's own words."""

    def look() -> Document | None:
        found = owner.restore_progress(job_id)
        return found if found["deliveryStatusName"] == "FAILED" else None

    return owner.service.wait_until(look, f"restore job {job_id} to notice the damage")


@pytest.mark.parametrize("spoil", [flip, truncate, remove], ids=lambda spoil: str(spoil.__name__))
@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_job_notices_damage_and_names_the_object(
    owner: Owner,
    snapshot: Document,
    objects: dict[str, Path],
    kind: str,
    spoil: Callable[[Path], None],
) -> None:
    path = objects[kind]
    name = path.relative_to(owner.service.data / "repository").as_posix()
    content = path.read_bytes()

    spoil(path)
    try:
        job_id = owner.start_restore(snapshot["id"])
        found = wait_until_noticed(owner, job_id)
        assert owner.damage()
    finally:
        path.write_bytes(content)

    # Before the link was ready the job is broken; after it, the data is there and its delivery has failed.
    assert found["statusName"] == ("BROKEN" if kind == "snapshots" else "FINISHED")
    assert name in found["reason"]
    told = [event for event in owner.events() if event.get("subjectId") == job_id]
    assert any(event["level"] == "ERROR" and name in event["message"] for event in told)
    assert owner.damage() == []


def test_a_link_whose_data_is_damaged_is_gone(
    owner: Owner, snapshot: Document, objects: dict[str, Path]
) -> None:
    job = owner.wait_until_ready(owner.start_restore(snapshot["id"]))
    owner.wait_until_hashed(job["id"])
    path = objects["packs"]
    content = path.read_bytes()

    flip(path)
    try:
        with pytest.raises(httpx.HTTPError):
            owner.download(job)
        wait_until_noticed(owner, job["id"])
        with pytest.raises(ApiRefusal) as refusal:
            owner.download(job)
    finally:
        path.write_bytes(content)

    assert refusal.value.status == 410
    assert "hashes" not in owner.restore_job(job["id"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_snapshot_succeeds_beside_a_damaged_one(
    owner: Owner, snapshot: Document, objects: dict[str, Path], kind: str
) -> None:
    path = objects[kind]
    content = path.read_bytes()
    owner.write(megabytes=1)

    flip(path)
    try:
        taken = owner.take_snapshot()
    finally:
        path.write_bytes(content)

    assert taken["id"] != snapshot["id"]
    assert owner.damage() == []


def test_after_damage_was_found_the_next_snapshot_stands_alone(
    owner: Owner, snapshot: Document, objects: dict[str, Path]
) -> None:
    path = objects["packs"]
    content = path.read_bytes()

    flip(path)
    try:
        wait_until_noticed(owner, owner.start_restore(snapshot["id"]))
        alone = owner.take_snapshot()
        # With the damage still there: it needs nothing of what came before.
        owner.wait_until_hashed(owner.wait_until_ready(owner.start_restore(alone["id"]))["id"])
    finally:
        path.write_bytes(content)

    assert "parentId" not in alone
    assert owner.take_snapshot()["parentId"] == alone["id"]
