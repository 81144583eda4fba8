"""Changing snapshots and schedules against the official extract and its published examples."""

from datetime import timedelta
from typing import Any

import conformance_reference as reference
import jsonschema
import pytest

CLUSTER = "/api/atlas/v1.0/groups/{groupId}/clusters/{clusterName}"
SNAPSHOT = f"{CLUSTER}/snapshots/{{snapshotId}}"
SCHEDULE = f"{CLUSTER}/snapshotSchedule"
UNKNOWN_ID = "0123456789abcdef01234567"
"""An id that nothing has: the same in every run, for it names tests."""


def validate(answer: Any, path: str, method: str) -> Any:
    schema = reference.response_schema(path, method, answer.status_code)
    document = answer.json()
    jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker()).validate(document)
    return document


def test_the_published_change_of_an_expiry(service: Any) -> None:
    body = reference.load_json("fixtures/other/change-snapshot-expiry.request.json")
    expected = reference.load_json("fixtures/other/change-snapshot-expiry.response.json")
    answer = service.call("PATCH", f"{service.base}/snapshots/{service.new_snapshot().id}", json=body)
    document = validate(answer, SNAPSHOT, "PATCH")
    assert document["expires"] == expected["expires"]
    assert document["doNotDelete"] == expected["doNotDelete"]
    assert expected.keys() <= document.keys()


def test_a_kept_snapshot_has_no_expiry(service: Any) -> None:
    snapshot = service.new_snapshot(expires=service.clock.now() + timedelta(days=1))
    answer = service.call("PATCH", f"{service.base}/snapshots/{snapshot.id}", json={"doNotDelete": True})
    document = validate(answer, SNAPSHOT, "PATCH")
    assert (document["doNotDelete"], "expires" in document) == (True, False)


def test_deleting_answers_204_without_a_body(service: Any) -> None:
    snapshot = service.new_snapshot()
    answer = service.call("DELETE", f"{service.base}/snapshots/{snapshot.id}?envelope=true&pretty=true")
    assert (answer.status_code, answer.content) == (204, b"")
    again = service.call("DELETE", f"{service.base}/snapshots/{snapshot.id}")
    assert validate(again, SNAPSHOT, "DELETE")["errorCode"] == "SNAPSHOT_NOT_FOUND"


def test_the_published_change_of_a_schedule(service: Any) -> None:
    body = reference.load_json("fixtures/other/patch-snapshot-schedule.request.json")
    expected = reference.load_json("fixtures/other/patch-snapshot-schedule.response.json")
    document = validate(
        service.call("PATCH", f"{service.base}/snapshotSchedule", json=body), SCHEDULE, "PATCH"
    )
    own = {"clusterId": service.cluster.id, "groupId": service.group.id, "links": document["links"]}
    assert document == expected | own
    assert document == validate(service.call("GET", f"{service.base}/snapshotSchedule"), SCHEDULE, "GET")


@pytest.mark.parametrize(
    ("method", "path", "template", "body", "status"),
    [
        ("PATCH", "/snapshots/x", SNAPSHOT, {}, 404),
        ("PATCH", f"/snapshots/{UNKNOWN_ID}", SNAPSHOT, {}, 404),
        ("PATCH", f"/snapshots/{UNKNOWN_ID}", SNAPSHOT, {"id": 1}, 400),
        ("DELETE", f"/snapshots/{UNKNOWN_ID}", SNAPSHOT, None, 404),
        ("PATCH", "/snapshotSchedule", SCHEDULE, {"snapshotIntervalHours": 5}, 400),
        ("PATCH", "/snapshotSchedule", SCHEDULE, [], 400),
    ],
)
def test_error_documents(service: Any, method: str, path: str, template: str, body: Any, status: int) -> None:
    answer = service.call(method, f"{service.base}{path}", **({} if body is None else {"json": body}))
    document = validate(answer, template, method)
    assert (answer.status_code, document["error"]) == (status, status)
