"""PATCH and DELETE of snapshots, bringing them back, and what that does to restore jobs and links."""

from datetime import timedelta
from typing import Any

import pytest
import requests

from ebbtide.backup.snapshot_changes import claim_removal, expire_links_of_deleted
from ebbtide.domain.access import Role
from ebbtide.domain.snapshot import SnapshotState

DAY = timedelta(days=1)


def patch(service: Any, snapshot: Any, body: Any, **options: Any) -> Any:
    return service.call("PATCH", f"{service.base}/snapshots/{snapshot.id}", json=body, **options)


def delete(service: Any, snapshot: Any, **options: Any) -> Any:
    return service.call("DELETE", f"{service.base}/snapshots/{snapshot.id}", **options)


def own(service: Any, snapshot: Any = None) -> str:
    path = f"{service.own_base}/clusters/{service.cluster.name}/snapshots"
    return path if snapshot is None else f"{path}/{snapshot.id}"


def code(answer: Any) -> tuple[int, Any]:
    return answer.status_code, answer.json().get("errorCode")


def test_a_snapshot_is_kept_and_let_go(service: Any) -> None:
    snapshot = service.new_snapshot(expires=service.clock.now() + DAY)
    kept = patch(service, snapshot, {"doNotDelete": True})
    assert kept.status_code == 200
    assert (kept.json()["doNotDelete"], "expires" in kept.json()) == (True, False)
    let_go = patch(service, snapshot, {"doNotDelete": False}).json()
    found = service.catalog.snapshots.find(snapshot.id)
    # The default schedule keeps for two days, counted from now on.
    assert 2 * DAY - timedelta(minutes=1) < found.expires - service.clock.now() <= 2 * DAY
    assert (let_go["doNotDelete"], let_go["expires"][:10]) == (False, str(found.expires.date()))
    # It was not kept: its time stays.
    assert let_go == patch(service, snapshot, {"doNotDelete": False}).json()


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("2048-12-01", "2048-12-01T00:00:00Z"),
        ("2048-12-01T10:00:00", "2048-12-01T10:00:00Z"),
        ("2048-12-01T10:00:00+02:00", "2048-12-01T08:00:00Z"),
        ("2018-12-01T00:00:00Z", "2018-12-01T00:00:00Z"),
    ],
)
def test_a_time_in_every_form(service: Any, sent: str, shown: str) -> None:
    answer = patch(service, service.new_snapshot(), {"expires": sent})
    assert (answer.status_code, answer.json()["expires"]) == (200, shown)


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"doNotDelete": True, "expires": "2048-12-01"}, "INVALID_ATTRIBUTE"),
        ({"doNotDelete": "yes"}, "INVALID_JSON_ATTRIBUTE"),
        ({"expires": "soon"}, "INVALID_ATTRIBUTE"),
        ({"expires": 5}, "INVALID_JSON_ATTRIBUTE"),
        ({"expires": "2048-12-01T00:00:00.5Z"}, "FRACTIONAL_TIMESTAMP"),
        ({"complete": True}, "ATTRIBUTE_READ_ONLY"),
        ({"colour": 1}, "INVALID_ATTRIBUTE"),
    ],
)
def test_bodies_that_are_refused(service: Any, body: Any, refused: str) -> None:
    snapshot = service.new_snapshot()
    assert code(patch(service, snapshot, body)) == (400, refused)
    assert service.catalog.snapshots.find(snapshot.id) == snapshot


def test_what_has_expired_cannot_be_changed_except_the_last_good_one_by_our_own_api(service: Any) -> None:
    first = service.new_snapshot(expires=service.clock.now())
    last = service.new_snapshot(expires=service.clock.now())
    for snapshot in (first, last):
        assert code(patch(service, snapshot, {"doNotDelete": True})) == (400, "ALREADY_EXPIRED")
    body = {"doNotDelete": True}
    assert code(service.call("PATCH", own(service, first), json=body)) == (400, "ALREADY_EXPIRED")
    answer = service.call("PATCH", own(service, last), json=body)
    assert (answer.status_code, answer.json()["doNotDelete"]) == (200, True)


def test_a_deleted_snapshot_is_hidden_and_can_be_brought_back(service: Any) -> None:
    snapshot = service.new_snapshot(expires=service.clock.now() + DAY)
    answer = delete(service, snapshot)
    assert (answer.status_code, answer.content) == (204, b"")
    assert code(service.call("GET", f"{service.base}/snapshots/{snapshot.id}")) == (404, "SNAPSHOT_NOT_FOUND")
    assert code(delete(service, snapshot)) == (404, "SNAPSHOT_NOT_FOUND")
    assert code(patch(service, snapshot, {"doNotDelete": True})) == (404, "SNAPSHOT_NOT_FOUND")
    for path in (f"{service.base}/snapshots?completed=all", own(service)):
        assert snapshot.id not in {s["id"] for s in service.call("GET", path).json()["results"]}
    (listed,) = (
        s
        for s in service.call("GET", f"{own(service)}?deleted=true").json()["results"]
        if s["id"] == snapshot.id
    )
    assert (listed["state"], "pruneAfter" in listed, "removed" in listed) == ("DELETED", True, False)
    assert service.call("GET", own(service, snapshot)).json()["state"] == "DELETED"

    back = service.call("POST", f"{own(service, snapshot)}/undelete")
    assert (back.status_code, back.json()["state"]) == (200, "COMPLETE")
    assert service.catalog.snapshots.find(snapshot.id) == snapshot
    refused = service.call("POST", f"{own(service, snapshot)}/undelete")
    assert code(refused) == (409, "SNAPSHOT_NOT_UNDELETABLE")


