"""The rules of `ebbtide doctor`, as tables."""

from dataclasses import replace
from typing import Any

import pytest

from ebbtide.doctor.checks import (
    FREE_BYTES_MIN,
    GIB,
    ClusterFacts,
    DiskFacts,
    Finding,
    MachineFacts,
    MemberFacts,
    Verdict,
    judge_cluster,
    judge_machine,
)
from ebbtide.doctor.cluster import find_head_problem
from ebbtide.domain.cluster import HeadState
from ebbtide.domain.replica_set import CLUSTER_ACTIONS

OK, WARNING, FAILED = Verdict.OK, Verdict.WARNING, Verdict.FAILED

DISK = DiskFacts(free_bytes=100 * GIB, total_bytes=200 * GIB, device=1)
MACHINE = MachineFacts(
    data_directory="/var/lib/ebbtide",
    data_mode=0o700,
    data_disk=DISK,
    repository="/mnt/backups",
    repository_disk=replace(DISK, device=2),
    key_file="/var/lib/ebbtide/secret.key",
    mongod_version="6.0.5",
    is_serving=True,
    api="http://127.0.0.1:27080",
)
PRIVILEGES = (
    {"resource": {"cluster": True}, "actions": [action for action, _ in CLUSTER_ACTIONS]},
    {"resource": {"db": "", "collection": ""}, "actions": ["find"]},
    {"resource": {"db": "local", "collection": ""}, "actions": ["find"]},
)
MEMBER = MemberFacts(host="db1:27017", version="6.0.9", skew_seconds=0.1, head_problem=None)
CLUSTER = ClusterFacts(
    name="shop",
    username="ebbtide",
    privileges=PRIVILEGES,
    members=(MEMBER,),
    head_state=HeadState.FOLLOWING,
    head_address="backup1:27100",
    our_version="6.0.5",
)


def not_ok(findings: list[Finding]) -> list[tuple[str, Verdict]]:
    return [(finding.name, finding.verdict) for finding in findings if finding.verdict is not OK]


def test_a_good_machine_and_a_good_cluster_have_nothing_to_fix() -> None:
    findings = judge_machine(MACHINE) + judge_cluster(CLUSTER)
    assert not_ok(findings) == []
    assert {finding.fix for finding in findings} == {""}
    assert {"machine", "shop"} == {finding.subject for finding in findings}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"data_problem": "there is no directory"}, ("data directory", FAILED)),
        ({"data_mode": 0o750}, ("data directory", FAILED)),
        ({"data_disk": replace(DISK, free_bytes=FREE_BYTES_MIN - 1)}, ("disk", FAILED)),
        ({"data_disk": replace(DISK, free_bytes=9 * GIB)}, ("disk", WARNING)),
        ({"data_disk": replace(DISK, total_bytes=3000 * GIB)}, ("disk", WARNING)),
        ({"repository_disk": replace(DISK, device=2, free_bytes=0)}, ("repository's disk", FAILED)),
        ({"repository_disk": DISK}, ("repository's place", WARNING)),
        ({"repository_problem": "cannot be used: Read-only file system"}, ("repository", FAILED)),
        ({"key_problem": "others may read it", "key_fix": "chmod 600 k"}, ("service key", FAILED)),
        ({"mongod_problem": "there is no mongod", "mongod_fix": "install it"}, ("mongod", FAILED)),
        ({"catalog_problem": "does not answer"}, ("catalog", FAILED)),
        ({"catalog_problem": "does not answer", "is_serving": False}, ("catalog", FAILED)),
        ({"api_problem": "401", "api_fix": "another key"}, ("profile and API", FAILED)),
        ({"api": "", "api_problem": "no profile", "api_fix": "write one"}, ("profile and API", WARNING)),
    ],
)
def test_each_fault_of_the_machine_is_found_alone_with_its_fix(
    changes: dict[str, Any], found: tuple[str, Verdict]
) -> None:
    findings = judge_machine(replace(MACHINE, **changes))
    assert not_ok(findings) == [found]
    assert all(finding.fix for finding in findings if finding.verdict is not OK)


