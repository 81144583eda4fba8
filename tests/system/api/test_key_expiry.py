"""A key that was made with an end: shown, told of, and refused from then on."""

from datetime import timedelta
from typing import Any

import pytest

from ebbtide.api.wire import iso_date
from ebbtide.worker.key_expiry import tell_key_expiry

GROUPS = "/api/atlas/v1.0/groups"
KEYS = "/api/ebbtide/v1/keys"


@pytest.fixture
def moved(service: Any) -> Any:
    """Puts the clock forward, until the test ends."""

    def move(**ahead: float) -> None:
        service.clock.ahead = timedelta(**ahead)

    yield move
    service.clock.ahead = timedelta(0)


def make_key(service: Any, **body: Any) -> Any:
    grants = [{"role": "GROUP_READ_ONLY", "groupId": service.group.id}]
    return service.call("POST", KEYS, json={"grants": grants, **body})


def events_about(service: Any, key_id: str) -> list[tuple[str, str]]:
    found = service.call("GET", f"{service.own_base}/events").json()["results"]
    return [(event["kind"], event["level"]) for event in found if event.get("subjectId") == key_id]


def test_a_key_is_refused_from_its_end_on_and_its_holder_is_told_why(service: Any, moved: Any) -> None:
    end = iso_date(service.clock.now() + timedelta(hours=1))
    made = make_key(service, expires=end).json()
    key = (made["publicKey"], made["privateKey"])
    assert made["expires"] == end
    assert service.call("GET", f"{KEYS}/{key[0]}").json()["expires"] == end
    assert service.call("GET", GROUPS, key=key).status_code == 200
    moved(hours=1)
    refused = service.call("GET", GROUPS, key=key)
    assert (refused.status_code, refused.json()["errorCode"]) == (401, "API_KEY_EXPIRED")
    assert end in refused.json()["detail"]
    assert "WWW-Authenticate" not in refused.headers
    guessed = service.call("GET", GROUPS, key=(key[0], "wrong"))
    assert (guessed.status_code, "errorCode" in guessed.json()) == (401, False)


@pytest.mark.parametrize("expires", ["2020-01-01", "tomorrow", 7, "2999-01-01T00:00:00.5Z"])
def test_an_end_that_makes_no_sense_is_refused_by_name(service: Any, expires: Any) -> None:
    answer = make_key(service, expires=expires)
    assert answer.status_code == 400
    assert [field["field"] for field in answer.json()["badRequestDetail"]["fields"]] == ["expires"]


def test_each_end_is_told_once_before_and_once_after(service: Any, moved: Any) -> None:
    made = make_key(service, expires=iso_date(service.clock.now() + timedelta(days=100))).json()
    key_id = service.find_key(made["publicKey"]).id
    told = []
    for days in (80, 87, 90, 101, 120):
        moved(days=days)
        for _ in range(2):
            tell_key_expiry(service.catalog, service.clock)
        told.append([kind for kind, _ in events_about(service, key_id)])
    assert told == [
        ["key.created"],
        ["key.ends_soon", "key.created"],
        ["key.ends_soon", "key.created"],
        ["key.ended", "key.ends_soon", "key.created"],
        ["key.ended", "key.ends_soon", "key.created"],
    ]
    assert {level for kind, level in events_about(service, key_id) if kind != "key.created"} == {"WARNING"}
