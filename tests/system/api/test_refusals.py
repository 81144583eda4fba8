"""Bad input over the wire: each gets the contract's refusal, and nothing is created."""

import json
from typing import Any

import pytest
import requests

from ebbtide.domain.access import Role
from ebbtide.domain.ids import new_id
from ebbtide.domain.snapshot import SnapshotState

HTTP = {"methodName": "HTTP"}


def delivered(**fields: Any) -> dict[str, Any]:
    return {"delivery": {**HTTP, **fields}}


def automated(**fields: Any) -> dict[str, Any]:
    return {"delivery": {"methodName": "AUTOMATED_RESTORE", **fields}}


ID = "5a681ff180eef54e09de20d1"

BAD_BODIES: list[tuple[str, Any, int, str, list[str]]] = [
    ("no delivery", {"snapshotId": ID}, 400, "MISSING_ATTRIBUTE", ["delivery"]),
    ("null delivery", {"delivery": None, "snapshotId": ID}, 400, "MISSING_ATTRIBUTE", ["delivery"]),
    ("delivery a list", {"delivery": [], "snapshotId": ID}, 400, "INVALID_JSON_ATTRIBUTE", ["delivery"]),
    ("no method", {"delivery": {}, "snapshotId": ID}, 400, "MISSING_ATTRIBUTE", ["delivery.methodName"]),
    (
        "unknown method",
        {"delivery": {"methodName": "PIGEON"}, "snapshotId": ID},
        400,
        "INVALID_ENUM_VALUE",
        ["delivery.methodName"],
    ),
    (
        "method not offered",
        {"delivery": {"methodName": "QUERY"}, "snapshotId": ID},
        400,
        "UNSUPPORTED_DELIVERY_METHOD",
        ["delivery.methodName"],
    ),
    ("no restore point", delivered(), 400, "MISSING_ATTRIBUTE", ["snapshotId"]),
    (
        "two restore points",
        {**delivered(), "snapshotId": ID, "pointInTimeUTCMillis": 1536610288000},
        400,
        "INVALID_ATTRIBUTE",
        ["pointInTimeUTCMillis"],
    ),
    (
        "another point",
        {**delivered(), "oplogTs": "1", "oplogInc": 1},
        400,
        "INVALID_ATTRIBUTE",
        ["oplogTs", "oplogInc"],
    ),
    ("malformed id", {**delivered(), "snapshotId": "x"}, 400, "INVALID_ATTRIBUTE", ["snapshotId"]),
    ("id a number", {**delivered(), "snapshotId": 7}, 400, "INVALID_JSON_ATTRIBUTE", ["snapshotId"]),
    (
        "no downloads",
        {**delivered(maxDownloads=0), "snapshotId": ID},
        400,
        "ATTRIBUTE_NEGATIVE_OR_ZERO",
        ["delivery.maxDownloads"],
    ),
    (
        "hours as text",
        {**delivered(expirationHours="5"), "snapshotId": ID},
        400,
        "INVALID_JSON_ATTRIBUTE",
        ["delivery.expirationHours"],
    ),
    (
        "hours as truth",
        {**delivered(expirationHours=True), "snapshotId": ID},
        400,
        "INVALID_JSON_ATTRIBUTE",
        ["delivery.expirationHours"],
    ),
    (
        "hours beyond the calendar",
        {**delivered(expirationHours=2147483647), "snapshotId": ID},
        400,
        "INVALID_ATTRIBUTE",
        ["delivery.expirationHours"],
    ),
    (
        "read-only expires",
        {**delivered(expires="2030-01-01"), "snapshotId": ID},
        400,
        "ATTRIBUTE_READ_ONLY",
        ["delivery.expires"],
    ),
    (
        "read-only status",
        {**delivered(), "snapshotId": ID, "statusName": "X"},
        400,
        "ATTRIBUTE_READ_ONLY",
        ["statusName"],
    ),
    (
        "a target",
        {**delivered(targetGroupId=ID), "snapshotId": ID},
        400,
        "INVALID_ATTRIBUTE",
        ["delivery.targetGroupId"],
    ),
    (
        "several unknown",
        {**delivered(speed=1), "snapshotId": ID, "colour": 2},
        400,
        "INVALID_ATTRIBUTE",
        ["delivery.speed", "colour"],
    ),
    ("unknown snapshot", {**delivered(), "snapshotId": ID}, 404, "SNAPSHOT_NOT_FOUND", []),
    (
        "automated, no target",
        {**automated(), "snapshotId": ID},
        400,
        "MISSING_ATTRIBUTE",
        ["delivery.targetGroupId", "delivery.targetClusterId, delivery.targetClusterName"],
    ),
    (
        "automated, no point",
        automated(targetGroupId=ID, targetClusterName="t"),
        400,
        "MISSING_ONE_OF_ATTRIBUTES",
        ["snapshotId, checkpointId, oplogTs, oplogInc, pointInTimeUTCMillis"],
    ),
    (
        "automated, half an oplog pair",
        {**automated(targetGroupId=ID, targetClusterName="t"), "oplogTs": "1536610288"},
        400,
        "MISSING_ATTRIBUTE",
        ["oplogInc"],
    ),
    (
        "automated, a checkpoint of a replica set",
        {**automated(targetGroupId=ID, targetClusterName="t"), "checkpointId": ID},
        400,
        "INVALID_ATTRIBUTE",
        ["checkpointId"],
    ),
    (
        "automated, expires",
        {**automated(targetGroupId=ID, targetClusterName="t", maxDownloads=3), "snapshotId": ID},
        400,
        "INVALID_ATTRIBUTE",
        ["delivery.maxDownloads"],
    ),
]


