"""Judging a registration: facts in, checks out, each with the fix that can be pasted."""

from dataclasses import replace
from typing import Any

import pytest

from ebbtide.backup.registration_checks import (
    HEAD_EXTRA_BYTES,
    Check,
    Facts,
    RegistrationRequest,
    check_request,
    head_disk_bytes,
    judge,
)
from ebbtide.domain.replica_set import CLUSTER_ACTIONS, MEMBERS_MAX, ClusterAuthMode, TlsMode
from ebbtide.errors import InvalidInput

REQUEST = RegistrationRequest(name="shop", uri="mongodb://db1:27017", username="ebbtide", password="p4ss")
CONFIGURATION = {"_id": "rs0", "members": [{"_id": n, "host": f"db{n}:27017"} for n in range(3)]}
PRIVILEGES = (
    {"resource": {"cluster": True}, "actions": [action for action, _ in CLUSTER_ACTIONS]},
    {"resource": {"db": "", "collection": ""}, "actions": ["find"]},
    {"resource": {"db": "local", "collection": "oplog.rs"}, "actions": ["find"]},
)
GOOD = Facts(
    hello={"setName": "rs0", "isWritablePrimary": True},
    mongod_version="6.0.5",
    fcv="6.0",
    our_version="6.0.13",
    privileges=PRIVILEGES,
    configuration=CONFIGURATION,
    data_bytes=10 * 1024**3,
    oplog_bytes=1024**3,
    free_bytes=100 * 1024**3,
)
CREATE_USER = (
    'db.getSiblingDB("admin").createUser({user: "ebbtide", pwd: passwordPrompt(), roles: '
    '["backup", "clusterMonitor", "clusterManager", "hostManager", "readAnyDatabase"]})'
)


def checks_of(facts: Facts, *, request: RegistrationRequest = REQUEST, **changes: Any) -> tuple[Check, ...]:
    values: dict[str, Any] = {
        "head_host": "backup1",
        "head_port": 27200,
        "name_taken": False,
        "registered_as": None,
    }
    return judge(facts, request=request, **(values | changes))


def failed(facts: Facts, **changes: Any) -> list[Check]:
    return [check for check in checks_of(facts, **changes) if not check.ok]


def only_failed(facts: Facts, **changes: Any) -> Check:
    (check,) = failed(facts, **changes)
    return check


def test_a_good_set_passes_every_check() -> None:
    checks = checks_of(GOOD)
    assert [check.name for check in checks if not check.ok] == []
    assert {"name", "reachable", "replica set", "version", "roles", "members", "disk"} <= {
        check.name for check in checks
    }


def test_a_set_without_logins_passes_too() -> None:
    request = replace(REQUEST, username=None, password=None)
    assert failed(replace(GOOD, privileges=None), request=request) == []


@pytest.mark.parametrize(
    ("hello", "what", "fix"),
    [
        ({}, "not a member of a replica set", "--replSet rs0"),
        ({}, "not a member of a replica set", "rs.initiate()"),
        ({"msg": "isdbgrid"}, "router of a sharded cluster", "name the cluster's config server"),
    ],
)
def test_what_is_no_replica_set_is_told_what_to_do_and_nothing_else(
    hello: dict[str, Any], what: str, fix: str
) -> None:
    checks = checks_of(Facts(hello=hello))
    assert [check.name for check in checks] == ["name", "reachable", "replica set"]
    assert what in checks[-1].what
    assert fix in checks[-1].fix
    assert not checks[-1].ok


def test_a_deployment_that_does_not_answer_ends_the_questions() -> None:
    check = only_failed(Facts(unreachable="db1:27017 does not answer"))
    assert (check.name, check.what) == ("reachable", "db1:27017 does not answer")
    assert check.fix


def test_a_refused_login_shows_the_line_that_creates_the_user() -> None:
    check = only_failed(replace(GOOD, login_error="authentication failed"))
    assert check.name == "login"
    assert CREATE_USER in check.fix


@pytest.mark.parametrize(
    ("wanted", "ours", "ok"),
    [
        ("6.0.5", "6.0.13", True),
        ("6.0.5", "7.0.5", False),
        ("4.4.2", "4.2.2", False),
        ("6.0.5", "5.0.5", False),
    ],
)
def test_the_heads_mongod_must_be_of_the_sets_version(wanted: str, ours: str, ok: bool) -> None:
    facts = replace(GOOD, mongod_version=wanted, our_version=ours)
    if ok:
        assert failed(facts) == []
    else:
        check = only_failed(facts)
        assert check.name == "version"
        assert wanted in check.what
        assert ours in check.what
        assert "EBBTIDE_MONGOD" in check.fix
        assert wanted.rpartition(".")[0] in check.fix


def test_a_missing_mongod_is_told_as_it_is() -> None:
    check = only_failed(replace(GOOD, our_version="", our_version_error="there is no mongod"))
    assert (check.name, check.what) == ("version", "there is no mongod")


def test_missing_roles_come_with_the_exact_lines() -> None:
    request = replace(REQUEST, username="joe", auth_source="ops")
    check = only_failed(replace(GOOD, privileges=PRIVILEGES[1:]), request=request)
    assert (check.name, check.what) == (
        "roles",
        "joe lacks the roles clusterMonitor, clusterManager, hostManager",
    )
    assert (
        'db.getSiblingDB("ops").grantRolesToUser("joe", [{role: "clusterMonitor", db: "admin"}, '
        '{role: "clusterManager", db: "admin"}, {role: "hostManager", db: "admin"}])'
    ) in check.fix
    assert CREATE_USER in check.fix


