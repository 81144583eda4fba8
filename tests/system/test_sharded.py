"""A sharded cluster under the real `ebbtide serve`: registered whole by any of its servers, shown, paused, followed when
a shard goes and comes back, and removed."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ebbtide.cli.api_errors import ApiRefusal
from ebbtide.cli.client import EbbtideClient
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.service import RunningService
from ebbtide.testing.sharded_lab import CONFIG, ShardedLab

Document = dict[str, Any]

NAME = "orders"
PARTS = [f"{NAME}-config", f"{NAME}-shard0", f"{NAME}-shard1"]


class ShardedOwner:
    """What the owner of a service does with one sharded cluster."""

    def __init__(self, service: RunningService, lab: ShardedLab) -> None:
        self.service = service
        self.lab = lab
        self.client: EbbtideClient = service.client()
        self.group_id = service.group_id

    def registration(self, part: str = CONFIG, **changes: Any) -> Document:
        """The document that registers the lab whole, by one of its parts."""
        named: ReplicaSetLab = self.lab.parts[part]
        found = {
            "name": NAME,
            "uri": named.uri,
            "username": named.backup_username,
            "password": named.backup_password,
            "keyfile": self.lab.config.keyfile_text,
        }
        return {name: value for name, value in (found | changes).items() if value is not None}

    def cluster(self, name: str = NAME) -> Document:
        return self.client.get_cluster(self.group_id, name)

    def names(self) -> list[str]:
        return [str(found["name"]) for found in self.client.list_clusters(self.group_id)]

    def wait_until_following(self) -> Document:
        def look() -> Document | None:
            cluster = self.cluster()
            states = {(part.get("head") or {}).get("state") for part in cluster["parts"]}
            return cluster if states == {"FOLLOWING"} else None

        return self.service.wait_until(look, f"the heads of {NAME} to follow")


@pytest.fixture(scope="module")
def service(new_service: Callable[..., RunningService]) -> RunningService:
    return new_service().start()


@pytest.fixture
def owner(service: RunningService, sharded_lab: ShardedLab) -> Iterator[ShardedOwner]:
    owner = ShardedOwner(service, sharded_lab)
    yield owner
    if NAME in owner.names():
        owner.client.remove_cluster(owner.group_id, NAME)
    service.wait_until(lambda: owner.names() == [], "the cluster to be removed")
    owner.client.close()


def test_it_is_registered_whole_paused_and_removed(owner: ShardedOwner) -> None:
    report = owner.client.check_cluster(owner.group_id, owner.registration())
    assert report["ok"], report
    assert [part["name"] for part in report["parts"]] == PARTS
    owner.client.add_cluster(owner.group_id, owner.registration())
    cluster = owner.wait_until_following()

    assert cluster["kind"] == "SHARDED"
    assert [(part["name"], part.get("shardName")) for part in cluster["parts"]] == [
        (PARTS[0], None),
        (PARTS[1], "shard0"),
        (PARTS[2], "shard1"),
    ]
    assert owner.names() == [NAME, *PARTS]
    assert owner.cluster(PARTS[1])["partOf"] == cluster["id"]
    for what in ("pause", "detach"):
        with pytest.raises(ApiRefusal, match=f"part of the sharded cluster {NAME}"):
            owner.client.ask_head(owner.group_id, PARTS[1], what)
    with pytest.raises(ApiRefusal, match=f"part of the sharded cluster {NAME}"):
        owner.client.remove_cluster(owner.group_id, PARTS[0])
    assert owner.client.ask_head(owner.group_id, NAME, "pause")["paused"] is True
    assert "paused" not in owner.client.ask_head(owner.group_id, NAME, "resume")

    owner.client.remove_cluster(owner.group_id, NAME)
    owner.service.wait_until(lambda: owner.names() == [], "the cluster to be removed")
    for name, part in owner.lab.parts.items():
        members = owner.lab.admin_client(name).admin.command("replSetGetConfig")["config"]["members"]
        assert len(members) == len(part.members), name


def test_a_shard_leads_to_the_whole_cluster_and_what_is_missing_is_said(owner: ShardedOwner) -> None:
    report = owner.client.check_cluster(owner.group_id, owner.registration("shard1"))
    assert [part["name"] for part in report["parts"]] == PARTS

    with pytest.raises(ApiRefusal, match="--keyfile"):
        owner.client.add_cluster(owner.group_id, owner.registration(keyfile=None))
    assert owner.names() == []
