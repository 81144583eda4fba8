"""A real sharded cluster is registered as one cluster and its parts, and every part gets a head that serves it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ebbtide.backup import sharded_registration
from ebbtide.backup.requesting import HeadNotReady
from ebbtide.domain import sharding
from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState, HeadState
from ebbtide.errors import Refused, RegistrationRefused
from ebbtide.testing.sharded_lab import CONFIG, ShardedLab
from ebbtide.testing.sharded_registration import lab_request


@pytest.fixture
def registered(installation: Any, sharded_lab: ShardedLab) -> Iterator[Cluster]:
    cluster = installation.register_sharded(sharded_lab)
    yield cluster
    installation.remove_sharded(cluster)


def test_every_part_is_followed_and_can_be_snapshotted(
    installation: Any, sharded_lab: ShardedLab, registered: Cluster
) -> None:
    parts = installation.catalog.clusters.list_parts(registered.id)
    with installation.working():
        for part in parts:
            installation.wait_for_head(part, HeadState.FOLLOWING)
        snapshots = [installation.request_snapshot(part) for part in parts]
        complete = [installation.wait_for_snapshot(snapshot) for snapshot in snapshots]
        roles = {}
        for part in parts:
            with installation.head_client(part) as client:
                options = client.admin.command("getCmdLineOpts")["parsed"]
                roles[part.name] = options["sharding"]["clusterRole"]

        installation.remove_sharded(registered)
        for part in parts:
            installation.wait_until(
                lambda part=part: installation.cluster(part).state is ClusterState.REMOVED, what="removed"
            )

    assert roles == {"bank-config": "configsvr", "bank-shard0": "shardsvr", "bank-shard1": "shardsvr"}
    assert {snapshot.cluster_id for snapshot in complete} == {part.id for part in parts}
    assert installation.cluster(registered).state is ClusterState.REMOVED
    # Nothing of ours stays in any part.
    for name, lab_part in sharded_lab.parts.items():
        members = sharded_lab.admin_client(name).admin.command("replSetGetConfig")["config"]["members"]
        assert len(members) == len(lab_part.members), name


def test_the_cluster_is_one_record_without_a_head_and_one_for_each_part(
    installation: Any, registered: Cluster
) -> None:
    parts = installation.catalog.clusters.list_parts(registered.id)

    assert registered == installation.cluster(registered)
    assert registered.kind is ClusterKind.SHARDED
    assert [(part.name, part.shard_name, part.is_config_server) for part in parts] == [
        ("bank-config", None, True),
        ("bank-shard0", "shard0", False),
        ("bank-shard1", "shard1", False),
    ]
    assert {part.kind for part in parts} == {ClusterKind.REPLICA_SET}
    assert len({part.head_port for part in parts}) == 3
    assert registered.id not in {cluster.id for cluster in installation.catalog.clusters.list_live()}
    with pytest.raises(HeadNotReady, match="sharded cluster"):
        installation.request_snapshot(registered)


def test_a_part_that_is_missing_is_recorded_and_no_other_is_twice(
    installation: Any, sharded_lab: ShardedLab
) -> None:
    request = lab_request(sharded_lab, "bank")
    report = installation.check_sharded(request)
    without = replace(report, parts=report.parts[:-1])
    cluster = installation.register_sharded(sharded_lab, report=without)
    try:
        for expected in (["bank-shard1"], []):
            added = sharded_registration.follow_parts(
                cluster,
                report,
                catalog=installation.catalog,
                service_key=installation.context.service_key,
                clock=installation.context.clock,
                actor="test",
            )
            assert [part.name for part in added] == expected
    finally:
        installation.remove_sharded(cluster)


def test_what_any_part_lacks_refuses_the_whole_cluster(installation: Any, sharded_lab: ShardedLab) -> None:
    port = sharded_lab.shards["shard1"].members[0].port
    request = lab_request(sharded_lab, "refused", head_port=port - 2)

    report = installation.check_sharded(request)

    assert not report.ok
    with pytest.raises(RegistrationRefused, match=f"shard1: port {port} of"):
        installation.register_sharded(sharded_lab, "refused", head_port=port - 2, report=report)
    assert installation.catalog.clusters.find_by_name(installation.group.id, "refused") is None


def test_without_the_keyfile_nothing_is_asked(installation: Any, sharded_lab: ShardedLab) -> None:
    with pytest.raises(RegistrationRefused, match="keyfile"):
        installation.check_sharded(lab_request(sharded_lab, "bank", keyfile=None))


def test_a_version_that_was_not_tried_is_refused(
    installation: Any, sharded_lab: ShardedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "TESTED_VERSIONS", frozenset({"9.9"}))

    with pytest.raises(Refused, match=rf"on server 9\.9, not on {CONFIG} 6\.0"):
        installation.check_sharded(lab_request(sharded_lab, "bank"))
