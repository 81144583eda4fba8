"""Cloud and Ops Manager's family: clusters by id, its own resources, and where it differs from Atlas."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ebbtide.api.hosts import host_id
from ebbtide.backup.registration import new_head
from ebbtide.domain.access import Role
from ebbtide.domain.archive_state import ArchiveState
from ebbtide.domain.cluster import ClusterState, HeadState
from ebbtide.domain.ids import GroupId, new_id
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.snapshot import SnapshotState

EXTENSION = "http://mms.mongodb.com"
UNKNOWN_ID = "0123456789abcdef01234567"
"""An id that nothing has: the same in every run, for it names a test."""


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Any]) -> Any:
    return start_service()


@pytest.fixture
def base(service: Any) -> str:
    return f"{service.url}/api/public/v1.0/groups/{service.group.id}"


@pytest.fixture
def cluster(service: Any, base: str) -> str:
    return f"{base}/clusters/{service.cluster.id}"


def rels(document: Any) -> dict[str, str]:
    return {link["rel"]: link["href"] for link in document["links"]}


def follow(service: Any, cluster: Any) -> None:
    """Give a cluster a head that follows, as a worker leaves it."""
    head = replace(new_head(cluster, clock=service.clock), state=HeadState.FOLLOWING, joined_once=True)
    service.catalog.heads.insert(head)


def test_groups_and_clusters_are_found_by_their_ids(service: Any, base: str, cluster: str) -> None:
    group = service.call("GET", base).json()
    assert (group["id"], group["name"]) == (service.group.id, "Project")
    listed = service.call("GET", f"{base}/clusters").json()
    (found,) = [c for c in listed["results"] if c["id"] == service.cluster.id]
    assert found == {
        "id": service.cluster.id,
        "groupId": service.group.id,
        "clusterName": "Cluster0",
        "typeName": "REPLICA_SET",
        "replicaSetName": "rs0",
        "links": [{"rel": "self", "href": cluster}],
    }
    single = service.call("GET", cluster).json()
    assert {"self": cluster, f"{EXTENSION}/group": base} == rels(single)


@pytest.mark.parametrize(
    ("segment", "status", "code"),
    [("Cluster0", 404, "INVALID_CLUSTER_ID"), (UNKNOWN_ID, 404, "CLUSTER_NOT_FOUND")],
)
def test_a_cluster_is_no_name_here(service: Any, base: str, segment: str, status: int, code: str) -> None:
    answer = service.call("GET", f"{base}/clusters/{segment}/restoreJobs")
    assert (status, code) == (answer.status_code, answer.json()["errorCode"])


def test_a_restore_job_is_the_same_in_both_families(service: Any, base: str, cluster: str) -> None:
    snapshot = service.new_snapshot()
    body = {"delivery": {"methodName": "HTTP"}, "snapshotId": snapshot.id}
    made = service.call("POST", f"{cluster}/restoreJobs", json=body).json()
    (job,) = made["results"]
    path = f"{cluster}/restoreJobs/{job['id']}"
    assert [{"rel": "self", "href": path}] == job["links"] == made["links"]
    single = service.call("GET", path).json()
    assert {
        "self": path,
        f"{EXTENSION}/cluster": cluster,
        f"{EXTENSION}/snapshot": f"{cluster}/snapshots/{snapshot.id}",
        f"{EXTENSION}/group": base,
    } == rels(single)
    atlas = service.call("GET", f"{service.base}/restoreJobs/{job['id']}").json()
    assert {**single, "links": []} == {**atlas, "links": []}
    assert list(rels(atlas)) == ["self"]


def test_the_lower_case_spelling_answers_and_is_never_shown(service: Any, cluster: str) -> None:
    service.new_job(service.new_snapshot())
    listed = service.call("GET", f"{cluster}/restorejobs?itemsPerPage=1").json()
    assert f"{cluster}/restoreJobs?itemsPerPage=1" not in str(listed)
    assert rels(listed)["self"] == f"{cluster}/restoreJobs?pageNum=1&itemsPerPage=1"
    (job,) = listed["results"]
    assert service.call("GET", f"{cluster}/restorejobs/{job['id']}").json()["id"] == job["id"]
    for name in ("batchId", "batchid"):
        assert service.call("GET", f"{cluster}/restorejobs?{name}={new_id()}").json()["results"] == []
        bad = service.call("GET", f"{cluster}/restorejobs?{name}=x").json()
        assert bad["errorCode"] == "INVALID_QUERY_PARAMETER"
    assert service.call("GET", f"{cluster}/RestoreJobs").status_code == 404
    assert service.call("GET", f"{service.base}/restorejobs").status_code == 404


def test_a_link_may_end_at_a_moment_instead_of_after_hours(service: Any, cluster: str) -> None:
    snapshot = service.new_snapshot()
    moment = (service.clock.now() + timedelta(minutes=150)).replace(microsecond=0)
    body = {
        "delivery": {"methodName": "HTTP", "expires": moment.isoformat(), "maxDownloads": 3},
        "snapshotId": snapshot.id,
    }
    (job,) = service.call("POST", f"{cluster}/restoreJobs", json=body).json()["results"]
    assert (job["delivery"]["expirationHours"], job["delivery"]["maxDownloads"]) == (3, 3)
    assert moment == service.job(job["id"]).asked_expires


@pytest.mark.parametrize(
    ("delivery", "code"),
    [
        ({"expires": "2018-12-01"}, "INVALID_ATTRIBUTE"),
        ({"expires": "2999-12-01", "expirationHours": 1}, "INVALID_ATTRIBUTE"),
        ({"expires": "soon"}, "INVALID_ATTRIBUTE"),
        ({"expires": "2999-12-01T00:00:00.5Z"}, "FRACTIONAL_TIMESTAMP"),
        ({"expires": 1}, "INVALID_JSON_ATTRIBUTE"),
    ],
)
def test_moments_that_cannot_be_are_refused(
    service: Any, cluster: str, delivery: dict[str, Any], code: str
) -> None:
    body = {"delivery": {"methodName": "HTTP", **delivery}, "snapshotId": service.new_snapshot().id}
    answer = service.call("POST", f"{cluster}/restoreJobs", json=body)
    document = answer.json()
    assert (400, code) == (answer.status_code, document["errorCode"])
    assert "badRequestDetail" not in document


def test_a_backup_admin_may_write_and_download_here_and_not_in_atlas(service: Any, cluster: str) -> None:
    admin = service.new_key(Role.GROUP_BACKUP_ADMIN, group_id=service.group.id)
    ready = service.ready_job(service.new_snapshot(), archive_bytes=1000)
    here = service.call("GET", f"{cluster}/restoreJobs/{ready.id}", key=admin).json()
    there = service.call("GET", f"{service.base}/restoreJobs/{ready.id}", key=admin).json()
    assert "url" in here["delivery"]
    assert "url" not in there["delivery"]
    body = {"delivery": {"methodName": "HTTP"}, "snapshotId": service.new_snapshot().id}
    assert service.call("POST", f"{cluster}/restoreJobs", key=admin, json=body).status_code == 200
    assert service.call("POST", f"{service.base}/restoreJobs", key=admin, json=body).status_code == 401


def test_snapshots_are_listed_changed_and_deleted(service: Any, base: str, cluster: str) -> None:
    snapshot = service.new_snapshot()
    service.new_snapshot(state=SnapshotState.IN_PROGRESS, stable_timestamp=None, completed=None)
    listed = service.call("GET", f"{cluster}/snapshots").json()["results"]
    assert all(s["complete"] for s in listed)
    incomplete = service.call("GET", f"{cluster}/snapshots?completed=false").json()["results"]
    assert [s["complete"] for s in incomplete] == [False]
    path = f"{cluster}/snapshots/{snapshot.id}"
    single = service.call("GET", path).json()
    assert {"self": path, f"{EXTENSION}/cluster": cluster, f"{EXTENSION}/group": base} == rels(single)
    assert single["namespaceFilterList"] == {"filterType": "blacklist", "filterList": []}
    both = {"doNotDelete": True, "expires": "2030-01-01"}
    kept = service.call("PATCH", path, json=both).json()
    assert (kept["doNotDelete"], "expires" in kept) == (True, False)
    dated = service.call("PATCH", path, json={"doNotDelete": False, "expires": "2030-01-01"}).json()
    assert (dated["doNotDelete"], dated["expires"]) == (False, "2030-01-01T00:00:00Z")
    assert ((answer := service.call("DELETE", path)).status_code, answer.content) == (204, b"")
    assert service.call("GET", path).json()["errorCode"] == "SNAPSHOT_NOT_FOUND"


def test_only_deleting_a_snapshot_and_restoring_need_a_listed_address(service: Any, cluster: str) -> None:
    anywhere = service.new_key(Role.GROUP_OWNER, group_id=service.group.id, allow=())
    path = f"{cluster}/snapshots/{service.new_snapshot().id}"
    assert service.call("PATCH", path, key=anywhere, json={"doNotDelete": True}).status_code == 200
    for method, address in (("DELETE", path), ("POST", f"{cluster}/restoreJobs")):
        answer = service.call(method, address, key=anywhere)
        assert (answer.status_code, answer.json()["errorCode"]) == (403, "IP_ADDRESS_NOT_ON_ACCESS_LIST")


def test_a_replica_set_has_no_checkpoints(service: Any, cluster: str) -> None:
    for path in (f"{cluster}/checkpoints", f"{service.base}/backupCheckpoints"):
        listed = service.call("GET", path).json()
        assert ([], 0, f"{path}?pageNum=1&itemsPerPage=100") == (
            listed["results"],
            listed["totalCount"],
            rels(listed)["self"],
        )
        for segment, code in (("x", "INVALID_CHECKPOINT_ID"), (new_id(), "CHECKPOINT_NOT_FOUND")):
            answer = service.call("GET", f"{path}/{segment}")
            assert (404, code) == (answer.status_code, answer.json()["errorCode"])
    assert service.call("GET", f"{cluster}/backupCheckpoints").status_code == 404


def test_the_schedule_is_under_the_backup_configuration_and_takes_ranges(
    service: Any, base: str, cluster: str
) -> None:
    path = f"{base}/backupConfigs/{service.cluster.id}/snapshotSchedule"
    body = {
        "clusterId": "",
        "groupId": "",
        "snapshotRetentionDays": 5,
        "dailySnapshotRetentionDays": 8,
        "weeklySnapshotRetentionWeeks": 9,
        "monthlySnapshotRetentionMonths": 14,
        "referenceHourOfDay": 12,
        "referenceMinuteOfHour": 30,
        "referenceTimeZoneOffset": "+0530",
        "fullIncrementalDayOfWeek": "MONDAY",
    }
    changed = service.call("PATCH", path, json=body).json()
    ids = {"clusterId": service.cluster.id, "groupId": service.group.id}
    others = {"snapshotIntervalHours": 6, "pointInTimeWindowHours": 24, "links": changed["links"]}
    assert body | ids | others == changed
    assert changed == service.call("GET", path).json()
    assert {"self": path, f"{EXTENSION}/cluster": cluster, f"{EXTENSION}/group": base} == rels(changed)
    for field, value, code in (
        ("snapshotRetentionDays", 6, "INVALID_SNAPSHOT_RETENTION_PERIOD"),
        ("dailySnapshotRetentionDays", 366, "INVALID_DAILY_SNAPSHOT_RETENTION_PERIOD"),
        ("weeklySnapshotRetentionWeeks", 53, "INVALID_WEEKLY_SNAPSHOT_RETENTION_PERIOD"),
        ("monthlySnapshotRetentionMonths", -1, "INVALID_MONTHLY_SNAPSHOT_RETENTION_PERIOD"),
        ("referenceHourOfDay", 24, "INVALID_REFERENCE_HOUR_OF_DAY"),
        ("fullIncrementalDayOfWeek", "sunday", "INVALID_ENUM_VALUE"),
        ("clusterCheckpointIntervalMin", 15, "CANNOT_SET_CLUSTER_CHECKPOINT_INTERVAL_FOR_REPLICA_SET"),
    ):
        answer = service.call("PATCH", path, json={field: value})
        assert (400, code) == (answer.status_code, answer.json()["errorCode"]), field


def test_a_backup_is_stopped_started_and_terminated(service: Any, base: str) -> None:
    made = service.new_cluster("Lifecycle")
    path = f"{base}/backupConfigs/{made.id}"
    assert service.call("GET", path).json()["statusName"] == "PROVISIONING"
    follow(service, made)

    def set_status(name: str) -> tuple[int, str]:
        answer = service.call("PATCH", path, json={"statusName": name})
        document = answer.json()
        return answer.status_code, document.get("statusName") or document["errorCode"]

    assert set_status("STARTED") == (200, "STARTED")
    assert set_status("TERMINATING") == (409, "CANNOT_TERMINATE_BACKUP_INVALID_STATE")
    assert set_status("STOPPED") == (200, "STOPPED")
    assert service.catalog.clusters.find(made.id).is_paused
    assert set_status("STARTED") == (200, "STARTED")
    assert set_status("STOPPED") == (200, "STOPPED")
    assert set_status("TERMINATING") == (200, "TERMINATING")
    assert ClusterState.REMOVING is service.catalog.clusters.find(made.id).state
    assert set_status("STARTED") == (409, "CANNOT_START_BACKUP_INVALID_STATE")
    # What a worker does when the head has left its set.
    service.catalog.heads._heads.update_one({"_id": made.id}, {"$set": {"state": HeadState.GONE.value}})
    service.catalog.clusters.set_state(made.id, ClusterState.REMOVED)
    assert service.call("GET", path).json()["statusName"] == "INACTIVE"
    assert set_status("STOPPED") == (409, "CANNOT_STOP_BACKUP_INVALID_STATE")
    other = service.new_cluster("Lifecycle")
    assert set_status("STARTED") == (409, "CLUSTER_NAME_TAKEN")
    service.catalog.clusters.set_state(other.id, ClusterState.REMOVED)
    assert set_status("STARTED") == (200, "PROVISIONING")
    assert service.catalog.heads.find(made.id) is None


def test_a_backup_whose_credentials_were_forgotten_is_not_started(service: Any, base: str) -> None:
    made = replace(
        service.cluster, id=new_id(), name="Secret", username="ebbtide", state=ClusterState.REMOVED
    )
    service.catalog.clusters.insert(made)
    answer = service.call("PATCH", f"{base}/backupConfigs/{made.id}", json={"statusName": "STARTED"})
    assert (answer.status_code, answer.json()["errorCode"]) == (409, "CANNOT_START_BACKUP_INVALID_STATE")
    assert "forgotten" in answer.json()["detail"]
    service.catalog.clusters.set_state(made.id, ClusterState.REMOVED)


def test_a_backup_configuration_tells_what_is(service: Any, base: str, cluster: str) -> None:
    path = f"{base}/backupConfigs/{service.cluster.id}"
    found = service.call("GET", path).json()
    assert {
        "self": path,
        f"{EXTENSION}/cluster": cluster,
        f"{EXTENSION}/group": base,
        f"{EXTENSION}/snapshotSchedule": f"{path}/snapshotSchedule",
    } == rels(found)
    listed = service.call("GET", f"{base}/backupConfigs").json()["results"]
    (own,) = [c for c in listed if c["clusterId"] == service.cluster.id]
    assert {**found, "links": []} == {**own, "links": []}
    assert "password" not in found
    same = {k: v for k, v in found.items() if k not in ("provisioned", "links", "statusName")}
    assert service.call("PATCH", path, json=same).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"statusName": "INACTIVE"}, 403, "UNSUPPORTED_SET_BACKUP_STATE"),
        ({"statusName": "x"}, 400, "INVALID_ENUM_VALUE"),
        ({"excludedNamespaces": ["a.b"]}, 400, "INVALID_FILTERLIST"),
        ({"includedNamespaces": ["a.b"]}, 400, "INVALID_FILTERLIST"),
        ({"excludedNamespaces": "a.b"}, 400, "INVALID_JSON_ATTRIBUTE"),
        ({"groupId": new_id()}, 400, "GROUP_MISMATCH"),
        ({"clusterId": new_id()}, 400, "INVALID_ATTRIBUTE"),
        ({"storageEngineName": "MEMORY_MAPPED"}, 400, "INVALID_ATTRIBUTE"),
        ({"authMechanismName": "x"}, 400, "INVALID_ENUM_VALUE"),
        ({"username": "somebody"}, 400, "INVALID_ATTRIBUTE"),
        ({"password": "secret"}, 400, "INVALID_ATTRIBUTE"),
        ({"sslEnabled": True}, 400, "INVALID_ATTRIBUTE"),
        ({"syncSource": "host:1"}, 400, "INVALID_ENUM_VALUE"),
        ({"encryptionEnabled": True}, 400, "INVALID_ATTRIBUTE"),
        ({"provisioned": True}, 400, "ATTRIBUTE_READ_ONLY"),
        ({"unknown": 1}, 400, "INVALID_ATTRIBUTE"),
    ],
)
def test_what_a_backup_configuration_does_not_take(
    service: Any, base: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = service.call("PATCH", f"{base}/backupConfigs/{service.cluster.id}", json=body)
    assert (status, code) == (answer.status_code, answer.json()["errorCode"])
    assert "secret" not in answer.text


def test_hosts_are_mirrored_config_servers_and_there_are_none(service: Any, base: str) -> None:
    known = host_id(GroupId(service.group.id), "127.0.0.1:27018")
    for method, path in (
        ("GET", "restoreJobs"),
        ("POST", "restoreJobs"),
        ("GET", f"restoreJobs/{new_id()}"),
        ("GET", "snapshots"),
        ("GET", f"snapshots/{new_id()}"),
    ):
        for host, code in (
            (known, "NOT_CONFIG_SERVER"),
            ("0" * 32, "HOST_NOT_FOUND"),
            ("x", "HOST_NOT_FOUND"),
        ):
            answer = service.call(method, f"{base}/hosts/{host}/{path}")
            assert (404, code) == (answer.status_code, answer.json()["errorCode"])


def test_restorable_time_ranges_are_a_bare_array(service: Any, base: str) -> None:
    made = service.new_cluster("Ranges")
    snapshot = service.new_snapshot(cluster_id=made.id, cluster_name=made.name)
    path = f"{base}/clusters/{made.id}/restoreJobs/restorableTimeRanges"
    assert service.call("POST", path).json() == []
    always = replace(service.catalog.schedules.get(made), point_in_time_window_hours=10**6)
    service.catalog.schedules.put(always)
    newest = OplogTimestamp(snapshot.stable_timestamp.seconds + 60, 3)
    service.catalog.archives.begin(
        ArchiveState(
            id=made.id,
            observed=service.clock.now(),
            oldest=OpTime(snapshot.stable_timestamp, 1),
            archived_to=OpTime(newest, 1),
        )
    )
    (found,) = service.call("POST", path, json={}).json()
    assert found == {
        "start": {"date": "2018-01-22T22:44:54Z", "increment": 7},
        "end": {"date": "2018-01-22T22:45:54Z", "increment": 3},
        "snapshotId": snapshot.id,
    }
    wrapped = service.call("POST", f"{path}?envelope=true").json()
    assert wrapped == {"status": 200, "content": [found]}
    assert service.call("POST", path, json={"x": 1}).status_code == 400
    assert service.call("POST", path.replace("restoreJobs", "restorejobs")).json() == [found]
    reader = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    assert service.call("POST", path, key=reader).status_code == 401
    everywhere = service.new_key(Role.GLOBAL_READ_ONLY)
    assert service.call("POST", path, key=everywhere).json() == [found]


def test_a_snapshot_on_demand_is_kept_for_the_days_of_the_query(service: Any, base: str) -> None:
    made = service.new_cluster("OnDemand")
    path = f"{base}/clusters/{made.id}/snapshots/onDemandSnapshot"
    assert service.call("POST", path).json()["errorCode"] == "HEAD_NOT_READY"
    follow(service, made)
    for bad in ("0", "x", "-1", "999999999"):
        answer = service.call("POST", f"{path}?retentionDays={bad}")
        assert answer.json()["errorCode"] == "INVALID_QUERY_PARAMETER"
    answer = service.call("POST", f"{path}?retentionDays=3").json()
    assert (answer["clusterName"], answer["timestamp"]["increment"]) == ("OnDemand", 1)
    (taken,) = service.catalog.snapshots.list_in_state(made.id, SnapshotState.IN_PROGRESS)
    # Both are read from the clock, one after the other.
    assert abs(taken.expires - taken.created - timedelta(days=3)) < timedelta(hours=1)
    assert service.call("POST", path).json()["errorCode"] == "SNAPSHOT_IN_PROGRESS"