@pytest.mark.parametrize(
    ("body", "status", "code", "fields"),
    [row[1:] for row in BAD_BODIES],
    ids=[row[0] for row in BAD_BODIES],
)
def test_bad_bodies_are_refused_with_every_field_named(
    service: Any, body: Any, status: int, code: str, fields: list[str]
) -> None:
    answer = service.call("POST", f"{service.base}/restoreJobs", json=body)
    document = answer.json()
    assert (status, status, code) == (answer.status_code, document["error"], document["errorCode"])
    named = [row["field"] for row in document.get("badRequestDetail", {}).get("fields", [])]
    assert fields == named
    assert service.catalog.restore_jobs.count(service.cluster.id) == 0


def test_a_well_formed_automated_restore_needs_its_targets_consent(service: Any) -> None:
    snapshot = service.new_snapshot()
    target = {"targetGroupId": service.group.id, "targetClusterName": "Cluster0"}
    body = {**automated(**target), "snapshotId": snapshot.id}
    answer = service.call("POST", f"{service.base}/restoreJobs", json=body)
    assert (answer.status_code, answer.json()["errorCode"]) == (403, "CANNOT_RESTORE_TO_TARGET")
    owner = service.new_key(Role.GROUP_OWNER, group_id=service.group.id)
    foreign = {**automated(targetGroupId=new_id(), targetClusterName="t"), "snapshotId": snapshot.id}
    answer = service.call("POST", f"{service.base}/restoreJobs", json=foreign, key=owner)
    assert (answer.status_code, answer.json()["errorCode"]) == (403, "CANNOT_RESTORE_TO_TARGET")


