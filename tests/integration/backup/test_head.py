"""A head's life in real replica sets: it joins, follows, survives, and leaves nothing behind."""

import base64
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.backup.registration import register_cluster, remove_cluster
from ebbtide.backup.requesting import HeadNotReady
from ebbtide.catalog.clusters import ClusterCollection
from ebbtide.domain.cluster import Cluster, ClusterState, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.replica_set import find_member
from ebbtide.errors import Unreachable
from ebbtide.mongod.options import MongodOptions, Tcp
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.process import MongodProcess
from ebbtide.testing.lab import ReplicaSetLab

AtPoint = Callable[[str, Callable[[], Any]], None]

WORKER = """
import sys
from pathlib import Path
from ebbtide.data_directory import DataDirectory
from ebbtide.settings import resolve_settings
from ebbtide.worker.process import run_worker
flags = {"mongod": sys.argv[2], "head.cache_gb": 0.25}
run_worker(DataDirectory.at(Path(sys.argv[1])), resolve_settings(flags=flags, environment={}, file=None))
"""
"""A worker as a process of its own, which can be killed."""


def configuration(lab: ReplicaSetLab) -> dict[str, Any]:
    with lab.client() as client:
        found: dict[str, Any] = client.admin.command("replSetGetConfig")["config"]
        return found


def test_a_head_joins_hidden_and_without_a_vote_and_follows(
    installation: Any, lab: ReplicaSetLab, recorded_states: list[dict[str, Any]]
) -> None:
    with lab.client(w="majority") as client:
        client.shop.orders.insert_many([{"_id": i, "body": bytes(1000)} for i in range(5000)])
    with installation.working():
        cluster = installation.register_and_follow(lab)
        installation.wait_until(lambda: installation.events(cluster, "head.synced"), what="its last event")
        head = installation.wait_until(
            lambda: (h := installation.head(cluster)).lag_seconds is not None and h, what="its lag"
        )
        member = find_member(configuration(lab), head.host, head.port)
        assert member is not None
        assert (member["priority"], member["votes"], member["hidden"]) == (0, 0, True)
        states = [written["state"] for written in recorded_states if "state" in written]
        assert states == [HeadState.JOINING, HeadState.SYNCING, HeadState.FOLLOWING]
        done = [written["sync_done_bytes"] for written in recorded_states if "sync_done_bytes" in written]
        assert done[0] == 0
        assert done == sorted(done)
        assert done[-1] == head.sync_done_bytes == head.sync_total_bytes > 0
        kinds = [event.kind for event in installation.events(cluster)]
        assert kinds == ["cluster.added", "head.joined", "head.synced"]
        with installation.head_client(cluster) as client:
            assert client.shop.orders.count_documents({}) == 5000

        process = installation.head_process(cluster)
        installation.remove(cluster)
        assert len(lab.members) == len(configuration(lab)["members"])
        assert not process.is_running()
        assert not installation.context.head_directory(cluster).exists()
        assert installation.cluster(cluster).state is ClusterState.REMOVED
        assert installation.head(cluster).state is HeadState.GONE


# --- bad luck -----------------------------------------------------------------------------------------------------


