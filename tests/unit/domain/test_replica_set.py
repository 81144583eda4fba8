"""How a set's configuration is changed, and what an account lacks."""

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.replica_set import (
    CLUSTER_ACTIONS,
    MEMBER_ID_MAX,
    ROLES_NEEDED,
    find_in_status,
    find_member,
    free_member_id,
    hosts_without_our_user,
    initial_sync_preference,
    is_localhost,
    join_host_port,
    major_version,
    member_lag_seconds,
    missing_roles,
    mixes_localhost,
    plan_add_head,
    plan_remove_head,
    split_host_port,
    unhealthy_members,
    voting_hosts,
)

HEAD: dict[str, Any] = {
    "_id": 3, "host": "backup1:27200", "priority": 0, "votes": 0, "hidden": True,
}  # fmt: skip


def configuration(*members: dict[str, Any], version: int = 7) -> dict[str, Any]:
    return {"_id": "rs0", "version": version, "term": 4, "settings": {"x": 1}, "members": list(members)}


def member(number: int, host: str | None = None, **more: Any) -> dict[str, Any]:
    return {"_id": number, "host": host or f"db{number}:27017", **more}


THREE = configuration(member(0), member(1, votes=1), member(2))


def test_the_head_is_added_hidden_without_vote_or_priority() -> None:
    before = copy.deepcopy(THREE)
    planned = plan_add_head(THREE, host="backup1", port=27200)
    assert planned == {**THREE, "version": 8, "members": [*THREE["members"], HEAD]}
    assert before == THREE


def test_adding_twice_changes_nothing() -> None:
    planned = plan_add_head(THREE, host="backup1", port=27200)
    assert planned is not None
    assert plan_add_head(planned, host="backup1", port=27200) is None


def test_removing_takes_away_the_head_alone() -> None:
    with_head = plan_add_head(THREE, host="backup1", port=27200)
    assert with_head is not None
    planned = plan_remove_head(with_head, host="backup1", port=27200)
    assert planned == {**THREE, "version": 9}
    assert plan_remove_head(THREE, host="backup1", port=27200) is None


@pytest.mark.parametrize("votes", [{}, {"votes": 1}, {"votes": 1, "hidden": True, "priority": 0}])
def test_a_member_that_votes_is_never_removed(votes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="votes"):
        plan_remove_head(configuration(member(0), member(1, **votes)), host="db1", port=27017)


members_drawn = st.lists(
    st.tuples(st.integers(0, MEMBER_ID_MAX), st.integers(0, 1), st.integers(1, 65535)),
    min_size=1,
    max_size=50,
    unique_by=(lambda m: m[0], lambda m: m[2]),
)


@given(members=members_drawn, port=st.integers(1, 65535))
def test_plans_keep_every_other_member_and_use_a_free_id(
    members: list[tuple[int, int, int]], port: int
) -> None:
    before = configuration(*(member(i, f"db:{p}", votes=v) for i, v, p in members))
    planned = plan_add_head(before, host="db", port=port)
    if planned is None:
        assert port in {p for _, _, p in members}
        return
    assert before["members"] == planned["members"][:-1]
    assert planned["version"] == before["version"] + 1
    ids = [m["_id"] for m in planned["members"]]
    assert len(ids) == len(set(ids))
    assert all(0 <= number <= MEMBER_ID_MAX for number in ids)
    assert voting_hosts(before) == voting_hosts(planned)
    removed = plan_remove_head(planned, host="db", port=port)
    assert removed is not None
    assert before["members"] == removed["members"]


