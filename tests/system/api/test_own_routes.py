"""Ebbtide's own API: clusters, snapshots, progress, cancelling, keys, events."""

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

from ebbtide.backup import registration
from ebbtide.domain.access import Role
from ebbtide.domain.cluster import Head, HeadState
from ebbtide.domain.ids import new_id
from ebbtide.domain.job import JobKind, job_id


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["errorCode"]


def add_head(service: Any, cluster: Any, state: HeadState, **changes: Any) -> None:
    now = service.clock.now()
    service.catalog.heads.insert(
        Head(
            id=cluster.id,
            state=state,
            state_since=now,
            host="127.0.0.1",
            port=27018,
            dbpath="heads/x",
            updated=now,
            **changes,
        )
    )


def test_a_cluster_is_shown_with_its_head_and_last_snapshot(service: Any) -> None:
    cluster = service.new_cluster("Shown")
    started = service.clock.now() - timedelta(seconds=10)
    add_head(
        service,
        cluster,
        HeadState.SYNCING,
        sync_done_bytes=500,
        sync_total_bytes=1000,
        sync_started=started,
    )
    snapshot = service.new_snapshot(cluster_id=cluster.id, cluster_name=cluster.name)
    shown = service.call("GET", f"{service.own_base}/clusters/Shown").json()
    assert (shown["name"], shown["replicaSetName"], shown["state"]) == ("Shown", "rs0", "ACTIVE")
    assert (shown["head"]["state"], shown["head"]["initialSync"]["doneBytes"]) == ("SYNCING", 500)
    assert 8 <= shown["head"]["initialSync"]["secondsLeft"] <= 60
    assert shown["lastSnapshot"]["id"] == snapshot.id


