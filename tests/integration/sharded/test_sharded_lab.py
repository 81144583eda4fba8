"""The sharded lab on real mongods: what a router would do, done without one."""

from bson import MaxKey, MinKey

from ebbtide.testing.lab import SERVER_DATABASES
from ebbtide.testing.sharded_lab import CONFIG, ShardedLab

NAMESPACE = "shop.orders"


def orders_on(lab: ShardedLab, shard: str) -> int:
    return lab.admin_client(shard).shop.orders.count_documents({})


def test_chunks_are_split_and_moved_with_their_documents(sharded_lab: ShardedLab) -> None:
    lab = sharded_lab
    lab.create_sharded(NAMESPACE, {"_id": 1}, "shard0")
    lab.split(NAMESPACE, {"_id": 100}, {"_id": 200})
    lab.admin_client("shard0").shop.orders.insert_many([{"_id": number} for number in range(300)])
    lab.move_range(NAMESPACE, {"_id": 100}, {"_id": 200}, "shard1")
    chunks = [(chunk["min"]["_id"], chunk["max"]["_id"], chunk["shard"]) for chunk in lab.chunks(NAMESPACE)]
    assert [(MinKey(), 100, "shard0"), (100, 200, "shard1"), (200, MaxKey(), "shard0")] == chunks
    assert [orders_on(lab, shard) for shard in lab.shards] == [200, 100]
    # A range may come back at once, unlike in a cluster with the server's own delay.
    lab.move_range(NAMESPACE, {"_id": 100}, {"_id": 200}, "shard0")
    assert [orders_on(lab, shard) for shard in lab.shards] == [300, 0]


def test_the_balancer_stops_and_starts(sharded_lab: ShardedLab) -> None:
    assert sharded_lab.balancer_status()["mode"] == "full"
    sharded_lab.stop_balancer()
    assert sharded_lab.balancer_status()["mode"] == "off"
    sharded_lab.start_balancer()
    assert sharded_lab.balancer_status()["mode"] == "full"


def test_every_part_passes_a_noted_cluster_time(sharded_lab: ShardedLab) -> None:
    noted = sharded_lab.gossip_note()
    for name in sharded_lab.parts:
        last = sharded_lab.admin_client(name).local["oplog.rs"].find_one(sort=[("$natural", -1)])
        assert last is not None
        assert last["ts"] >= noted


def test_all_parts_share_users_and_passwords(sharded_lab: ShardedLab) -> None:
    config = sharded_lab.config
    for part in sharded_lab.parts.values():
        with part.client(username=config.backup_username, password=config.backup_password) as client:
            assert client.admin.command("ping")["ok"]


def test_reset_leaves_nothing(sharded_lab: ShardedLab) -> None:
    lab = sharded_lab
    lab.create_sharded(NAMESPACE, {"_id": 1}, "shard1")
    lab.split(NAMESPACE, {"_id": 0})
    lab.move_range(NAMESPACE, {"_id": 0}, {"_id": MaxKey()}, "shard0")
    lab.add_zone(NAMESPACE, "north", shard="shard0", low={"_id": 0}, high={"_id": 9})
    lab.admin_client("shard1").unknown.things.insert_one({})
    lab.admin_client("shard0").shop.command("createUser", "stranger", pwd="x", roles=[])
    lab.stop_balancer()

    lab.reset()

    config = lab.admin_client(CONFIG).config
    # A cluster that lives for some minutes makes this one by itself.
    own = config.collections.find_one({"_id": "config.system.sessions"}) or {}
    for name in ("databases", "collections", "chunks", "tags"):
        assert list(config[name].find({"uuid": {"$ne": own.get("uuid", "")}})) == [], name
    assert sorted(shard["_id"] for shard in config.shards.find()) == ["shard0", "shard1"]
    assert not config.shards.count_documents({"tags.0": {"$exists": True}})
    assert lab.balancer_status()["mode"] == "full"
    for shard in lab.shards:
        assert set(lab.admin_client(shard).list_database_names()) <= SERVER_DATABASES
        users = lab.admin_client(shard).admin.command("usersInfo", {"forAllDBs": True})["users"]
        assert {"root", "backup"} == {user["user"] for user in users}