def test_a_catalog_that_is_down_is_told_apart_by_whether_serve_runs() -> None:
    down = replace(MACHINE, catalog_problem="does not answer")
    fixes = [
        next(f.fix for f in judge_machine(replace(down, is_serving=serving)) if f.name == "catalog")
        for serving in (True, False)
    ]
    assert "log" in fixes[0]
    assert "start" in fixes[1]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"problem": "does not answer"}, [("member db1:27017", FAILED)]),
        ({"problem": "does not answer", "is_voting": False}, [("member db1:27017", WARNING)]),
        ({"version": "7.0.2"}, [("member db1:27017", FAILED)]),
        ({"skew_seconds": 1.9}, []),
        ({"skew_seconds": 2.1}, [("clock of db1:27017", WARNING)]),
        ({"skew_seconds": -61.0}, [("clock of db1:27017", FAILED)]),
        ({"skew_seconds": 3.0, "uncertainty_seconds": 1.5}, []),
        ({"skew_seconds": None}, []),
        ({"head_problem": "does not list it"}, [("db1:27017 to head", FAILED)]),
        ({"head_problem": "does not list it", "is_voting": False}, [("db1:27017 to head", WARNING)]),
        ({"head_problem": ""}, []),
    ],
)
def test_each_fault_of_a_member(changes: dict[str, Any], found: list[tuple[str, Verdict]]) -> None:
    findings = judge_cluster(replace(CLUSTER, members=(replace(MEMBER, **changes),)))
    assert not_ok(findings) == found
    assert all(finding.fix for finding in findings if finding.verdict is not OK)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"set_problem": "no primary"}, [("reachable", FAILED)]),
        ({"privileges": PRIVILEGES[1:]}, [("roles", FAILED)]),
        ({"privileges": None}, []),
        ({"head_state": None}, [("head", WARNING)]),
        ({"head_state": HeadState.SYNCING}, [("head", WARNING)]),
        ({"head_state": HeadState.DOWN, "head_message": "it died"}, [("head", FAILED)]),
        ({"head_state": HeadState.FAILED}, [("head", FAILED)]),
    ],
)
def test_each_fault_of_a_cluster(changes: dict[str, Any], found: list[tuple[str, Verdict]]) -> None:
    findings = judge_cluster(replace(CLUSTER, **changes))
    assert not_ok(findings) == found
    assert all(finding.fix for finding in findings if finding.verdict is not OK)


def test_credentials_that_cannot_be_opened_end_the_questions() -> None:
    (finding,) = judge_cluster(replace(CLUSTER, key_problem="sealed with another key"))
    assert (finding.name, finding.verdict) == ("credentials", FAILED)


def test_the_fix_for_a_role_can_be_pasted() -> None:
    facts = replace(CLUSTER, privileges=PRIVILEGES[1:], auth_source="users")
    fix = next(finding.fix for finding in judge_cluster(facts) if finding.name == "roles")
    assert fix.startswith('db.getSiblingDB("users").grantRolesToUser("ebbtide", [{role: "clusterMonitor"')


def test_a_skew_says_which_way() -> None:
    def told(skew: float) -> str:
        findings = judge_cluster(replace(CLUSTER, members=(replace(MEMBER, skew_seconds=skew),)))
        return next(finding.what for finding in findings if finding.name.startswith("clock"))

    assert told(5.0) == "is 5 s ahead of this machine's"
    assert told(-5.0) == "is 5 s behind this machine's"


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([], "does not list head:1"),
        ([{"name": "head:1", "health": 1}], None),
        ([{"name": "head:1", "health": 0}], "does not reach head:1 (no heartbeat was answered)"),
        (
            [{"name": "head:1", "health": 0, "lastHeartbeatMessage": "refused"}],
            "does not reach head:1 (refused)",
        ),
    ],
)
def test_whether_a_member_reaches_the_head_is_what_it_says_itself(
    members: list[dict[str, Any]], problem: str | None
) -> None:
    assert problem == find_head_problem({"members": members}, "head:1")
