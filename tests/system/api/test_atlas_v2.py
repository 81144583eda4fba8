"""Atlas' second version: another prefix and a dated media type, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest

from ebbtide.api.families import Family
from ebbtide.api.table import OPERATIONS
from ebbtide.domain.ids import new_id

TYPE = "application/vnd.atlas.2023-01-01+json"


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Any]) -> Any:
    return start_service()


def v2(service: Any) -> str:
    return str(service.base.replace("/v1.0/", "/v2/"))


def test_every_operation_of_the_first_version_is_in_the_second() -> None:
    def paths(family: Family) -> set[tuple[str, str]]:
        return {(o.method, o.path.removeprefix(family.value)) for o in OPERATIONS if o.family is family}

    assert paths(Family.ATLAS) == paths(Family.ATLAS_V2)
    assert paths(Family.ATLAS)


def test_answers_and_bodies_have_its_media_type(service: Any) -> None:
    body = {"delivery": {"methodName": "HTTP"}, "snapshotId": service.new_snapshot().id}
    headers = {"Content-Type": TYPE, "Accept": TYPE}
    made = service.call("POST", f"{v2(service)}/restoreJobs", json=body, headers=headers)
    assert (made.status_code, made.headers["Content-Type"]) == (200, TYPE)
    (job,) = made.json()["results"]
    assert job["links"][0]["href"] == f"{v2(service)}/restoreJobs/{job['id']}"
    assert service.call("GET", job["links"][0]["href"]).status_code == 200
    first = service.call("GET", f"{service.base}/restoreJobs/{job['id']}")
    assert first.headers["Content-Type"] == "application/json"
    assert {**first.json(), "links": []} == {**job, "links": []}


def test_refusals_are_plain_json_and_name_every_bad_field(service: Any) -> None:
    answer = service.call("POST", f"{v2(service)}/restoreJobs", json={"a": 1}, headers={"Content-Type": TYPE})
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/json")
    assert [f["field"] for f in answer.json()["badRequestDetail"]["fields"]] == ["delivery", "a"]
    unknown = service.call("GET", f"{v2(service)}/snapshots/{new_id()}", headers={"Accept": TYPE})
    assert (unknown.status_code, unknown.headers["Content-Type"]) == (404, "application/json")


@pytest.mark.parametrize(
    ("prefix", "media_type", "status"),
    [
        ("v2", "application/json", 400),
        ("v2", "application/vnd.atlas.2025-03-12+json; charset=utf-8", 400),
        ("v2", "application/vnd.atlas.x+json", 415),
        ("v1.0", TYPE, 415),
    ],
)
def test_a_body_of_another_type_is_refused(service: Any, prefix: str, media_type: str, status: int) -> None:
    path = service.base.replace("/v1.0/", f"/{prefix}/")
    answer = service.call(
        "PATCH", f"{path}/snapshotSchedule", data="[]", headers={"Content-Type": media_type}
    )
    assert status == answer.status_code


def test_deleting_answers_204_without_a_body(service: Any) -> None:
    answer = service.call("DELETE", f"{v2(service)}/snapshots/{service.new_snapshot().id}")
    assert (answer.status_code, answer.content) == (204, b"")


def test_what_a_client_of_this_version_adds_to_every_list_is_taken(service: Any) -> None:
    query = "includeCount=true&itemsPerPage=100&pageNum=1&completed=true"
    for path in ("snapshots", "restoreJobs", "backupCheckpoints"):
        answer = service.call("GET", f"{v2(service)}/{path}?{query}", headers={"Accept": TYPE})
        assert (answer.status_code, "totalCount" in answer.json()) == (200, True)