@pytest.mark.parametrize(
    ("data", "headers", "status", "code"),
    [
        ("{", {}, 400, "INVALID_JSON"),
        ("", {}, 400, "INVALID_JSON"),
        ("[]", {}, 400, "INVALID_JSON"),
        ("[" * 100_000, {}, 400, "INVALID_JSON"),
        ('{"a": NaN}', {}, 400, "INVALID_JSON"),
        ('{"a": ' + "9" * 5000 + "}", {}, 400, "INVALID_JSON"),
        (b'{"a": "\xff"}', {}, 400, "INVALID_JSON"),
        ('{"a": "\\ud800"}', {}, 400, "INVALID_JSON"),
        ('{"delivery": {"methodName": "HTTP", "methodName": "HTTP"}}', {}, 400, "INVALID_JSON_ATTRIBUTE"),
        ("{}", {"Content-Type": "text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b" " * (1024 * 1024 + 1), {}, 413, "REQUEST_BODY_TOO_LARGE"),
    ],
)
def test_bodies_that_are_no_json_are_refused(
    service: Any, data: Any, headers: dict[str, str], status: int, code: str
) -> None:
    answer = service.call(
        "POST",
        f"{service.base}/restoreJobs",
        data=data,
        headers={"Content-Type": "application/json", **headers},
    )
    assert (answer.status_code, answer.json()["errorCode"]) == (status, code)


def test_snapshots_that_cannot_be_restored(service: Any) -> None:
    other = service.new_cluster("Other")
    foreign = service.new_snapshot(cluster_id=other.id, cluster_name=other.name)
    taking = service.new_snapshot(state=SnapshotState.IN_PROGRESS, stable_timestamp=None, completed=None)
    failed = service.new_snapshot(state=SnapshotState.FAILED)
    dying = service.new_snapshot(expires=service.clock.now())
    expected = {
        foreign.id: (404, "SNAPSHOT_NOT_FOUND"),
        failed.id: (404, "SNAPSHOT_NOT_FOUND"),
        taking.id: (409, "CANNOT_START_RESTORE_JOB_FOR_INCOMPLETE_CLUSTER_SNAPSHOT"),
        dying.id: (409, "LINK_EXPIRATION_AFTER_SNAPSHOT_DELETION"),
    }
    for snapshot_id, refused in expected.items():
        body = {**delivered(), "snapshotId": snapshot_id}
        answer = service.call("POST", f"{service.base}/restoreJobs", json=body)
        assert (answer.status_code, answer.json()["errorCode"]) == refused
    assert service.catalog.restore_jobs.count(service.cluster.id) == 0


def test_paths_and_queries_that_name_nothing(service: Any) -> None:
    groups = "/api/atlas/v1.0/groups"
    own = f"{groups}/{service.group.id}"
    rows = [
        (f"{groups}/nonsense", 404, "INVALID_GROUP_ID"),
        (f"{groups}/{new_id()}", 401, "NOT_IN_GROUP"),
        (f"{own}/clusters/Cluster9/restoreJobs", 404, "CLUSTER_NAME_NOT_FOUND"),
        (f"{own}/clusters/{new_id()}/restoreJobs", 404, "CLUSTER_NAME_NOT_FOUND"),
        (f"{own}/clusters/a_b/restoreJobs", 400, "CLUSTER_NAME_INVALID"),
        (f"{own}/clusters/Cluster0/restoreJobs/zz", 404, "INVALID_JOB_ID"),
        (f"{own}/clusters/Cluster0/restoreJobs/{new_id()}", 404, "RESTORE_JOB_NOT_FOUND"),
        (f"{own}/clusters/Cluster0/snapshots/zz", 404, "INVALID_SNAPSHOT_ID"),
        (f"{own}/clusters/Cluster0/snapshots/{new_id()}", 404, "SNAPSHOT_NOT_FOUND"),
        (f"{own}/clusters/Cluster0/restoreJobs?pageNum=0", 400, "INVALID_QUERY_PARAMETER"),
        (f"{own}/clusters/Cluster0/restoreJobs?itemsPerPage=501", 400, "INVALID_QUERY_PARAMETER"),
        (f"{own}/clusters/Cluster0/restoreJobs?itemsPerPage=x", 400, "INVALID_QUERY_PARAMETER"),
        (f"{own}/clusters/Cluster0/restoreJobs?batchId=x", 400, "INVALID_QUERY_PARAMETER"),
        (f"{own}/clusters/Cluster0/restoreJobs?pretty=1", 400, "INVALID_QUERY_PARAMETER"),
        (f"{own}/clusters/Cluster0/snapshots?completed=maybe", 400, "INVALID_QUERY_PARAMETER"),
        (f"{groups}?includeCount=", 400, "INVALID_QUERY_PARAMETER"),
        ("/api/atlas/v1.0/nothing", 404, "RESOURCE_NOT_FOUND"),
    ]
    for path, status, code in rows:
        answer = service.call("GET", path)
        assert (answer.status_code, answer.json().get("errorCode")) == (status, code), path
        assert "WWW-Authenticate" not in answer.headers
    answer = service.call("PUT", f"{own}/clusters/Cluster0/restoreJobs")
    assert (answer.status_code, answer.json()["errorCode"]) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == "GET, HEAD, POST"


def test_a_refusal_can_be_wrapped_and_indented(service: Any) -> None:
    answer = service.call("GET", f"{service.base}/restoreJobs/zz?envelope=true&pretty=true")
    document = answer.json()
    assert (answer.status_code, document["status"]) == (404, 404)
    assert document["content"]["errorCode"] == "INVALID_JOB_ID"
    assert "\n  " in answer.text


def test_the_service_answers_when_its_own_catalog_record_is_broken(service: Any) -> None:
    """An error that nobody foresaw is an error document too, and tells no secret."""
    service.catalog._database.snapshots.insert_one(
        {
            "_id": "5a681ff180eef54e09de20aa",
            "cluster_id": service.cluster.id,
            "state": "COMPLETE",
            "created": 1,
        }
    )
    try:
        answer = service.call("GET", f"{service.base}/snapshots")
        assert (answer.status_code, answer.json()["errorCode"]) == (500, "UNEXPECTED_ERROR")
    finally:
        service.catalog._database.snapshots.delete_one({"_id": "5a681ff180eef54e09de20aa"})


def test_an_empty_list_is_a_list(service: Any) -> None:
    document = service.call("GET", f"{service.base}/restoreJobs?batchId={new_id()}").json()
    assert (document["results"], document["totalCount"]) == ([], 0)


def test_the_401_body_is_the_hosted_services(service: Any) -> None:
    answer = requests.get(f"{service.url}/api/atlas/v1.0/groups", timeout=60)
    expected = {"error": 401, "reason": "Unauthorized", "detail": "You are not authorized for this resource."}
    assert expected == json.loads(answer.content)
    assert answer.headers["Content-Type"] == "application/json"
