"""Projects, who has which role in them, and the audit log."""

from collections.abc import Callable
from typing import Any

import pytest

from ebbtide.domain.access import Role
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import new_id
from ebbtide.events import record_event


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Any]) -> Any:
    return start_service()


@pytest.fixture
def own(service: Any) -> str:
    return f"{service.url}/api/ebbtide/v1"


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["errorCode"]


def test_a_project_is_made_renamed_and_found_in_every_family(service: Any, own: str) -> None:
    made = service.call("POST", f"{own}/groups", json={"name": " Second "}).json()
    assert (made["name"], made["clusterCount"]) == ("Second", 0)
    path = f"{own}/groups/{made['id']}"
    assert made["links"] == [{"rel": "self", "href": path}]
    renamed = service.call("PATCH", path, json={"name": "Renamed"}).json()
    assert (renamed["id"], renamed["name"], renamed["created"]) == (made["id"], "Renamed", made["created"])
    for base in ("/api/atlas/v1.0", "/api/atlas/v2", "/api/public/v1.0", "/api/ebbtide/v1"):
        found = service.call("GET", f"{base}/groups/{made['id']}").json()
        assert (found["name"], found["links"][0]["href"]) == (
            "Renamed",
            f"{service.url}{base}/groups/{made['id']}",
        )
        listed = service.call("GET", f"{base}/groups").json()
        assert {service.group.id, made["id"]} <= {group["id"] for group in listed["results"]}
    kinds = [e["kind"] for e in service.call("GET", f"{path}/events").json()["results"]]
    assert kinds == ["group.renamed", "group.created"]


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "x" * 65}, {"name": 1}, {"name": "a", "b": 1}])
def test_a_project_needs_a_name_of_bearable_length(service: Any, own: str, body: dict[str, Any]) -> None:
    answer = service.call("POST", f"{own}/groups", json=body)
    assert answer.status_code == 400
    assert answer.json()["badRequestDetail"]["fields"]


def test_only_an_owner_of_everything_makes_projects(service: Any, own: str) -> None:
    owner = service.new_key(Role.GROUP_OWNER, group_id=service.group.id)
    answer = service.call("POST", f"{own}/groups", key=owner, json={"name": "x"})
    assert code(answer) == (401, "USER_UNAUTHORIZED")


def test_roles_are_given_and_taken(service: Any, own: str) -> None:
    group = service.call("POST", f"{own}/groups", json={"name": "Roles"}).json()
    members = f"{own}/groups/{group['id']}/members"
    newcomer = service.new_key(None)
    assert code(service.call("GET", f"{own}/groups/{group['id']}", key=newcomer)) == (401, "NOT_IN_GROUP")
    body = {"roles": ["GROUP_READ_ONLY", "GROUP_READ_ONLY"]}
    member = service.call("PUT", f"{members}/{newcomer[0]}", json=body).json()
    assert (member["roles"], member["globalRoles"], member["typeName"]) == (
        ["GROUP_READ_ONLY"],
        [],
        "API_KEY",
    )
    assert service.call("GET", f"{own}/groups/{group['id']}", key=newcomer).status_code == 200
    assert code(service.call("GET", members, key=newcomer)) == (401, "USER_UNAUTHORIZED")
    service.call("PUT", f"{members}/{newcomer[0]}", json={"roles": ["GROUP_OWNER"]})
    listed = service.call("GET", members, key=newcomer).json()["results"]
    assert [(service.owner[0], []), (newcomer[0], ["GROUP_OWNER"])] == [
        (m["name"], m["roles"]) for m in listed
    ]
    own_role = service.call("PUT", f"{members}/{newcomer[0]}", key=newcomer, json={"roles": []})
    assert code(own_role) == (409, "REFUSED")
    assert service.call("PUT", f"{members}/{newcomer[0]}", json={"roles": []}).json()["roles"] == []
    assert service.call("GET", f"{own}/groups/{group['id']}", key=newcomer).status_code == 401
    assert [service.owner[0]] == [m["name"] for m in service.call("GET", members).json()["results"]]


def test_roles_elsewhere_stay(service: Any, own: str) -> None:
    group = service.call("POST", f"{own}/groups", json={"name": "Elsewhere"}).json()
    both = service.new_key(Role.GROUP_OWNER, group_id=service.group.id)
    service.call(
        "PUT", f"{own}/groups/{group['id']}/members/{both[0]}", json={"roles": ["GROUP_BACKUP_ADMIN"]}
    )
    grants = service.find_key(both[0]).grants
    assert [(Role.GROUP_OWNER, service.group.id), (Role.GROUP_BACKUP_ADMIN, group["id"])] == [
        (grant.role, grant.group_id) for grant in grants
    ]


@pytest.mark.parametrize(
    "body", [{}, {"roles": "GROUP_OWNER"}, {"roles": ["GLOBAL_OWNER"]}, {"roles": [1]}, {"roles": [], "x": 1}]
)
def test_roles_that_cannot_be_given_are_refused(service: Any, own: str, body: dict[str, Any]) -> None:
    path = f"{own}/groups/{service.group.id}/members/{service.owner[0]}"
    assert service.call("PUT", path, json=body).status_code == 400


def test_a_member_that_is_not_there(service: Any, own: str) -> None:
    answer = service.call("PUT", f"{own}/groups/{service.group.id}/members/nobody", json={"roles": []})
    assert code(answer) == (400, "API_KEY_NOT_FOUND")


def test_a_refused_change_is_in_the_audit_log_and_a_refused_look_is_not(service: Any, own: str) -> None:
    reader = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    body = {"delivery": {"methodName": "HTTP"}, "snapshotId": new_id()}
    service.call("POST", f"{service.base}/restoreJobs", json=body)
    service.call("POST", f"{service.base}/restoreJobs", key=reader, json=body)
    service.call("GET", f"{service.base}/restoreJobs/{new_id()}")
    group = service.call("GET", f"{service.own_base}/events?itemsPerPage=1").json()["results"]
    (last,) = group
    assert (last["kind"], last["actor"]) == ("api.refused", f"{service.owner[0]} from 127.0.0.1")
    assert "404 SNAPSHOT_NOT_FOUND" in last["message"]
    everything = service.call("GET", f"{own}/events?itemsPerPage=2").json()["results"]
    assert [f"{reader[0]} from 127.0.0.1", last["actor"]] == [event["actor"] for event in everything]
    assert "401 USER_UNAUTHORIZED" in everything[0]["message"]


def test_the_whole_log_is_for_owners_of_everything(service: Any, own: str) -> None:
    record_event(
        service.catalog, service.clock, level=EventLevel.INFO, kind="key.created", message="a key was made"
    )
    (newest,) = service.call("GET", f"{own}/events?itemsPerPage=1").json()["results"]
    assert (newest["kind"], "groupId" in newest) == ("key.created", False)
    owner = service.new_key(Role.GROUP_OWNER, group_id=service.group.id)
    assert code(service.call("GET", f"{own}/events", key=owner)) == (401, "USER_UNAUTHORIZED")
