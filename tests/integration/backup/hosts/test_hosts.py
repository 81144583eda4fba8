"""A mirrored config server from its declaration to a mongod that runs on its download."""

from pathlib import Path
from typing import Any

import pytest
from bson import Int64, Timestamp
from pymongo import MongoClient

from ebbtide.backup.host_requests import HostRefused
from ebbtide.domain.host import SET_NAME
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.restore.load.inventory import Inventory, read_inventory
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.standalone import COPY_ROLES

Document = dict[str, Any]


def fill(client: "MongoClient[Document]") -> None:
    """What a config server holds, and of everything else that is copied in a way of its own a little."""
    client.config.chunks.insert_many(
        [{"_id": f"shop.orders-{n}", "lastmod": Timestamp(0, 0), "min": n, "max": n + 1} for n in range(500)]
    )
    # Unlike insertion, this keeps a timestamp that is empty.
    client.config.chunks.update_many({}, {"$set": {"lastmod": Timestamp(0, 0)}})
    client.config.chunks.create_index([("min", 1)], unique=True, name="by_min")
    client.config.settings.insert_one({"_id": "chunksize", "value": Int64(64)})
    client.config.create_collection("changelog", capped=True, size=1 << 20)
    client.config.changelog.insert_many([{"_id": f"change-{n}", "n": n} for n in range(50)])
    client.config.create_collection("big", viewOn="chunks", pipeline=[{"$match": {"min": {"$gt": 100}}}])
    client.config.lockpings.create_index("ping", expireAfterSeconds=60)
    client.shop.create_collection("names", collation={"locale": "de"}, validator={"n": {"$gt": 0}})
    client.shop.names.insert_one({"n": 1, "when": Timestamp(1, 1)})


def described(inventory: Inventory) -> dict[str, tuple[object, ...]]:
    """Options, UUIDs and indexes of each namespace."""
    return {
        name: (
            held.kind,
            dict(held.options),
            held.uuid,
            {i.name: dict(i.specification) for i in held.indexes},
        )
        for name, held in inventory.held.items()
    }


def test_a_download_of_a_host_holds_what_the_host_held(hosting: Any, tmp_path: Path) -> None:
    with hosting.lab.client() as client:
        fill(client)
        wanted, content = described(read_inventory(client, with_config=True)), database_hashes(client)
        host = hosting.declare()
        with hosting.installation.working():
            snapshot = hosting.take(host)
            client.config.chunks.delete_many({})
            job = hosting.restore(snapshot)
    assert not hosting.lab.is_locked()
    assert hosting.host(host).lock_job_id is None
    assert (SET_NAME, host.store_id) == (snapshot.replica_set_name, snapshot.cluster_id)
    dbpath = hosting.unpack(job, tmp_path)
    info = (dbpath / "restoreInfo.txt").read_text()
    assert host.id in info
    assert host.address in info
    with hosting.opened(dbpath, tmp_path / "m") as restored:
        assert wanted == described(read_inventory(restored, with_config=True))
        found = database_hashes(restored)
        assert {name: content[name] for name in ("config", "shop")} == {
            n: found[n] for n in ("config", "shop")
        }
        users = restored.admin.command("usersInfo", showCredentials=True)["users"]
        assert {"root", "copier"} == {user["user"] for user in users}
        assert list(restored.config.changelog.find({}, {"n": 1, "_id": 0})) == [{"n": n} for n in range(50)]
        assert Timestamp(0, 0) == restored.config.chunks.find_one()["lastmod"]


def test_an_account_that_may_not_lock_is_refused(hosting: Any) -> None:
    with hosting.lab.client() as client:
        client.admin.command("updateUser", "copier", roles=["backup", "readAnyDatabase"])
        try:
            with pytest.raises(HostRefused):
                hosting.declare()
        finally:
            client.admin.command("updateUser", "copier", roles=list(COPY_ROLES))


def test_what_cannot_be_copied_ends_the_snapshot_and_leaves_no_lock(hosting: Any) -> None:
    with hosting.lab.client() as client:
        client.shop.create_collection("weather", timeseries={"timeField": "t"})
    host = hosting.declare()
    snapshots = hosting.installation.catalog.snapshots
    with hosting.installation.working():
        asked = hosting.request(host)
        hosting.installation.wait_until(lambda: snapshots.find(asked.id).state is SnapshotState.FAILED)
    assert "shop.weather" in snapshots.find(asked.id).error
    assert not hosting.lab.is_locked()
    assert hosting.host(host).lock_job_id is None
