"""A sharded cluster under backup, whatever its worker dies of: what its archives need is kept all the same."""

from collections.abc import Callable, Iterator

import pytest

from ebbtide.catalog.catalog import Catalog
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.ids import GroupId
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.open_work import OpenWorkStore
from ebbtide.repository.repository import Repository
from ebbtide.sealing import ServiceKey
from ebbtide.settings import resolve_settings
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.testing.service import RunningService
from ebbtide.testing.sharded_lab import ShardedLab
from ebbtide.testing.sharded_registration import lab_request, register_lab

OPEN_WORK_POINTS = ["open_work.recorded"]


class ShardedOwner:
    """A running service with the lab registered in it."""

    def __init__(self, service: RunningService, lab: ShardedLab) -> None:
        self.service = service
        self.lab = lab

    def register(self, name: str = "bank") -> Cluster:
        settings = resolve_settings(flags={}, environment={}, file=None)
        directory = DataDirectory.at(self.service.data)
        with self.service.catalog() as catalog:
            return register_lab(
                lab_request(self.lab, name),
                catalog=catalog,
                settings=settings,
                service_key=ServiceKey.load_or_create(directory.service_key_file(settings)),
                group_id=GroupId(self.service.group_id),
                data_dir=self.service.data,
            )

    def parts(self, catalog: Catalog, cluster: Cluster) -> list[Cluster]:
        return catalog.clusters.list_parts(cluster.id)

    def wait_until_following(self, cluster: Cluster) -> None:
        with self.service.catalog() as catalog:

            def following() -> bool:
                heads = [catalog.heads.find(part.id) for part in self.parts(catalog, cluster)]
                return all(head is not None and head.state is HeadState.FOLLOWING for head in heads)

            self.service.wait_until(following, f"the heads of {cluster.name} to follow")

    def archive(self, part: Cluster) -> OplogArchive:
        repository = Repository.open(DirectoryStorage(self.service.data / "repository"))
        return OplogArchive(repository.replica_set(part.id, part.replica_set_name))


@pytest.fixture(scope="module")
def owner(
    new_service: Callable[..., RunningService], shared_sharded_lab: ShardedLab
) -> Iterator[ShardedOwner]:
    shared_sharded_lab.reset()
    service = new_service(environment={"EBBTIDE_OPLOG_UPKEEP_SECONDS": "1"}).start()
    yield ShardedOwner(service, shared_sharded_lab)
    service.stop()
    shared_sharded_lab.reset()


def test_open_work_is_kept_for_every_part_though_the_worker_dies(owner: ShardedOwner) -> None:
    owner.service.arm_crash(*OPEN_WORK_POINTS)
    cluster = owner.register()
    owner.service.wait_until(owner.service.has_crashed, "a worker that recorded open work to die")

    owner.wait_until_following(cluster)
    with owner.service.catalog() as catalog:
        parts = owner.parts(catalog, cluster)
    for part in parts:
        archive = owner.archive(part)
        records = OpenWorkStore(archive.store)
        first, *_ = owner.service.wait_until(records.moments, f"a record of {part.name}")
        assert archive.slices()[0].starts_after == first
        assert records.load(first).transactions == ()
