"""Passing damaged bases over, with a real catalog and an archive in memory: what is built on, recorded and told."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId, new_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.replay import HistoryDiverged
from ebbtide.domain.restore_job import NEW, RestoreJob
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import EbbtideError, IntegrityError, ObjectNotFound, Refused
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.draft import SliceDraft
from ebbtide.repository.repository import Repository
from ebbtide.restore import whole_base
from ebbtide.restore.job_record import RestoreJobRecord
from ebbtide.restore.whole_base import build_on_whole_base
from ebbtide.testing.oplog import make_entry
from ebbtide.testing.storage import MemoryStorage

BEGIN = datetime(2026, 5, 1, tzinfo=UTC)
GROUP_ID, CLUSTER_ID = GroupId("5f0000000000000000000001"), ClusterId("5f00000000000000000000c1")

Built = tuple[SnapshotId, OplogTimestamp | None]


class Scene:
    """A cluster whose archive has an entry in each of the seconds 100 … 199, and bases that are damaged as a test says."""

    def __init__(self, catalog: Catalog, patch: pytest.MonkeyPatch) -> None:
        self.catalog = catalog
        repository = Repository.create(MemoryStorage(), now=BEGIN)
        self.archive = OplogArchive(repository.replica_set(CLUSTER_ID, "rs0"))
        self.context: Any = SimpleNamespace(catalog=catalog, clock=SystemClock(), repository=repository)
        self.damage: dict[SnapshotId, EbbtideError] = {}
        self.tried: list[Built] = []
        patch.setattr(whole_base, "build_source", self._build)
        draft = SliceDraft(predecessor=None, opened=0.0)
        draft.add(b"".join(make_entry(second) for second in range(100, 200)))
        self.archive.put(*draft.compress())

    def _build(self, *_: object, base: Snapshot, limit: OplogTimestamp | None, **__: object) -> Built:
        self.tried.append((base.id, limit))
        if base.id in self.damage:
            raise self.damage[base.id]
        return base.id, limit

    def snapshot(self, stable: int) -> Snapshot:
        found = Snapshot(
            id=SnapshotId(f"{stable:024x}"),
            group_id=GROUP_ID,
            cluster_id=CLUSTER_ID,
            cluster_name="shop",
            replica_set_name="rs0",
            created=BEGIN + timedelta(seconds=stable),
            state=SnapshotState.COMPLETE,
            stable_timestamp=OplogTimestamp(stable, 1),
            applied_timestamp=OplogTimestamp(stable + 2, 1),
        )
        self.catalog.snapshots.insert(found)
        return found

    def job(self, base: Snapshot, limit: OplogTimestamp | None) -> RestoreJobRecord:
        assert base.stable_timestamp is not None
        job = RestoreJob(
            id=RestoreJobId(new_id()),
            group_id=GROUP_ID,
            cluster_id=CLUSTER_ID,
            cluster_name="shop",
            replica_set_name="rs0",
            snapshot_id=base.id,
            created=BEGIN,
            status=NEW[0],
            delivery_status=NEW[1],
            timestamp=limit or base.stable_timestamp,
            expiration_hours=1,
            max_downloads=1,
            requested_by="test",
            point_in_time=limit is not None,
            limit=limit,
        )
        self.catalog.restore_jobs.insert(job)
        work: Any = SimpleNamespace(
            job=SimpleNamespace(subject_id=job.id, group_id=GROUP_ID, cluster_id=CLUSTER_ID)
        )
        return RestoreJobRecord(work, context=self.context)

    def build(self, record: RestoreJobRecord) -> Any:
        run: Any = SimpleNamespace(progress=None, check=lambda: None)
        return build_on_whole_base(self.context, run, record, directory=Path("unused"))

    def told(self) -> list[str]:
        found = self.catalog.events.page(GROUP_ID, cluster_id=CLUSTER_ID, skip=0, limit=100)
        return [event.kind for event in reversed(found)]


@pytest.fixture
def scene(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    yield Scene(catalog, monkeypatch)
    catalog.close()


def damaged(name: str = "packs/7") -> IntegrityError:
    return IntegrityError(name, "is damaged")


@pytest.mark.parametrize("error", [damaged, lambda: ObjectNotFound("packs/7")])
def test_a_moment_is_built_on_an_older_base_and_the_job_says_so(
    scene: Scene, error: Callable[[], EbbtideError]
) -> None:
    old, new = scene.snapshot(120), scene.snapshot(150)
    limit = OplogTimestamp(170, 1)
    scene.damage[new.id] = error()
    record = scene.job(new, limit)
    assert scene.build(record) == (old.id, limit)
    assert scene.tried == [(new.id, limit), (old.id, limit)]
    assert record.load().snapshot_id == old.id
    assert scene.told() == ["repository.damaged", "restore.base_passed_over"]
    assert scene.catalog.damage.find(CLUSTER_ID) is not None


def test_a_snapshot_as_it_is_has_another_base_at_its_own_moment(scene: Scene) -> None:
    old, new = scene.snapshot(120), scene.snapshot(150)
    scene.damage[new.id] = damaged()
    record = scene.job(new, None)
    assert scene.build(record) == (old.id, new.stable_timestamp)
    assert scene.tried == [(new.id, None), (old.id, new.stable_timestamp)]
    # Whoever takes the job up again must not restore the older snapshot as it is.
    assert (record.load().snapshot_id, record.load().limit) == (old.id, new.stable_timestamp)


def test_a_base_of_another_history_is_passed_over_and_is_no_damage(scene: Scene) -> None:
    old, new = scene.snapshot(120), scene.snapshot(150)
    limit = OplogTimestamp(170, 1)
    scene.damage[new.id] = HistoryDiverged("another history")
    assert scene.build(scene.job(new, limit)) == (old.id, limit)
    assert scene.told() == ["restore.base_passed_over"]
    assert scene.catalog.damage.find(CLUSTER_ID) is None


def test_where_no_base_is_left_each_one_is_named_with_its_problem(scene: Scene) -> None:
    old, new = scene.snapshot(120), scene.snapshot(150)
    scene.damage = {old.id: damaged("packs/1"), new.id: damaged("packs/2")}
    with pytest.raises(Refused) as refused:
        scene.build(scene.job(new, OplogTimestamp(170, 1)))
    for told in (old.id, new.id, "packs/1", "packs/2"):
        assert told in refused.value.message


def test_where_the_archive_does_not_lead_there_is_no_other_base(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_base, "ARCHIVE_SECONDS", 0.0)
    scene.snapshot(150)
    new = scene.snapshot(210)  # beyond all that is archived
    scene.damage[new.id] = damaged()
    with pytest.raises(Refused, match="packs/7: is damaged"):
        scene.build(scene.job(new, None))


def test_damage_of_a_slice_is_no_reason_to_take_an_older_base(scene: Scene) -> None:
    _, new = scene.snapshot(120), scene.snapshot(150)
    error = damaged(scene.archive.object_name(scene.archive.slices()[0]))
    scene.damage[new.id] = error
    with pytest.raises(IntegrityError) as met:
        scene.build(scene.job(new, OplogTimestamp(170, 1)))
    assert met.value is error
    assert scene.told() == []
    assert scene.catalog.damage.find(CLUSTER_ID) is None