def test_nothing_comes_back_once_prune_has_begun(service: Any) -> None:
    snapshot = service.new_snapshot()
    delete(service, snapshot)
    deleted = service.catalog.snapshots.find(snapshot.id)
    assert deleted.prune_after - deleted.deleted == DAY
    assert claim_removal(deleted, catalog=service.catalog, now=service.clock.now())
    refused = service.call("POST", f"{own(service, snapshot)}/undelete")
    assert code(refused) == (409, "SNAPSHOT_NOT_UNDELETABLE")


def test_one_past_its_time_is_kept_when_it_comes_back(service: Any) -> None:
    snapshot = service.new_snapshot(expires=service.clock.now())
    delete(service, snapshot)
    back = service.call("POST", f"{own(service, snapshot)}/undelete").json()
    assert (back["doNotDelete"], "expires" in back) == (True, False)


def test_what_cannot_be_deleted(service: Any) -> None:
    taking = service.new_snapshot(state=SnapshotState.IN_PROGRESS, completed=None)
    failed = service.new_snapshot(state=SnapshotState.FAILED)
    assert code(delete(service, taking)) == (409, "SNAPSHOT_IN_PROGRESS")
    assert code(delete(service, failed)) == (404, "SNAPSHOT_NOT_FOUND")


def test_only_owners_at_listed_addresses(service: Any) -> None:
    snapshot = service.new_snapshot()
    for role in (Role.GROUP_READ_ONLY, Role.GROUP_BACKUP_ADMIN):
        key = service.new_key(role, group_id=service.group.id)
        assert code(delete(service, snapshot, key=key)) == (401, "USER_UNAUTHORIZED")
        assert code(patch(service, snapshot, {}, key=key)) == (401, "USER_UNAUTHORIZED")
    unlisted = service.new_key(Role.GROUP_OWNER, group_id=service.group.id, allow=())
    assert code(delete(service, snapshot, key=unlisted)) == (403, "IP_ADDRESS_NOT_ON_ACCESS_LIST")
    assert code(patch(service, snapshot, {}, key=unlisted)) == (403, "IP_ADDRESS_NOT_ON_ACCESS_LIST")
    owner = service.new_key(Role.GROUP_OWNER, group_id=service.group.id)
    assert delete(service, snapshot, key=owner).status_code == 204


def test_the_links_of_a_deleted_snapshot_are_dead(service: Any) -> None:
    snapshot = service.stored_snapshot({"a.wt": b"x" * 5000})
    job = service.ready_job(snapshot)
    url, _, _ = service.links(job)
    assert requests.head(url, timeout=60).status_code == 200
    delete(service, snapshot)
    assert requests.get(url, timeout=60).status_code == 410
    shown = service.call("GET", f"{service.base}/restoreJobs/{job.id}").json()
    assert (shown["statusName"], shown["delivery"]["statusName"]) == ("FINISHED", "EXPIRED")
    assert shown["delivery"]["url"] == url
    # Bringing it back gives new jobs, not the old links.
    service.call("POST", f"{own(service, snapshot)}/undelete")
    assert requests.get(url, timeout=60).status_code == 410
    assert requests.head(service.links(service.ready_job(snapshot))[0], timeout=60).status_code == 200


def test_a_link_that_becomes_ready_while_its_snapshot_is_deleted_dies_too(service: Any) -> None:
    snapshot = service.stored_snapshot({"a.wt": b"x" * 5000})
    job = service.new_job(snapshot)
    delete(service, snapshot)
    service.make_ready(job)
    expire_links_of_deleted(catalog=service.catalog, now=service.clock.now())
    assert requests.get(service.links(job)[0], timeout=60).status_code == 410


def test_no_restore_of_a_deleted_snapshot_nor_one_that_outlives_it(service: Any) -> None:
    snapshot = service.new_snapshot(expires=service.clock.now() + timedelta(hours=3))

    def restore(hours: int) -> Any:
        body = {"delivery": {"methodName": "HTTP", "expirationHours": hours}, "snapshotId": snapshot.id}
        return service.call("POST", f"{service.base}/restoreJobs", json=body)

    assert code(restore(4)) == (409, "LINK_EXPIRATION_AFTER_SNAPSHOT_DELETION")
    assert restore(2).status_code == 200
    patch(service, snapshot, {"doNotDelete": True})
    assert restore(4).status_code == 200
    delete(service, snapshot)
    assert code(restore(2)) == (409, "CANNOT_START_RESTORE_JOB_FOR_DELETED_SNAPSHOT")


def test_prune_is_asked_for_by_global_owners(service: Any) -> None:
    path = f"{service.url}/api/ebbtide/v1/repository/prune"
    owner = service.new_key(Role.GROUP_OWNER, group_id=service.group.id)
    for method, address in (("POST", path), ("GET", f"{path}/latest")):
        assert code(service.call(method, address, key=owner)) == (401, "USER_UNAUTHORIZED")
    assert service.call("GET", f"{path}/latest").status_code == 404
    asked = service.call("POST", path, json={"dryRun": True})
    assert (asked.status_code, asked.json()["state"], asked.json()["dryRun"]) == (200, "QUEUED", True)
    assert service.call("GET", f"{path}/latest").json() == asked.json()
    assert service.call("GET", f"{path}/{asked.json()['id']}").json() == asked.json()
    assert code(service.call("POST", path, json={"wet": 1})) == (400, "INVALID_ATTRIBUTE")
