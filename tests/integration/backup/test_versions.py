"""Sets of every server version at hand: the packaged one, and those that `make test-versions` fetched.

One installation, whose catalog runs the packaged mongod, backs up sets of each version, with login and keyfile.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ebbtide.backup import head_following
from ebbtide.backup.archive_wait import newest_committed
from ebbtide.backup.head_requests import set_mongod
from ebbtide.backup.registration_checks import RegistrationRequest
from ebbtide.demo.copies import hash_advanced
from ebbtide.domain.automated_restore import RESTORE_ROLES, RestoreScope, TargetState
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.replica_set import major_version
from ebbtide.domain.restore_job import DeliveryStatus, RestoreStatus
from ebbtide.domain.restore_point import AtOplog
from ebbtide.domain.server_version import SERVER_VERSIONS, Support
from ebbtide.mongod.binary import find_mongod, mongod_version
from ebbtide.mongod.log_lines import find_recovery_timestamp
from ebbtide.mongod.options import MongodOptions, Tcp, UnixSocket
from ebbtide.mongod.ports import free_port, is_bindable
from ebbtide.mongod.process import MongodProcess
from ebbtide.restore.archive_directory import inspect_directory
from ebbtide.restore.automated_request import AutomatedRequest, request_automated_restore
from ebbtide.restore.consent import RestoreAccount, allow_restores
from ebbtide.restore.prepare import execute_prepare, plan_prepare
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.new_set import NEW_SET, NewSet

pytestmark = pytest.mark.long

MONGODS_VARIABLE = "MONGODS"
"""A directory of mongods, `<version>/mongod` each, as scripts/fetch-mongods.sh makes it."""


def fetched() -> dict[str, Path]:
    """Mongods by version."""
    directory = os.environ.get(MONGODS_VARIABLE)
    found = sorted(Path(directory).glob("*/mongod")) if directory else []
    return {path.parent.name: path for path in found}


FETCHED = fetched()
TESTED = ["packaged"] + [
    v for v in FETCHED if SERVER_VERSIONS.get(major_version(v), Support.REFUSED) is Support.TESTED
]
UPGRADES = [
    (old, new) for old, new in (("5.0.4", "6.0.27"), ("4.4.2", "5.0.4")) if {old, new} <= set(FETCHED)
]


def binary_of(version: str) -> Path:
    return FETCHED[version] if version in FETCHED else find_mongod(os.environ.get("EBBTIDE_MONGOD"))


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_following, "VERSION_CHECK_SECONDS", 0.5)


def knowing(installation: Any, *, binaries: dict[str, Path], default: Path | None = None) -> Any:
    """The installation with these mongods by major version, and another one for all others."""
    settings = installation.context.settings
    changed: dict[str, Any] = {"mongod.binaries": {major: str(path) for major, path in binaries.items()}}
    if default is not None:
        changed["mongod"] = str(default)
    settings = replace(settings, values={**settings.values, **changed})
    return replace(installation, context=replace(installation.context, settings=settings))


@pytest.fixture(scope="module", params=TESTED)
def versioned_lab(request: pytest.FixtureRequest) -> Iterator[tuple[ReplicaSetLab, Path]]:
    binary = binary_of(request.param)
    with ReplicaSetLab(binary=binary, keyfile=True) as lab:
        yield lab, binary


def load(lab: ReplicaSetLab) -> None:
    """What every version has: documents, indexes, a capped collection, a view, deletes, a transaction."""
    with lab.client(w="majority") as client:
        shop = client.shop
        shop.orders.insert_many([{"_id": i, "who": i % 97, "body": os.urandom(500)} for i in range(20_000)])
        shop.orders.create_index("who")
        shop.create_collection("log", capped=True, size=100_000)
        shop.log.insert_many([{"line": i} for i in range(5000)])
        shop.create_collection("recent", viewOn="orders", pipeline=[{"$match": {"who": 1}}])
        shop.orders.delete_many({"who": 5})
        with client.start_session() as session, session.start_transaction():
            shop.orders.update_many({"who": 6}, {"$set": {"paid": True}}, session=session)


def test_a_set_is_registered_followed_and_its_snapshots_open_at_their_time(
    versioned_lab: tuple[ReplicaSetLab, Path],
    installation: Any,
    at_point: Any,
    tmp_path: Path,
    socket_directory: Path,
) -> None:
    lab, binary = versioned_lab
    version = mongod_version(binary)
    load(lab)
    known = knowing(installation, binaries={major_version(version): binary})
    hashes: list[Any] = []
    with known.working():
        cluster = known.register_and_follow(lab)
        assert (version, major_version(version)) == (cluster.mongod_version, cluster.fcv)
        assert known.head_process(cluster).version == version

        def hash_head() -> None:
            with known.head_client(cluster) as client:
                hashes.append(database_hashes(client))

        at_point("snapshot.locked", hash_head)
        first = known.take_snapshot(cluster)
        with lab.client(w="majority") as client:
            client.shop.orders.update_many({"who": 7}, {"$set": {"again": 1}})
        at_point("snapshot.locked", hash_head)
        second = known.take_snapshot(cluster)
        assert (version, major_version(version)) == (second.mongod_version, second.fcv)
        assert first.id == second.parent_id
        assert second.new_stored_bytes < second.stored_bytes

        # Its files are lost: it comes back from the second snapshot.
        known.head_process(cluster).kill()
        (known.context.head_directory(cluster) / "db" / "WiredTiger").unlink()
        known.wait_until(lambda: known.events(cluster, "head.reseeded"), what="a reseed")
        known.wait_for_head(cluster, HeadState.FOLLOWING)
        third = known.take_snapshot(cluster)
        assert second.id == third.parent_id

    for number, snapshot in enumerate((first, second)):
        target = tmp_path / str(number)
        known.materialise(snapshot, target)
        opened = plain_start(binary, target, socket_directory)
        assert snapshot.stable_timestamp == opened
        assert hashes[number] == hash_advanced(
            binary, target, socket_directory=socket_directory, hash_databases=database_hashes
        )


def test_a_moment_is_downloaded_made_a_set_of_and_restored_into_the_running_one(
    versioned_lab: tuple[ReplicaSetLab, Path], installation: Any, tmp_path: Path
) -> None:
    lab, binary = versioned_lab
    lab.reset()
    load(lab)
    known = knowing(installation, binaries={major_version(mongod_version(binary)): binary})
    with known.working():
        cluster = known.register_and_follow(lab)
        known.take_snapshot(cluster)
        with lab.client(w="majority") as client:
            client.shop.orders.update_many({"who": 8}, {"$set": {"late": True}})
            client.shop.late.insert_many([{"_id": number} for number in range(1000)])
            moment = newest_committed(known.context.access(known.cluster(cluster))).timestamp
            expected = database_hashes(client)["shop"]
            client.shop.drop_collection("orders")
            client.shop.late.update_many({}, {"$set": {"wrong": True}})

        job = known.ask_for_download(cluster, AtOplog(moment.seconds, moment.increment))
        done = known.wait_for_restore(job)
        assert done.state == (RestoreStatus.FINISHED, DeliveryStatus.READY), done.reason
        files = known.extract(done, tmp_path, binary)
        require_set_of_three(binary, files.dbpath, expected)
        shutil.rmtree(tmp_path)

        allow_restores(
            known.cluster(cluster),
            restore_account(lab),
            catalog=known.catalog,
            service_key=known.context.service_key,
            clock=known.context.clock,
            actor="test",
        )
        target, found = (
            known.cluster(cluster),
            known.resolve(cluster, AtOplog(moment.seconds, moment.increment)),
        )
        automated = request_automated_restore(
            AutomatedRequest(
                base=found.base, limit=found.limit, source=target, target=target, scope=RestoreScope()
            ),
            catalog=known.catalog,
            clock=known.context.clock,
            actor="test",
        )
        assert known.wait_for_restore(automated).status is RestoreStatus.FINISHED
        assert known.catalog.automated_restores.find(automated.id).target_state is TargetState.RESTORED
        with lab.client(w="majority") as client:
            assert expected == database_hashes(client)["shop"]
        known.remove(cluster)


def restore_account(lab: ReplicaSetLab) -> RestoreAccount:
    """A user that may do just what a restore takes."""
    with lab.client(w="majority") as client:
        client.admin.command("createUser", "restorer", pwd="restorer", roles=list(RESTORE_ROLES))
    return RestoreAccount(username="restorer", password="restorer")


def require_set_of_three(binary: Path, dbpath: Path, expected: dict[str, str]) -> None:
    """Files that were brought to a moment become a set, as `ebbtide restores prepare` does it, with two empty members."""
    port = free_port()
    sight = inspect_directory(dbpath, binary=binary)
    execute_prepare(plan_prepare(sight, replica_set_name=NEW_SET, host=f"127.0.0.1:{port}"), binary=binary)
    new_set = NewSet(binary, dbpath, port)
    try:
        new_set.add_empty_member()
        new_set.add_empty_member()
        hashes = [found["shop"] for found in new_set.hashes()]
        assert [expected] * 3 == hashes
        with new_set.first.client(w=3, wTimeoutMS=120_000) as client:
            client.shop.late.insert_one({"_id": "written by all three"})
        new_set.restart_first()
        first, *others = new_set.hashes()
        assert [first, first] == others
    finally:
        new_set.kill()


def plain_start(binary: Path, dbpath: Path, sockets: Path) -> OplogTimestamp | None:
    """Where a plain start opens the files, as mongod itself logs it."""
    log = dbpath.with_name(f"{dbpath.name}.plain.log")
    options = MongodOptions(
        dbpath=dbpath,
        log_path=log,
        listen=UnixSocket(path=sockets / "p.sock"),
        cache_gb=0.25,
        set_parameters={"ttlMonitorEnabled": False, "disableLogicalSessionCacheRefresh": True},
    )
    MongodProcess.start(binary, options, identity_path=dbpath.with_name(f"{dbpath.name}.json")).stop()
    return find_recovery_timestamp(log.read_text().splitlines())


def test_what_was_fetched_and_is_refused_is_told_so(installation: Any, tmp_path: Path) -> None:
    for version in set(FETCHED) - set(TESTED):
        port = free_port()
        options = MongodOptions(
            dbpath=tmp_path / version,
            log_path=tmp_path / f"{version}.log",
            listen=Tcp(host="127.0.0.1", port=port),
            cache_gb=0.25,
            replica_set_name="rs0",
        )
        identity = tmp_path / f"{version}.json"
        process = MongodProcess.spawn(FETCHED[version], options, identity_path=identity)
        try:
            # It cannot even be initiated from here: PyMongo does not talk to it.
            installation.wait_until(lambda port=port: not is_bindable("127.0.0.1", port), what="its port")
            report = installation.check(RegistrationRequest(name="old", uri=f"mongodb://127.0.0.1:{port}/"))
            (failed,) = [check for check in report.checks if not check.ok]
            assert "requires at least 9 (MongoDB 4.4)" in failed.what
        finally:
            process.kill()


def test_a_head_goes_along_when_its_set_is_upgraded(installation: Any) -> None:
    """From each version to the next, as far as they were fetched."""
    for old, new in UPGRADES:
        upgrade_followed_set(installation, old, new)


def upgrade_followed_set(installation: Any, old: str, new: str) -> None:
    major = major_version(new)
    known = knowing(installation, binaries={}, default=FETCHED[old])
    with ReplicaSetLab(binary=FETCHED[old], members=1) as lab, known.working():
        cluster = known.register_and_follow(lab)
        known.take_snapshot(cluster)
        upgrade(known, lab, FETCHED[new])

        # There is no mongod of the new version at hand: said in time, and the head goes on.
        event = known.wait_until(lambda: known.events(cluster, "cluster.version_changed"), what="the event")[
            0
        ]
        assert f"ends as soon as the FCV is raised to {major}" in event.message
        assert "ebbtide clusters set shop --mongod PATH" in event.message
        assert known.head_process(cluster).version == old
        assert_follows(known, cluster, lab, 1)

        set_mongod(
            known.cluster(cluster),
            mongod=str(FETCHED[new]),
            catalog=known.catalog,
            clock=known.context.clock,
            actor="test",
        )
        known.wait_until(lambda: known.events(cluster, "head.mongod_changed"), what="the swap")
        known.wait_until(
            lambda: (p := known.head_process(cluster)) is not None and p.version == new, what="the swap"
        )
        known.wait_for_head(cluster, HeadState.FOLLOWING)
        with lab.client() as client:
            client.admin.command("setFeatureCompatibilityVersion", major)
        known.wait_until(lambda: known.cluster(cluster).fcv == major, what="the new FCV")
        assert_follows(known, cluster, lab, 2)
        snapshot = known.take_snapshot(cluster)
        assert (new, major) == (snapshot.mongod_version, snapshot.fcv)
        known.remove(cluster)


def upgrade(installation: Any, lab: ReplicaSetLab, binary: Path) -> None:
    """Restart the only member with another mongod."""
    member = lab.members[0]
    member.process.stop()
    member.process = MongodProcess.start(
        binary, member.process.options, identity_path=member.process.identity_path
    )
    installation.wait_until(lab.find_primary, what="a primary")


def assert_follows(installation: Any, cluster: Cluster, lab: ReplicaSetLab, number: int) -> None:
    with lab.client() as client:
        client.shop.orders.insert_one({"_id": f"after {number}"})

    def arrived() -> bool:
        with installation.head_client(cluster) as head:
            return head.shop.orders.find_one({"_id": f"after {number}"}) is not None

    installation.wait_until(arrived, what="a write on the head")