def test_a_killed_worker_leaves_a_head_that_the_next_one_adopts(
    installation: Any, lab: ReplicaSetLab, mongod_binary: Any
) -> None:
    cluster = installation.register(lab)
    arguments = [str(installation.context.directory.root), str(mongod_binary)]
    with subprocess.Popen([sys.executable, "-c", WORKER, *arguments], stdout=subprocess.DEVNULL) as worker:
        try:
            installation.wait_for_head(cluster, HeadState.FOLLOWING)
        finally:
            worker.send_signal(signal.SIGKILL)
    process = installation.head_process(cluster)
    # As a worker leaves it that is killed under the lock.
    with installation.head_client(cluster) as client:
        client.admin.command({"fsync": 1, "lock": True})
        client.admin.command({"fsync": 1, "lock": True})
    dead = installation.head(cluster).lease_worker_id
    now = installation.context.clock.now()
    installation.catalog.heads.update(cluster.id, worker_id=dead, now=now, lock_job_id="SNAPSHOT:gone")

    with installation.working():
        installation.wait_until(lambda: installation.head(cluster).lease_worker_id not in (None, dead))
        installation.wait_until(lambda: installation.head(cluster).lock_job_id is None)
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        assert process.pid == installation.head_process(cluster).pid
        assert installation.head(cluster).restarts == 0
        assert "head.down" not in [event.kind for event in installation.events(cluster)]
        with installation.head_client(cluster) as client:
            assert not client.admin.command("currentOp", 1, **{"$ownOps": True}).get("fsyncLock", False)
        with lab.client(w="majority") as client:
            client.shop.orders.insert_one({"after": "the kill"})
        assert installation.take_snapshot(cluster).stable_timestamp is not None


@pytest.mark.parametrize("point", ["head.started", "head.joined"])
def test_a_head_killed_while_it_joins_joins_all_the_same(
    installation: Any, lab: ReplicaSetLab, at_point: AtPoint, point: str
) -> None:
    def kill() -> None:
        (cluster,) = installation.catalog.clusters.list_live()
        installation.head_process(cluster).kill()

    at_point(point, kill)
    with installation.working():
        cluster = installation.register_and_follow(lab)
        assert len(lab.members) + 1 == len(configuration(lab)["members"])
        assert "head.failed" not in [event.kind for event in installation.events(cluster)]


@pytest.mark.parametrize("point", ["head.started", "head.joined"])
def test_the_primary_steps_down_while_a_head_joins(
    installation: Any, lab: ReplicaSetLab, at_point: AtPoint, point: str
) -> None:
    at_point(point, lab.step_down)
    with installation.working():
        cluster = installation.register_and_follow(lab)
        head = installation.head(cluster)
        assert find_member(configuration(lab), head.host, head.port) is not None


def register_with_keyfile(installation: Any, lab: ReplicaSetLab, keyfile: str) -> Cluster:
    """Registered with another keyfile than the one that was checked: as if it changed in between."""
    return register_cluster(
        installation.request(lab, keyfile=keyfile),
        installation.check(installation.request(lab)),
        catalog=installation.catalog,
        service_key=installation.context.service_key,
        clock=installation.context.clock,
        group_id=installation.group.id,
        actor="test",
    )


def wait_until_failed(installation: Any, cluster: Cluster) -> Any:
    def failed() -> Any:
        head = installation.catalog.heads.find(cluster.id)
        return head if head is not None and head.state is HeadState.FAILED else None

    return installation.wait_until(failed, what="the head's failure")


def test_a_head_that_members_cannot_reach_is_taken_out_again(
    installation: Any, keyfile_lab: ReplicaSetLab
) -> None:
    """No firewall here: the members reach its port, and it turns them away."""
    wrong = base64.b64encode(secrets.token_bytes(60)).decode()
    cluster = register_with_keyfile(installation, keyfile_lab, wrong)
    # Time enough for every member to hear of the head, and to try.
    with installation.working(head_reach_seconds=6.0):
        head = wait_until_failed(installation, cluster)
        assert len(keyfile_lab.members) == len(configuration(keyfile_lab)["members"])
        for member in keyfile_lab.members:
            assert f"{member.address} could not reach the head at {head.host}:{head.port} (" in head.message
        assert "--head-host" in head.message
        assert wrong not in head.message
        failed = installation.events(cluster, "head.failed")
        assert [event.level for event in failed] == [EventLevel.ERROR]
        with pytest.raises(HeadNotReady):
            installation.request_snapshot(cluster)
        installation.remove(cluster)
        assert_gone(installation, keyfile_lab, cluster)