@pytest.mark.parametrize(
    ("changes", "name", "what", "fix"),
    [
        ({"uses_keyfile": True}, "keyfile", "authenticate with a keyfile", "--keyfile"),
        ({"uses_keyfile": True, "keyfile_error": ""}, "keyfile", "authenticate with a keyfile", "--keyfile"),
        (
            {"tls_mode": TlsMode.REQUIRE},
            "TLS",
            "use TLS among each other (requireTLS)",
            "names backup1 in its",
        ),
        ({"tls_mode": TlsMode.PREFER}, "TLS", "use TLS among each other (preferTLS)", "--tls-certificate"),
        (
            {"tls_mode": TlsMode.ALLOW, "cluster_auth_mode": ClusterAuthMode.SEND_KEYFILE},
            "TLS",
            "use TLS",
            "O, OU and DC",
        ),
        ({"storage_engine": "inMemory"}, "storage engine", "inMemory", "WiredTiger"),
        ({"unhealthy": ("db1:27017", "db2:27017")}, "members up", "db1:27017, db2:27017", "bring them back"),
        ({"free_bytes": 11 * 1024**3}, "disk", "11.5 GiB of disk, and 11.0 GiB are free", "--data"),
        ({"errors": ("not authorized to ask",)}, "asked", "not authorized to ask", ""),
    ],
)
def test_each_fact_that_is_wrong_fails_its_own_check(
    changes: dict[str, Any], name: str, what: str, fix: str
) -> None:
    check = only_failed(replace(GOOD, **changes))
    assert name == check.name
    assert what in check.what
    assert fix in check.fix


@pytest.mark.parametrize(
    ("uses_keyfile", "error", "ok"),
    [
        (True, "", True),
        (True, "the set does not accept this keyfile", False),
        (False, "no keyfile used", False),
    ],
)
def test_a_given_keyfile_is_judged_by_what_the_set_said(uses_keyfile: bool, error: str, ok: bool) -> None:
    facts = replace(GOOD, uses_keyfile=uses_keyfile, keyfile_error=error)
    (check,) = [
        c for c in checks_of(facts, request=replace(REQUEST, keyfile="abcdef")) if c.name == "keyfile"
    ]
    assert ok is check.ok
    if not ok:
        assert error == check.what


@pytest.mark.parametrize(("count", "ok"), [(1, True), (MEMBERS_MAX - 1, True), (MEMBERS_MAX, False)])
def test_a_full_set_takes_no_head(count: int, ok: bool) -> None:
    members = [{"_id": n, "host": f"db{n}:27017"} for n in range(count)]
    found = failed(replace(GOOD, configuration={"_id": "rs0", "members": members}))
    assert ([] if ok else ["members"]) == [check.name for check in found]


@pytest.mark.parametrize(
    ("members", "head_host", "ok"),
    [("db{}", "backup1", True), ("db{}", "127.0.0.1", False), ("localhost", "backup1", False), ("localhost", "::1", True)],
)  # fmt: skip
def test_localhost_and_real_names_do_not_mix(members: str, head_host: str, ok: bool) -> None:
    named = [{"_id": n, "host": f"{members.format(n)}:2701{n}"} for n in range(3)]
    found = failed(replace(GOOD, configuration={"_id": "rs0", "members": named}), head_host=head_host)
    assert ([] if ok else ["head's address"]) == [check.name for check in found]
    assert ok or "--head-host" in found[0].fix


def test_a_taken_name_and_a_set_that_is_registered_already_are_said() -> None:
    found = failed(GOOD, name_taken=True, registered_as="shop-old")
    assert [check.name for check in found] == ["name", "registered"]
    assert "shop-old" in found[1].what


def test_an_address_that_cannot_be_listened_at_is_said() -> None:
    check = only_failed(GOOD, address_problem=("port 27200 is taken", "choose another"))
    assert (check.what, check.fix) == ("port 27200 is taken", "choose another")


def test_all_problems_are_told_together() -> None:
    facts = replace(GOOD, our_version="7.0.1", privileges=(), uses_keyfile=True, free_bytes=0)
    assert {"version", "roles", "keyfile", "disk"} == {check.name for check in failed(facts)}


def test_no_check_shows_the_password() -> None:
    facts = replace(GOOD, privileges=(), login_error="")
    assert "p4ss" not in repr((checks_of(facts), REQUEST))


def test_a_head_needs_a_copy_the_oplog_and_some_room() -> None:
    assert head_disk_bytes(GOOD) == 11 * 1024**3 + HEAD_EXTRA_BYTES


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        replace(REQUEST, username=None, password=None),
        replace(REQUEST, name="a" * 64),
        replace(REQUEST, keyfile="ab cd\nef==\n"),
        replace(REQUEST, head_port=65535),
    ],
)
def test_well_formed_requests_pass(request_: RegistrationRequest) -> None:
    check_request(request_)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "-shop"}, "name"),
        ({"name": "shop 1"}, "name"),
        ({"name": "shop\n"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"uri": "http://db1"}, "uri"),
        ({"uri": "mongodb://u:p@db1"}, "uri"),
        ({"password": None}, "password"),
        ({"username": None}, "username"),
        ({"head_port": 0}, "headPort"),
        ({"head_port": 65536}, "headPort"),
        ({"keyfile": ""}, "keyfile"),
        ({"keyfile": "short"}, "keyfile"),
        ({"keyfile": "not base64!"}, "keyfile"),
        ({"keyfile": "a" * 1025}, "keyfile"),
    ],
)
def test_malformed_requests_name_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_request(replace(REQUEST, **changes))
    assert field == caught.value.field