def test_registration_is_judged_before_anything_is_stored(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(registration, "ALONE_SECONDS", 0.5)
    address = f"{service.own_base}/clusters"
    bad = service.call("POST", address, json={"name": "a_b", "headPort": 70000, "path": "/etc"})
    assert refused(bad) == (400, "INVALID_ATTRIBUTE")
    named = [row["field"] for row in bad.json()["badRequestDetail"]["fields"]]
    assert named == ["name", "uri", "headPort", "path"]
    nobody_there = {"name": "Far", "uri": "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=300"}
    answer = service.call("POST", address, json=nobody_there)
    assert refused(answer) == (409, "REGISTRATION_REFUSED")
    assert any(not check["ok"] and check["what"] for check in answer.json()["checks"])
    taken = service.call("POST", address, json={**nobody_there, "name": "Cluster0"})
    assert refused(taken) == (409, "CLUSTER_NAME_TAKEN")
    assert service.call("GET", f"{address}/Far").status_code == 404


def test_removing_a_cluster(service: Any) -> None:
    service.new_cluster("Leaving")
    key = service.new_key(Role.GROUP_BACKUP_ADMIN, group_id=service.group.id)
    address = f"{service.own_base}/clusters/Leaving"
    assert refused(service.call("DELETE", address, key=key)) == (401, "USER_UNAUTHORIZED")
    answer = service.call("DELETE", address)
    assert (answer.status_code, answer.json()["state"]) == (202, "REMOVING")


def test_only_a_global_owner_says_which_mongod_a_head_runs(service: Any) -> None:
    cluster = service.new_cluster("Swapped")
    address = f"{service.own_base}/clusters/Swapped"
    wanted = {"mongod": "/opt/mongodb-7.0/bin/mongod"}
    group_owner = service.new_key(Role.GROUP_OWNER, group_id=service.group.id, owner=True)
    assert refused(service.call("PATCH", address, key=group_owner, json=wanted)) == (401, "USER_UNAUTHORIZED")
    # Nothing of the body is judged before.
    assert refused(service.call("PATCH", address, key=group_owner, json=7)) == (401, "USER_UNAUTHORIZED")
    for bad in ({}, {"mongod": "bin/mongod"}, {"mongod": 7}, wanted | {"name": "Other"}):
        assert service.call("PATCH", address, json=bad).status_code == 400

    answer = service.call("PATCH", address, json=wanted)
    assert (answer.status_code, answer.json()["mongod"]) == (202, wanted["mongod"])
    assert service.catalog.clusters.find(cluster.id).mongod == wanted["mongod"]
    # A path of the server is for who owns the server.
    assert "mongod" not in service.call("GET", address, key=group_owner).json()
    assert "mongod" not in service.call("PATCH", address, json={"mongod": None}).json()
    assert service.catalog.clusters.find(cluster.id).mongod is None


def test_a_snapshot_on_demand(service: Any) -> None:
    cluster = service.new_cluster("Snapped")
    address = f"{service.own_base}/clusters/Snapped/snapshots"
    assert refused(service.call("POST", address)) == (409, "HEAD_NOT_READY")
    add_head(service, cluster, HeadState.FOLLOWING)
    made = service.call("POST", address, json={}).json()
    assert (made["state"], made["job"]["state"]) == ("IN_PROGRESS", "QUEUED")
    assert refused(service.call("POST", address)) == (409, "SNAPSHOT_IN_PROGRESS")
    assert refused(service.call("POST", address, json={"name": "x"})) == (400, "INVALID_ATTRIBUTE")
    reader = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    assert refused(service.call("POST", address, key=reader)) == (401, "USER_UNAUTHORIZED")
    assert [made] == service.call("GET", address).json()["results"]


def test_a_restore_job_is_shown_and_cancelled(service: Any) -> None:
    job = service.new_job(service.new_snapshot())
    address = f"{service.own_base}/restoreJobs/{job.id}"
    shown = service.call("GET", address).json()
    assert (
        shown["statusName"],
        shown["deliveryStatusName"],
        shown["job"]["state"],
    ) == ("IN_PROGRESS", "NOT_STARTED", "QUEUED")
    cancelled = service.call("POST", f"{address}/cancel").json()
    assert (cancelled["statusName"], cancelled["deliveryStatusName"]) == ("KILLED", "INTERRUPTED")
    assert service.owner[0] in cancelled["reason"]
    assert refused(service.call("POST", f"{address}/cancel")) == (409, "RESTORE_JOB_ENDED")
    work = service.catalog.jobs.find(job_id(JobKind.RESTORE, job.id))
    assert work is not None
    assert work.cancel_requested
    missing = service.call("POST", f"{service.own_base}/restoreJobs/{new_id()}/cancel")
    assert refused(missing) == (404, "RESTORE_JOB_NOT_FOUND_IN_GROUP")


def test_a_cancelled_link_is_not_shown_and_an_expired_job_cannot_be_cancelled(service: Any) -> None:
    job = service.ready_job(service.new_snapshot(), archive_bytes=100)
    own = f"{service.own_base}/restoreJobs/{job.id}"
    text = service.call("GET", own).text
    assert service.download_key(job) not in text
    service.clock.ahead += timedelta(hours=2)
    try:
        assert refused(service.call("POST", f"{own}/cancel")) == (409, "RESTORE_JOB_ENDED")
    finally:
        service.clock.ahead -= timedelta(hours=2)
    assert service.call("POST", f"{own}/cancel").status_code == 200
    delivery = service.call("GET", f"{service.base}/restoreJobs/{job.id}").json()["delivery"]
    assert not {"url", "urlV2", "authValue", "expires"} & delivery.keys()


def test_events_tell_who_did_what_from_where(service: Any) -> None:
    cluster = service.new_cluster("Eventful")
    add_head(service, cluster, HeadState.FOLLOWING)
    service.call("POST", f"{service.own_base}/clusters/Eventful/snapshots")
    (event,) = service.call("GET", f"{service.own_base}/events?clusterName=Eventful").json()["results"]
    assert (event["kind"], event["level"]) == ("snapshot.requested", "INFO")
    assert event["actor"] == f"{service.owner[0]} from 127.0.0.1"


def test_keys_and_access_lists(service: Any) -> None:
    keys = f"{service.url}/api/ebbtide/v1/keys"
    mine = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    other = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    listed = service.call("GET", keys, key=mine)
    assert [mine[0]] == [key["publicKey"] for key in listed.json()["results"]]
    assert mine[1] not in listed.text
    every = {key["publicKey"] for key in service.call("GET", keys).json()["results"]}
    assert {mine[0], other[0], service.owner[0]} <= every
    assert refused(service.call("POST", f"{keys}/{other[0]}/accessList", key=mine, json=[])) == (
        401,
        "USER_UNAUTHORIZED",
    )
    body = [{"ipAddress": "10.1.2.3"}, {"cidrBlock": "10.9.0.0/16"}]
    shown = service.call("POST", f"{keys}/{mine[0]}/accessList", key=mine, json=body).json()
    added = {(e["cidrBlock"], e.get("ipAddress")) for e in shown["accessList"]}
    assert {("10.1.2.3/32", "10.1.2.3"), ("10.9.0.0/16", None)} <= added
    for entry in ("10.1.2.3", "10.9.0.0/16"):
        answer = service.call("DELETE", f"{keys}/{mine[0]}/accessList/{quote(entry, safe='')}", key=mine)
        assert answer.status_code == 200
        assert entry not in answer.text
    own_address = f"{keys}/{mine[0]}/accessList/{quote('127.0.0.1/32', safe='')}"
    assert refused(service.call("DELETE", own_address, key=mine)) == (
        400,
        "CANNOT_REMOVE_CALLER_FROM_ACCESS_LIST",
    )
    absent = service.call("DELETE", f"{keys}/{mine[0]}/accessList/1.2.3.4")
    assert refused(absent) == (404, "API_KEY_ACCESS_LIST_NOT_FOUND")
    for bad in ([], {}, [{}], [{"ipAddress": "10.1.2.3", "cidrBlock": "10.1.2.3/32"}], ["10.1.2.3"]):
        answer = service.call("POST", f"{keys}/{mine[0]}/accessList", json=bad)
        assert refused(answer) == (400, "BAD_ACCESS_LIST_ADD_REQUEST")
    answer = service.call("POST", f"{keys}/{mine[0]}/accessList", json=[{"cidrBlock": "10.0.0.1/8"}])
    assert refused(answer) == (400, "INVALID_IP_ADDRESS_OR_CIDR_NOTATION")
    entries = f"{keys}/{mine[0]}/accessList"
    assert refused(service.call("POST", entries, json=[{"cidrBlock": "127.0.0.1/32"}])) == (
        409,
        "ADDRESS_ALREADY_IN_ACCESS_LIST",
    )
    twice = [{"cidrBlock": "10.2.3.4/32"}, {"ipAddress": "10.2.3.4"}]
    assert refused(service.call("POST", entries, json=twice)) == (400, "DUPLICATE_ADDRESSES_IN_INPUT")
    assert refused(service.call("POST", f"{keys}/zzzzzzzz/accessList", json=body)) == (
        400,
        "API_KEY_NOT_FOUND",
    )


def test_status(service: Any) -> None:
    key = service.new_key(None)
    assert "version" in service.call("GET", f"{service.url}/api/ebbtide/v1/status", key=key).json()


def test_what_may_be_asked_of_a_head(service: Any) -> None:
    cluster = service.new_cluster("Asked")
    add_head(service, cluster, HeadState.FOLLOWING)
    address = f"{service.own_base}/clusters/Asked"
    assert refused(service.call("POST", f"{address}/rejoin")) == (409, "REFUSED")
    assert refused(service.call("POST", f"{address}/pause", json={"x": 1})) == (400, "INVALID_ATTRIBUTE")
    paused = service.call("POST", f"{address}/pause")
    assert (paused.status_code, paused.json()["paused"]) == (202, True)
    assert refused(service.call("POST", f"{address}/snapshots")) == (409, "HEAD_NOT_READY")
    assert "paused" not in service.call("POST", f"{address}/resume").json()
    certificate = service.call("POST", f"{address}/certificate", json={"tlsCertificate": "x"})
    assert refused(certificate) == (409, "REFUSED")
    assert refused(service.call("POST", f"{address}/certificate", json={})) == (400, "MISSING_ATTRIBUTE")

    admin = service.new_key(Role.GROUP_BACKUP_ADMIN, group_id=service.group.id)
    assert refused(service.call("POST", f"{address}/detach", key=admin)) == (401, "USER_UNAUTHORIZED")
    for _ in range(2):
        detached = service.call("POST", f"{address}/detach")
        assert (detached.status_code, detached.json()["state"]) == (202, "REMOVING")
        line = f'rs.remove("{cluster.head_host}:{cluster.head_port}")'
        assert line == detached.json()["removalCommand"]
    assert refused(service.call("POST", f"{address}/pause")) == (409, "REFUSED")


def test_a_dropped_head_is_asked_back(service: Any) -> None:
    cluster = service.new_cluster("Dropped")
    add_head(service, cluster, HeadState.REMOVED)
    assert service.call("POST", f"{service.own_base}/clusters/Dropped/rejoin").status_code == 202
    assert service.catalog.heads.find(cluster.id).rejoin_wanted
