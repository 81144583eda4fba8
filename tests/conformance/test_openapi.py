"""Real answers against the official OpenAPI extract, and against the tables of the contract, in both directions."""

from datetime import timedelta
from typing import Any

import conformance_reference as reference
import jsonschema
import pytest

from ebbtide.domain.ids import new_id
from ebbtide.domain.snapshot import SnapshotState
from ebbtide.restore.requesting import cancel_restore_job

CLUSTER = "/api/atlas/v1.0/groups/{groupId}/clusters/{clusterName}"

# Contract 6.3: what every job of a replica set has, and what some have.
JOB_ALWAYS = {
    *("id", "groupId", "clusterId", "clusterName", "snapshotId", "created", "statusName", "pointInTime"),
    *("timestamp", "encryptionEnabled", "delivery", "links"),
}
JOB_SOMETIMES = {"hashes"}
DELIVERY_ALWAYS = {"methodName", "statusName", "expirationHours", "maxDownloads"}
DELIVERY_LINK = {"expires", "url", "urlV2", "authHeader", "authBearer", "authValue"}
# Contract 7.
SNAPSHOT_ALWAYS = {
    *("id", "groupId", "clusterId", "clusterName", "complete", "created", "doNotDelete", "incremental"),
    *("parts", "links"),
}
SNAPSHOT_COMPLETE = {"lastOplogAppliedTimestamp"}
PART_ALWAYS = {
    *("typeName", "clusterId", "replicaSetName", "compressionSetting", "encryptionEnabled", "replicaState"),
}
PART_COMPLETE = {
    *("mongodVersion", "fcv", "dataSizeBytes", "storageSizeBytes", "fileSizeBytes", "machineId"),
    "completedTime",
}


def validate(answer: Any, path: str, method: str) -> Any:
    schema = reference.response_schema(path, method, answer.status_code)
    document = answer.json()
    checker = jsonschema.FormatChecker()
    jsonschema.Draft7Validator(schema, format_checker=checker).validate(document)
    return document


@pytest.fixture(scope="module")
def jobs(service: Any) -> dict[str, Any]:
    """A job in every pair of states that a job can show."""
    snapshot = service.new_snapshot()
    made = {"new": service.new_job(snapshot)}
    for name in ("ready", "expired", "used up", "downloaded", "killed"):
        made[name] = service.ready_job(snapshot, archive_bytes=1000, downloads=3)
    service.catalog._database.restore_jobs.update_one(
        {"_id": made["expired"].id}, {"$set": {"expires": service.clock.now() - timedelta(hours=1)}}
    )
    for name in ("used up", "downloaded"):
        service.catalog.restore_jobs.set_sha1(made[name].id, "0123456789abcdef0123456789abcdef01234567")
        service.catalog.restore_jobs.raise_completed_downloads(made[name].id, 1)
    from ebbtide.domain.restore_job import RestoreEvent

    service.catalog.restore_jobs.apply(made["used up"].id, RestoreEvent.DOWNLOADS_USED_UP)
    cancel_restore_job(made["killed"], catalog=service.catalog, clock=service.clock, actor="test")
    return made


def test_list_of_jobs(service: Any, jobs: dict[str, Any]) -> None:
    document = validate(service.call("GET", f"{service.base}/restoreJobs"), f"{CLUSTER}/restoreJobs", "GET")
    assert {job.id for job in jobs.values()} <= {job["id"] for job in document["results"]}
    for job in document["results"]:
        assert job.keys() >= JOB_ALWAYS
        assert job.keys() - JOB_ALWAYS <= JOB_SOMETIMES
        assert job["delivery"].keys() >= DELIVERY_ALWAYS
        assert job["delivery"].keys() - DELIVERY_ALWAYS <= DELIVERY_LINK


@pytest.mark.parametrize(
    ("name", "states", "has_link", "has_hashes"),
    [
        ("new", ("IN_PROGRESS", "NOT_STARTED"), False, False),
        ("ready", ("FINISHED", "READY"), True, False),
        ("expired", ("FINISHED", "EXPIRED"), True, False),
        ("used up", ("FINISHED", "MAX_DOWNLOADS_EXCEEDED"), True, True),
        ("downloaded", ("FINISHED", "READY"), True, True),
        ("killed", ("KILLED", "INTERRUPTED"), False, False),
    ],
)
def test_a_job_in_each_of_its_states(
    service: Any,
    jobs: dict[str, Any],
    name: str,
    states: tuple[str, str],
    has_link: bool,
    has_hashes: bool,
) -> None:
    answer = service.call("GET", f"{service.base}/restoreJobs/{jobs[name].id}")
    document = validate(answer, f"{CLUSTER}/restoreJobs/{{jobId}}", "GET")
    assert (document["statusName"], document["delivery"]["statusName"]) == states
    assert (document["delivery"].keys() >= DELIVERY_LINK) is has_link
    assert ("hashes" in document) is has_hashes


