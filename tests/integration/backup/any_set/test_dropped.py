"""Somebody else's hands on the head's membership: put back once, then left out until it is asked back; let go of."""

from collections.abc import Iterator
from typing import Any

import pytest

from ebbtide.backup import head_joining
from ebbtide.backup.head_requests import detach, rejoin, removal_line, set_paused
from ebbtide.backup.requesting import HeadNotReady
from ebbtide.domain.cluster import Cluster, ClusterState, HeadState
from ebbtide.domain.replica_set import find_member, plan_remove_head
from ebbtide.errors import Refused
from ebbtide.testing.lab import ReplicaSetLab


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A keeper that looks at the set's configuration often."""
    monkeypatch.setattr(head_joining, "LISTED_CHECK_SECONDS", 0.5)
    monkeypatch.setattr(head_joining, "LISTED_CHECK_AGAIN_SECONDS", 0.5)
    return


def asked(installation: Any) -> dict[str, Any]:
    return {"catalog": installation.catalog, "clock": installation.context.clock, "actor": "test"}


def is_listed(lab: ReplicaSetLab, cluster: Cluster) -> bool:
    with lab.client() as client:
        configuration = client.admin.command("replSetGetConfig")["config"]
    return find_member(configuration, cluster.head_host, cluster.head_port) is not None


def drop(lab: ReplicaSetLab, cluster: Cluster) -> None:
    """Take the head out of the set, once: looking again whether it is gone would race with putting it back."""
    with lab.client() as client:
        configuration = client.admin.command("replSetGetConfig")["config"]
        reduced = plan_remove_head(configuration, host=cluster.head_host, port=cluster.head_port)
        client.admin.command("replSetReconfig", reduced)


def insert(lab: ReplicaSetLab, word: str) -> None:
    with lab.client(w="majority") as client:
        client.shop.orders.insert_one({"_id": word})


def has(installation: Any, cluster: Cluster, word: str) -> bool:
    with installation.head_client(cluster) as client:
        return client.shop.orders.count_documents({"_id": word}) == 1


def test_a_dropped_head_is_put_back_once_and_then_when_it_is_asked_back(
    installation: Any, lab: ReplicaSetLab
) -> None:
    with installation.working():
        cluster = installation.register_and_follow(lab)
        with pytest.raises(Refused):
            rejoin(cluster, **asked(installation))

        drop(lab, cluster)
        insert(lab, "while it was out")
        installation.wait_until(lambda: installation.events(cluster, "head.put_back"), what="put back")
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        assert is_listed(lab, cluster)
        installation.wait_until(lambda: has(installation, cluster, "while it was out"))

        drop(lab, cluster)
        head = installation.wait_for_head(cluster, HeadState.REMOVED)
        assert "ebbtide clusters rejoin shop" in head.message
        with pytest.raises(HeadNotReady):
            installation.request_snapshot(cluster)
        insert(lab, "while it was out again")
    # A worker that starts anew leaves it as it is, and does not say it again.
    with installation.working():
        installation.wait_until(lambda: installation.head(cluster).lease_worker_id is not None)
        assert installation.head(cluster).state is HeadState.REMOVED
        assert not is_listed(lab, cluster)

        rejoin(cluster, **asked(installation))
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        installation.wait_until(lambda: has(installation, cluster, "while it was out again"))
        assert is_listed(lab, cluster)
        kinds = [event.kind for event in installation.events(cluster)]
        wanted = ("head.put_back", "head.removed", "cluster.rejoin", "head.rejoined")
        assert list(wanted) == [kind for kind in kinds if kind in wanted]
        assert installation.take_snapshot(cluster).stable_timestamp is not None
        installation.remove(cluster)
        assert not is_listed(lab, cluster)


def test_a_removed_head_that_somebody_adds_again_is_followed_again(
    installation: Any, lab: ReplicaSetLab
) -> None:
    with installation.working():
        cluster = installation.register_and_follow(lab)
        installation.catalog.heads.update(
            cluster.id,
            worker_id=installation.head(cluster).lease_worker_id,
            now=installation.context.clock.now(),
            put_back=installation.context.clock.now(),
        )
        drop(lab, cluster)
        installation.wait_for_head(cluster, HeadState.REMOVED)
        with lab.client() as client:
            configuration = client.admin.command("replSetGetConfig")["config"]
            configuration["version"] += 1
            address = f"{cluster.head_host}:{cluster.head_port}"
            mine = {"_id": 77, "host": address, "votes": 0, "priority": 0, "hidden": True}
            configuration["members"].append(mine)
            client.admin.command("replSetReconfig", configuration)
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        installation.remove(cluster)


@pytest.mark.long
def test_a_cluster_whose_set_is_lost_is_let_go_of(installation: Any, lab: ReplicaSetLab) -> None:
    with installation.working():
        cluster = installation.register_and_follow(lab)
        snapshot = installation.take_snapshot(cluster)
        process = installation.head_process(cluster)
        for member in lab.members:
            member.process.kill()
        detached = detach(cluster, **asked(installation))
        assert detached.state is ClusterState.REMOVING
        installation.wait_until(lambda: installation.cluster(cluster).state is ClusterState.REMOVED)
        assert not process.is_running()
        assert not installation.context.head_directory(cluster).exists()
        assert installation.cluster(cluster).password is None
        assert installation.manifest(snapshot).snapshot_id == snapshot.id
        # Asked again, it says the same.
        again = detach(installation.cluster(cluster), **asked(installation))
        assert again.state is ClusterState.REMOVED
    for member in lab.members:
        lab.restart_member(member.index)
    lab.primary()
    assert is_listed(lab, cluster)
    (event,) = installation.events(cluster, "cluster.detached")
    assert removal_line(cluster) in event.message
    assert removal_line(cluster) == f'rs.remove("{cluster.head_host}:{cluster.head_port}")'


def test_a_paused_cluster_is_followed_and_not_snapshotted(installation: Any, lab: ReplicaSetLab) -> None:
    with installation.working():
        cluster = installation.register_and_follow(lab)
        paused = set_paused(cluster, is_paused=True, **asked(installation))
        assert paused.is_paused
        with pytest.raises(HeadNotReady) as refused:
            installation.request_snapshot(cluster)
        assert "clusters resume shop" in str(refused.value)
        insert(lab, "meanwhile")
        installation.wait_until(lambda: has(installation, cluster, "meanwhile"))
        assert not set_paused(paused, is_paused=False, **asked(installation)).is_paused
        installation.take_snapshot(cluster)
        kinds = [event.kind for event in installation.events(cluster)]
        assert kinds.index("cluster.paused") < kinds.index("cluster.resumed")
