"""The rules of automated restores: who consents, what stands in the way, what is told, where an attempt goes on."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ebbtide.domain.automated_restore import (
    RESTORE_ROLES,
    TARGET_SENTENCES,
    AutomatedRestore,
    RestoreScope,
    SourceFacts,
    TargetFacts,
    TargetState,
    can_block_writes,
    is_foreign_write,
    judge_target,
    missing_restore_roles,
    plan_resumption,
    refuse_target,
    tell_target,
)
from ebbtide.domain.cluster import Cluster, ClusterState
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId
from ebbtide.domain.optime import OplogTimestamp

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 1024**3
CLUSTER = Cluster(
    id=ClusterId("5f00000000000000000000c1"),
    group_id=GroupId("5f0000000000000000000001"),
    name="shop",
    replica_set_name="rs0",
    uri="mongodb://db1",
    username="backup",
    auth_source="admin",
    password=None,
    keyfile=None,
    mongod_version="6.0.5",
    fcv="6.0",
    state=ClusterState.ACTIVE,
    created=NOW,
    head_host="backup1",
    head_port=27117,
    restore_target=True,
)
RECORD = AutomatedRestore(
    id=RestoreJobId("5f00000000000000000000d1"),
    target_group_id=CLUSTER.group_id,
    target_cluster_id=CLUSTER.id,
    target_name="shop",
    scope=RestoreScope(),
    requested=NOW,
)
TARGET = TargetFacts(
    name="shop",
    set_name="rs0",
    expected_set_name="rs0",
    mongod_version="6.0.5",
    fcv="6.0",
    missing_roles=(),
    needs_login=True,
    free_bytes=10 * GIB,
    removed_bytes=2 * GIB,
)
SOURCE = SourceFacts(fcv="6.0", data_bytes=5 * GIB)


def test_only_a_cluster_whose_owner_said_so_is_a_target() -> None:
    assert refuse_target(CLUSTER) is None
    refused = refuse_target(replace(CLUSTER, restore_target=False))
    assert refused is not None
    assert "ebbtide clusters set shop --restore-target on" in refused
    assert "removed" in str(refuse_target(replace(CLUSTER, state=ClusterState.REMOVING)))


# What the built-in roles of 6.0.5 allow, as far as it matters.
CLUSTER_WIDE: dict[str, list[str]] = {
    "restore": ["forceUUID", "useUUID", "bypassWriteBlockingMode", "setUserWriteBlockMode", "applyOps"],
    "dbAdminAnyDatabase": ["listDatabases", "applyOps"],
    "readWriteAnyDatabase": ["listDatabases"],
    "clusterMonitor": ["serverStatus", "replSetGetStatus", "replSetGetConfig", "useUUID"],
}
ANYWHERE: dict[str, list[str]] = {
    "restore": ["insert", "createCollection", "createIndex", "dropCollection", "collMod"],
    "dbAdminAnyDatabase": ["createCollection", "dropDatabase", "collMod"],
    "readWriteAnyDatabase": ["find", "insert", "update", "remove", "dbHash", "createCollection"],
    "clusterMonitor": ["collStats"],
}


def privileges(*roles: str) -> list[Any]:
    return [
        *({"resource": {"cluster": True}, "actions": CLUSTER_WIDE[role]} for role in roles),
        *({"resource": {"db": "", "collection": ""}, "actions": ANYWHERE[role]} for role in roles),
    ]


@pytest.mark.parametrize("lacking", RESTORE_ROLES)
def test_a_role_that_is_missing_is_named(lacking: str) -> None:
    assert missing_restore_roles(privileges(*RESTORE_ROLES)) == []
    assert missing_restore_roles(privileges(*(r for r in RESTORE_ROLES if r != lacking))) == [lacking]


def test_who_may_do_everything_lacks_nothing_and_who_may_nothing_all() -> None:
    everything = {
        action for found in (CLUSTER_WIDE, ANYWHERE) for actions in found.values() for action in actions
    }
    root = [{"resource": {"anyResource": True}, "actions": sorted(everything)}]
    assert missing_restore_roles(root) == []
    assert missing_restore_roles([]) == list(RESTORE_ROLES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"fcv": "7.0"}, None),
        ({"fcv": "5.0"}, "version 6.0, and shop has 5.0"),
        ({"fcv": "10.0"}, None),
        ({"set_name": "rs1"}, "replica set rs1, not rs0"),
        ({"missing_roles": ("restore",)}, "lacks the roles restore"),
        ({"free_bytes": 3 * GIB}, "about 5.5 GiB are needed"),
        ({"free_bytes": 4 * GIB}, None),
        ({"free_bytes": None, "removed_bytes": 0}, None),
    ],
)
def test_what_stands_in_the_way_is_said(changes: dict[str, Any], said: str | None) -> None:
    problems = judge_target(replace(TARGET, **changes), SOURCE)
    assert (said is None) == (problems == ())
    assert said is None or said in problems[0]


def test_all_that_stands_in_the_way_is_said_together() -> None:
    assert len(judge_target(replace(TARGET, set_name="x", fcv="4.4", free_bytes=0), SOURCE)) == 3


@pytest.mark.parametrize(
    ("version", "can"), [("5.0.4", False), ("6.0", True), ("6.0.5", True), ("10.0", True)]
)
def test_writers_can_be_kept_off_since_six(version: str, can: bool) -> None:
    assert can is can_block_writes(version)


@pytest.mark.parametrize(
    ("state", "removal_is_done", "finished"),
    [
        (TargetState.UNTOUCHED, False, set()),
        (TargetState.REMOVING, False, set()),
        (TargetState.LOADING, True, {"a.b"}),
        (TargetState.LOADED, True, {"a.b"}),
    ],
)
def test_an_attempt_goes_on_where_the_last_one_was(
    state: TargetState, removal_is_done: bool, finished: set[str]
) -> None:
    found = plan_resumption(replace(RECORD, target_state=state), ("a.b",))
    assert (removal_is_done, finished) == (found.removal_is_done, set(found.finished))


def test_every_state_of_the_target_has_its_sentence() -> None:
    assert set(TARGET_SENTENCES) == set(TargetState)
    for state in TargetState:
        told = tell_target(replace(RECORD, target_state=state, undo_point=OplogTimestamp(1, 1)))
        assert told.startswith(TARGET_SENTENCES[state])
        is_half_done = state not in (TargetState.UNTOUCHED, TargetState.RESTORED)
        assert is_half_done == ("is safe" in told)
        assert is_half_done == (f"ebbtide restores undo {RECORD.id}" in told)


INSERT = {"op": "i", "ns": "shop.orders", "txnNumber": 3}


@pytest.mark.parametrize(
    ("entry", "written", "namespace"),
    [
        (INSERT, (), "shop.orders"),
        (INSERT, ("shop.orders",), "shop.orders"),
        (INSERT, ("shop.customers",), None),
        ({"op": "i", "ns": "shop.orders"}, (), None),  # a loader's: never retried by the driver
        (INSERT | {"ns": "shop.system.buckets.t"}, ("shop.t",), "shop.t"),
        (INSERT | {"op": "d"}, (), "shop.orders"),
        (INSERT | {"op": "n"}, (), None),
        (INSERT | {"ns": "config.transactions"}, (), None),
        (INSERT | {"ns": "admin.system.users"}, (), None),
    ],
)
def test_the_oplog_tells_who_else_wrote(
    entry: dict[str, Any], written: tuple[str, ...], namespace: str | None
) -> None:
    assert namespace == is_foreign_write(entry, written=written)


def test_what_is_written_is_what_is_named_or_renamed() -> None:
    assert RestoreScope().written == ()
    assert RestoreScope(namespaces=("a.b", "c.d")).written == ("a.b", "c.d")
    assert RestoreScope(namespaces=("a.b",), rename_to="a.c").written == ("a.c",)
