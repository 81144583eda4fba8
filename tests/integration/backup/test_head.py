"""A head's life in real replica sets: it joins, follows, survives, and leaves nothing behind."""

from typing import Any

from ebbtide.domain.cluster import ClusterState, HeadState
from ebbtide.domain.replica_set import find_member
from ebbtide.testing.lab import ReplicaSetLab


def configuration(lab: ReplicaSetLab) -> dict[str, Any]:
    with lab.client() as client:
        found: dict[str, Any] = client.admin.command("replSetGetConfig")["config"]
        return found


def test_a_head_joins_hidden_and_without_a_vote_and_follows(installation: Any, lab: ReplicaSetLab) -> None:
    with lab.client(w="majority") as client:
        client.shop.orders.insert_many([{"_id": i, "body": bytes(1000)} for i in range(5000)])
    with installation.working():
        cluster = installation.register(lab)
        seen = []

        def follows() -> bool:
            head = installation.catalog.heads.find(cluster.id)
            if head is not None:
                seen.append(head)
            return head is not None and head.state is HeadState.FOLLOWING

        installation.wait_until(follows)
        head = installation.wait_until(
            lambda: (h := installation.head(cluster)).lag_seconds is not None and h, what="its lag"
        )
        member = find_member(configuration(lab), head.host, head.port)
        assert member is not None
        assert (member["priority"], member["votes"], member["hidden"]) == (0, 0, True)
        syncing = [h for h in seen if h.state is HeadState.SYNCING]
        assert syncing
        assert all(0 <= h.sync_done_bytes <= h.sync_total_bytes for h in syncing)
        assert [h.sync_done_bytes for h in syncing] == sorted(h.sync_done_bytes for h in syncing)
        assert head.sync_done_bytes == head.sync_total_bytes > 0
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