@pytest.mark.parametrize(
    ("used", "expected"), [([0], 1), ([0, 1, 2], 3), ([5], 6), ([0, 255], 1), ([255], 0), ([0, 1, 3, 255], 2)]
)
def test_ids_are_used_again_only_when_the_highest_is_taken(used: list[int], expected: int) -> None:
    assert expected == free_member_id(configuration(*(member(number) for number in used)))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("db1:27018", "db1", 27018),
        ("db1", "db1", 27017),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:27018", "::1", 27018),
        ("[::1]", "::1", 27017),
    ],
)
def test_addresses_are_split_and_joined(text: str, host: str, port: int) -> None:
    assert (host, port) == split_host_port(text)
    assert (host, port) == split_host_port(join_host_port(host, port))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.5.5.5", True),
        ("::1", True),
        ("db1", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_what_counts_as_localhost(host: str, expected: bool) -> None:
    assert expected is is_localhost(host)


@pytest.mark.parametrize(
    ("members", "head", "expected"),
    [
        (["db1:1", "db2:1"], "backup1", False),
        (["db1:1", "db2:1"], "localhost", True),
        (["localhost:1", "127.0.0.1:2"], "backup1", True),
        (["localhost:1", "127.0.0.1:2"], "::1", False),
        (["10.0.0.1:1"], "127.0.0.1", True),
    ],
)
def test_localhost_and_real_names_do_not_mix(members: list[str], head: str, expected: bool) -> None:
    found = configuration(*(member(number, host) for number, host in enumerate(members)))
    assert expected is mixes_localhost(found, head)


def test_members_are_found_by_their_address() -> None:
    assert THREE["members"][1] == find_member(THREE, "db1", 27017)
    assert find_member(THREE, "db1", 27018) is None
    ipv6 = configuration(member(0, "[::1]:27017"))
    assert ipv6["members"][0] == find_member(ipv6, "::1", 27017)


def test_members_vote_unless_they_say_otherwise() -> None:
    found = configuration(member(0), member(1, votes=0), member(2, votes=1))
    assert voting_hosts(found) == ["db0:27017", "db2:27017"]


@pytest.mark.parametrize(
    ("own", "primary", "expected"),
    [
        (0, 12, 12.0),
        (5, 5, 0.0),
        (9, 5, 0.0),  # what is known of the primary is up to two seconds old
        (0, None, None),
        (None, 12, None),
    ],
)
def test_a_member_lags_behind_the_primary_that_it_knows(
    own: int | None, primary: int | None, expected: float | None
) -> None:
    seconds = {("own:1", "SECONDARY"): own, ("first:1", "PRIMARY"): primary}
    members = [
        {"name": name, "stateStr": state, "optimeDate": datetime(2026, 5, 1, 0, 0, second, tzinfo=UTC)}
        for (name, state), second in seconds.items()
        if second is not None
    ]
    assert expected == member_lag_seconds({"members": members}, "own:1")


def test_a_status_tells_who_cannot_be_reached() -> None:
    status = {"members": [{"name": "a:1"}, {"name": "b:1", "health": 0.0}, {"name": "c:1", "health": 1.0}]}
    assert unhealthy_members(status) == ["b:1"]
    assert find_in_status(status, "c:1") == {"name": "c:1", "health": 1.0}
    assert find_in_status(status, "d:1") is None


@pytest.mark.parametrize(("version", "expected"), [("6.0.5", "6.0"), ("4.4.29-rc1", "4.4"), ("7.0", "7.0")])
def test_the_first_two_numbers_must_be_equal(version: str, expected: str) -> None:
    assert expected == major_version(version)


ANY: dict[str, Any] = {"anyResource": True}
CLUSTER: dict[str, Any] = {"cluster": True}
EVERY_DATABASE = {"db": "", "collection": ""}
OPLOG = {"db": "local", "collection": "oplog.rs"}
ALL_ACTIONS = [action for action, _ in CLUSTER_ACTIONS]


def privilege(resource: dict[str, Any], *actions: str) -> dict[str, Any]:
    return {"resource": resource, "actions": list(actions)}


ENOUGH = [
    privilege(CLUSTER, *ALL_ACTIONS),
    privilege(EVERY_DATABASE, "find"),
    privilege(OPLOG, "find"),
]


@pytest.mark.parametrize(
    ("privileges", "missing"),
    [
        (ENOUGH, []),
        ([privilege(ANY, "anyAction", "find", *ALL_ACTIONS)], []),  # root, __system
        ([], list(ROLES_NEEDED)),
        ([privilege(EVERY_DATABASE, "find")], ["backup", "clusterMonitor", "clusterManager", "hostManager"]),
        (ENOUGH[:2], ["backup"]),
        ([ENOUGH[0], ENOUGH[2]], ["readAnyDatabase"]),
        ([*ENOUGH[:2], privilege({"db": "local", "collection": ""}, "find")], []),
        ([*ENOUGH[:2], privilege({"db": "local", "collection": "me"}, "find")], ["backup"]),
        ([*ENOUGH[:2], privilege({"db": "shop", "collection": ""}, "find")], ["backup"]),
        ([*ENOUGH[1:], privilege({"db": "admin", "collection": ""}, *ALL_ACTIONS)],
         ["clusterMonitor", "clusterManager", "hostManager"]),
        ([*ENOUGH[1:], privilege(CLUSTER, *ALL_ACTIONS[:5]), privilege(CLUSTER, *ALL_ACTIONS[5:])], []),
    ],
)  # fmt: skip
def test_missing_roles_are_named_in_order(privileges: list[dict[str, Any]], missing: list[str]) -> None:
    assert missing == missing_roles(privileges)


@pytest.mark.parametrize(("action", "role"), CLUSTER_ACTIONS)
def test_each_missing_action_names_the_role_that_allows_it(action: str, role: str) -> None:
    privileges = [privilege(CLUSTER, *(a for a in ALL_ACTIONS if a != action)), *ENOUGH[1:]]
    assert [role] == missing_roles(privileges)


@pytest.mark.parametrize(
    ("members", "preference"),
    [
        ([{}], "secondaryPreferred"),
        ([{}, {}, {"arbiterOnly": True}], "secondaryPreferred"),
        ([{}, {}, {"secondaryDelaySecs": 60}], "primaryPreferred"),
        ([{}, {}, {"slaveDelay": 60}], "primaryPreferred"),
        ([{}, {"secondaryDelaySecs": 0}], "secondaryPreferred"),
    ],
)
def test_initial_sync_reads_from_a_secondary_unless_one_is_delayed(
    members: list[dict[str, Any]], preference: str
) -> None:
    assert preference == initial_sync_preference({"members": [{"host": "h:1", **m} for m in members]})


def test_members_that_may_not_know_our_user_are_arbiters_and_delayed_ones() -> None:
    members = [
        {"host": "a:1"},
        {"host": "b:1", "arbiterOnly": True},
        {"host": "c:1", "secondaryDelaySecs": 3600},
        {"host": "d:1", "hidden": True, "secondaryDelaySecs": 0},
    ]
    assert hosts_without_our_user({"members": members}) == {"b:1", "c:1"}
