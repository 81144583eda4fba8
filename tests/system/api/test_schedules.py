"""The snapshot schedule: defaults, partial changes, and what real clients send along."""

from collections.abc import Iterator
from typing import Any

import pytest

from ebbtide.domain.access import Role
from ebbtide.domain.ids import new_id

DEFAULTS = {
    "snapshotIntervalHours": 6,
    "snapshotRetentionDays": 2,
    "dailySnapshotRetentionDays": 7,
    "weeklySnapshotRetentionWeeks": 4,
    "monthlySnapshotRetentionMonths": 13,
    "pointInTimeWindowHours": 24,
}


@pytest.fixture
def atlas(service: Any) -> Iterator[str]:
    yield f"{service.base}/snapshotSchedule"
    service.catalog._database.schedules.delete_many({})


@pytest.fixture
def own(service: Any) -> str:
    return f"{service.own_base}/clusters/{service.cluster.name}/snapshotSchedule"


def test_the_defaults(service: Any, atlas: str, own: str) -> None:
    ids = {"clusterId": service.cluster.id, "groupId": service.group.id}
    document = service.call("GET", atlas).json()
    assert document.pop("links")[0]["href"] == atlas
    assert document == DEFAULTS | ids
    # The first snapshot comes an interval after registration, so its time of day is the schedule's.
    created = service.cluster.created
    ours = service.call("GET", own).json()
    assert (ours["referenceHourOfDay"], ours["referenceMinuteOfHour"]) == (created.hour, created.minute)
    assert ours["referenceTimeZoneOffset"] == "+0000"


def test_a_change_leaves_the_rest(service: Any, atlas: str) -> None:
    body = {"snapshotRetentionDays": 3, "monthlySnapshotRetentionMonths": 2}
    answer = service.call("PATCH", atlas, json=body)
    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in DEFAULTS} == DEFAULTS | body
    assert service.call("GET", atlas).json() == answer.json()
    events = service.catalog.events.page(service.group.id, cluster_id=None, skip=0, limit=1)
    assert events[0].kind == "schedule.changed"


def test_empty_ids_and_zeroes_of_real_clients_count_as_not_sent(service: Any, atlas: str) -> None:
    body = {"clusterId": "", "groupId": "", "clusterCheckpointIntervalMin": 0, "pointInTimeWindowHours": 0}
    answer = service.call("PATCH", atlas, json={**body, "snapshotIntervalHours": 12})
    assert (answer.status_code, answer.json()["snapshotIntervalHours"]) == (200, 12)
    assert answer.json()["pointInTimeWindowHours"] == 24
    same = {"clusterId": service.cluster.id, "groupId": service.group.id}
    assert service.call("PATCH", atlas, json=same).status_code == 200


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"snapshotIntervalHours": 7}, "INVALID_SNAPSHOT_INTERVAL"),
        ({"snapshotIntervalHours": 0}, "INVALID_SNAPSHOT_INTERVAL"),
        ({"snapshotIntervalHours": "6"}, "INVALID_JSON_ATTRIBUTE"),
        ({"snapshotRetentionDays": 6}, "INVALID_SNAPSHOT_RETENTION_PERIOD"),
        ({"dailySnapshotRetentionDays": 1}, "INVALID_DAILY_SNAPSHOT_RETENTION_PERIOD"),
        ({"weeklySnapshotRetentionWeeks": 9}, "INVALID_WEEKLY_SNAPSHOT_RETENTION_PERIOD"),
        ({"monthlySnapshotRetentionMonths": 14}, "INVALID_MONTHLY_SNAPSHOT_RETENTION_PERIOD"),
        ({"pointInTimeWindowHours": -1}, "CANNOT_SET_POINT_IN_TIME_WINDOW"),
        ({"clusterCheckpointIntervalMin": 15}, "CANNOT_SET_CLUSTER_CHECKPOINT_INTERVAL_FOR_REPLICA_SET"),
        ({"referenceHourOfDay": 3}, "INVALID_ATTRIBUTE"),
        ({"clusterId": new_id()}, "INVALID_ATTRIBUTE"),
        ({"groupId": new_id()}, "GROUP_MISMATCH"),
        ({"links": []}, "ATTRIBUTE_READ_ONLY"),
        ({"colour": 1}, "INVALID_ATTRIBUTE"),
    ],
)
def test_what_is_refused(service: Any, atlas: str, body: Any, refused: str) -> None:
    answer = service.call("PATCH", atlas, json=body)
    assert (answer.status_code, answer.json()["errorCode"]) == (400, refused)
    assert {name: service.call("GET", atlas).json()[name] for name in DEFAULTS} == DEFAULTS


def test_the_reference_time_is_set_by_our_own_api(service: Any, atlas: str, own: str) -> None:
    body = {"referenceHourOfDay": 3, "referenceMinuteOfHour": 30, "referenceTimeZoneOffset": "-0800"}
    answer = service.call("PATCH", own, json=body)
    assert answer.status_code == 200
    assert body.items() <= answer.json().items()
    assert body.keys().isdisjoint(service.call("GET", atlas).json())
    # The moments of the new schedule that have passed were not missed.
    schedule = service.catalog.schedules.get(service.cluster)
    assert schedule.counts_from > service.cluster.created
    for name, bad, refused in (
        ("referenceHourOfDay", 24, "INVALID_REFERENCE_HOUR_OF_DAY"),
        ("referenceMinuteOfHour", 60, "INVALID_REFERENCE_MINUTE_OF_HOUR"),
        ("referenceTimeZoneOffset", "CET", "INVALID_REFERENCE_TIMEZONE_OFFSET"),
    ):
        answer = service.call("PATCH", own, json={name: bad})
        assert (answer.status_code, answer.json()["errorCode"]) == (400, refused)


def test_readers_see_it_and_owners_change_it(service: Any, atlas: str) -> None:
    reader = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    assert service.call("GET", atlas, key=reader).status_code == 200
    answer = service.call("PATCH", atlas, json={}, key=reader)
    assert (answer.status_code, answer.json()["errorCode"]) == (401, "USER_UNAUTHORIZED")
    assert service.call("PATCH", atlas, json={}).status_code == 200