def test_created_job(service: Any) -> None:
    body = {"delivery": {"methodName": "HTTP"}, "snapshotId": service.new_snapshot().id}
    answer = service.call("POST", f"{service.base}/restoreJobs", json=body)
    document = validate(answer, f"{CLUSTER}/restoreJobs", "POST")
    (job,) = document["results"]
    assert (answer.status_code, document["totalCount"], document["links"]) == (200, 1, job["links"])
    assert job["delivery"] == {
        "methodName": "HTTP",
        "statusName": "NOT_STARTED",
        "expirationHours": 1,
        "maxDownloads": 1,
    }


def test_the_request_fixture_is_taken(service: Any) -> None:
    body = reference.load_json("fixtures/001-create-one-restore-job.request.json")
    body["snapshotId"] = service.new_snapshot().id
    assert service.call("POST", f"{service.base}/restoreJobs", json=body).status_code == 200


@pytest.mark.parametrize("name", ["create-automated-oplog-restore-job", "create-automated-pit-restore-job"])
def test_automated_fixtures_are_well_formed_and_need_their_targets_consent(service: Any, name: str) -> None:
    """The fixtures' own group ids are of nobody here, so the caller's takes their place."""
    body = reference.load_json(f"fixtures/other/{name}.request.json")
    body["delivery"]["targetGroupId"] = service.group.id
    if "targetClusterId" in body["delivery"]:
        body["delivery"]["targetClusterId"] = service.cluster.id
    answer = service.call("POST", f"{service.base}/restoreJobs", json=body)
    document = validate(answer, f"{CLUSTER}/restoreJobs", "POST")
    assert document["errorCode"] == "CANNOT_RESTORE_TO_TARGET", document


def test_snapshots(service: Any) -> None:
    complete = service.new_snapshot().id
    taking = service.new_snapshot(
        state=SnapshotState.IN_PROGRESS, stable_timestamp=None, completed=None, machine="", fcv=""
    ).id
    listed = validate(
        service.call("GET", f"{service.base}/snapshots?completed=all"), f"{CLUSTER}/snapshots", "GET"
    )
    assert {complete, taking} <= {s["id"] for s in listed["results"]}
    single = validate(
        service.call("GET", f"{service.base}/snapshots/{complete}"),
        f"{CLUSTER}/snapshots/{{snapshotId}}",
        "GET",
    )
    assert single in listed["results"]
    for snapshot in listed["results"]:
        expected = SNAPSHOT_ALWAYS | (SNAPSHOT_COMPLETE if snapshot["complete"] else set())
        assert snapshot.keys() == expected
        (part,) = snapshot["parts"]
        assert part.keys() >= PART_ALWAYS | (PART_COMPLETE if snapshot["complete"] else set())
        assert part.keys() <= PART_ALWAYS | PART_COMPLETE


def test_error_documents(service: Any) -> None:
    jobs, snapshots = f"{CLUSTER}/restoreJobs", f"{CLUSTER}/snapshots"
    unknown = service.url + f"/api/atlas/v1.0/groups/{new_id()}/clusters/Cluster0/restoreJobs"
    rows = [
        (service.call("GET", f"{service.base}/restoreJobs", key=("x", "y")), jobs, "GET", 401),
        (service.call("GET", unknown), jobs, "GET", 401),
        (service.call("GET", f"{service.base}/restoreJobs?pageNum=x"), jobs, "GET", 400),
        (service.call("POST", f"{service.base}/restoreJobs", json={"a": 1}), jobs, "POST", 400),
        (service.call("POST", f"{service.base}/restoreJobs", data="x"), jobs, "POST", 400),
        (
            service.call(
                "POST", f"{service.base}/restoreJobs", data="x", headers={"Content-Type": "text/xml"}
            ),
            jobs,
            "POST",
            415,
        ),
        (service.call("PUT", f"{service.base}/restoreJobs"), jobs, "GET", 405),
        (
            service.call("GET", f"{service.base}/snapshots/{new_id()}"),
            f"{snapshots}/{{snapshotId}}",
            "GET",
            404,
        ),
        (service.call("GET", f"{service.base}x_y/snapshots"), snapshots, "GET", 400),
    ]
    for answer, path, method, status in rows:
        document = validate(answer, path, method)
        assert (answer.status_code, document["error"]) == (status, status)
        assert document["detail"].endswith((".", ")")), document


def test_every_operation_of_the_table_has_its_official_name() -> None:
    from ebbtide.api.app import OPERATIONS

    named = {
        operation["operationId"]: (method.upper(), path)
        for path, methods in reference.openapi()["paths"].items()
        for method, operation in methods.items()
        if isinstance(operation, dict) and "operationId" in operation
    }
    built = {o.name: (o.method, o.path) for o in OPERATIONS if "egacy" in o.name}
    assert built
    assert built.items() <= named.items()