def test_a_voter_that_cannot_be_asked_is_named(
    installation: Any, lab: ReplicaSetLab, at_point: AtPoint
) -> None:
    down = next(m for m in lab.members if m.index != lab.primary().index)
    at_point("head.joined", lambda: lab.kill_member(down.index))
    cluster = installation.register(lab)
    with installation.working(head_reach_seconds=3.0):
        head = wait_until_failed(installation, cluster)
    assert f"{down.address} could not be asked whether it reaches {head.host}:{head.port}" in head.message
    assert len(lab.members) == len(configuration(lab)["members"])
    installation.remove_all()
    lab.restart_member(down.index)
    installation.wait_until_healthy(lab)


# --- leaving ------------------------------------------------------------------------------------------------------


def ask_to_remove(installation: Any, cluster: Cluster) -> None:
    remove_cluster(cluster, catalog=installation.catalog, clock=installation.context.clock, actor="test")


def assert_gone(installation: Any, lab: ReplicaSetLab, cluster: Cluster) -> None:
    assert len(lab.members) == len(configuration(lab)["members"])
    assert installation.cluster(cluster).state is ClusterState.REMOVED
    assert installation.head_process(cluster) is None
    assert not installation.context.head_directory(cluster).exists()


def test_removing_while_the_heads_mongod_is_dead(installation: Any, lab: ReplicaSetLab) -> None:
    with installation.working():
        cluster = installation.register_and_follow(lab)
        installation.head_process(cluster).kill()
        installation.remove(cluster)
        assert_gone(installation, lab, cluster)


def test_removing_before_any_worker_gave_it_a_head(installation: Any, lab: ReplicaSetLab) -> None:
    cluster = installation.register(lab)
    ask_to_remove(installation, cluster)
    with installation.working():
        installation.remove(cluster)
    assert_gone(installation, lab, cluster)


@pytest.mark.parametrize("point", ["head.started", "head.joined"])
def test_removing_while_it_joins(
    installation: Any, lab: ReplicaSetLab, at_point: AtPoint, point: str
) -> None:
    cluster = installation.register(lab)
    at_point(point, lambda: ask_to_remove(installation, cluster))
    with installation.working():
        installation.wait_until(lambda: installation.cluster(cluster).state is ClusterState.REMOVED)
    assert_gone(installation, lab, cluster)


def test_a_catalog_that_fails_at_the_last_step_of_a_removal(
    installation: Any, lab: ReplicaSetLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_state = ClusterCollection.set_state
    failures = []

    def failing(self: ClusterCollection, cluster_id: ClusterId, state: ClusterState) -> None:
        if state is ClusterState.REMOVED and not failures:
            failures.append(state)
            raise Unreachable("the catalog does not answer")
        set_state(self, cluster_id, state)

    with installation.working():
        cluster = installation.register_and_follow(lab)
        monkeypatch.setattr(ClusterCollection, "set_state", failing)
        installation.remove(cluster)
    assert failures
    assert_gone(installation, lab, cluster)
    assert len(installation.events(cluster, "cluster.removed")) == 1


def test_a_head_that_was_given_a_vote_is_left_until_it_is_taken_back(
    installation: Any, lab: ReplicaSetLab
) -> None:
    def give(votes: int) -> None:
        with lab.client() as client:
            config = client.admin.command("replSetGetConfig")["config"]
            next(m for m in config["members"] if m["host"].endswith(f":{head.port}"))["votes"] = votes
            config["version"] += 1
            client.admin.command("replSetReconfig", config)

    with installation.working():
        cluster = installation.register_and_follow(lab)
        head = installation.head(cluster)
        give(1)
        ask_to_remove(installation, cluster)
        installation.wait_until(lambda: "votes" in installation.head(cluster).message)
        assert len(lab.members) + 1 == len(configuration(lab)["members"])
        give(0)
        installation.remove(cluster)
        assert_gone(installation, lab, cluster)


# --- keyfile ------------------------------------------------------------------------------------------------------


def test_a_set_with_a_keyfile_is_followed_as_the_backup_user_and_its_killed_head_started_again(
    installation: Any, keyfile_lab: ReplicaSetLab
) -> None:
    with keyfile_lab.client(w="majority") as client:
        client.shop.orders.insert_many([{"_id": i} for i in range(100)])
    with installation.working():
        cluster = installation.register_and_follow(keyfile_lab)
        keyfile = installation.context.head_directory(cluster) / "keyfile"
        assert keyfile.stat().st_mode & 0o777 == 0o600
        with installation.head_client(cluster) as client:
            assert client.shop.orders.count_documents({}) == 100
        killed = installation.head_process(cluster)
        killed.kill()
        with keyfile_lab.client() as client:
            client.shop.orders.insert_one({"_id": "while it is down"})
        installation.wait_until(lambda: installation.events(cluster, "head.restarted"), what="its return")
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        assert installation.events(cluster, "head.down")
        assert killed.pid != installation.head_process(cluster).pid
        assert installation.head(cluster).restarts == 1
        with installation.head_client(cluster) as client:
            installation.wait_until(lambda: client.shop.orders.count_documents({}) == 101)
        snapshot = installation.take_snapshot(cluster)
        assert snapshot.stable_timestamp is not None
        said = " ".join(event.message for event in installation.events(cluster))
        for secret in (keyfile_lab.backup_password, keyfile_lab.keyfile_path.read_text().strip()):
            assert secret not in said
        installation.remove(cluster)
        assert_gone(installation, keyfile_lab, cluster)


def test_the_least_that_registration_asks_for_is_enough_for_a_snapshot(
    installation: Any, keyfile_lab: ReplicaSetLab
) -> None:
    roles = ["backup", "clusterMonitor", "clusterManager", "hostManager"]
    with keyfile_lab.client(w="majority") as client:
        client.shop.orders.insert_one({})
        client.admin.command("createUser", "least", pwd="pass", roles=roles)
    with installation.working():
        cluster = installation.register_and_follow(keyfile_lab, username="least", password="pass")
        assert installation.take_snapshot(cluster).data_size_bytes > 0


@pytest.fixture
def arbiter(keyfile_lab: ReplicaSetLab, mongod_binary: Path, tmp_path: Path) -> Iterator[str]:
    """The address of an arbiter that the set has as well; it is taken out with the lab's next reset."""
    port = free_port()
    options = MongodOptions(
        dbpath=tmp_path / "arbiter",
        log_path=tmp_path / "arbiter.log",
        listen=Tcp(host="127.0.0.1", port=port),
        cache_gb=0.25,
        replica_set_name=keyfile_lab.replica_set_name,
        keyfile=keyfile_lab.keyfile_path,
    )
    process = MongodProcess.start(mongod_binary, options, identity_path=tmp_path / "arbiter.json")
    try:
        with keyfile_lab.client() as client:
            client.admin.command("setDefaultRWConcern", 1, defaultWriteConcern={"w": "majority"})
            config = client.admin.command("replSetGetConfig")["config"]
            config["members"].append({"_id": 9, "host": f"127.0.0.1:{port}", "arbiterOnly": True})
            config["version"] += 1
            client.admin.command("replSetReconfig", config)
        yield f"127.0.0.1:{port}"
        keyfile_lab.remove_foreign_members()
    finally:
        process.kill()


def test_an_arbiter_which_has_no_users_can_be_asked_too(
    installation: Any, keyfile_lab: ReplicaSetLab, arbiter: str
) -> None:
    with installation.working():
        cluster = installation.register_and_follow(keyfile_lab)
        hosts = [member["host"] for member in configuration(keyfile_lab)["members"]]
        head = installation.head(cluster)
        assert {arbiter, f"{head.host}:{head.port}"} <= set(hosts)
        installation.remove(cluster)
