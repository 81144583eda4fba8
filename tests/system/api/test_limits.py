"""What keeps the service up: limits on calls and on guessing, bounded heads, and whose word counts for an address."""

import socket
from collections.abc import Callable
from typing import Any

import pytest
import requests

from ebbtide.domain.access import Role

GROUPS = "/api/atlas/v1.0/groups"
HEAD_MAX = 64 * 1024


# With one request a minute the second is refused, however slow the machine is.


def test_a_caller_that_calls_too_often_is_told_when_to_come_back(start_service: Callable[..., Any]) -> None:
    service = start_service(api__caller_requests_per_minute=1)
    assert service.call("GET", GROUPS).status_code == 200
    refused = service.call("GET", GROUPS)
    document = refused.json()
    assert (refused.status_code, document["errorCode"]) == (429, "RATE_LIMITED")
    assert document["parameters"] == [f"calls of {service.owner[0]}", "1", "1"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    other = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    assert service.call("GET", GROUPS, key=other).status_code == 200


def test_a_group_is_limited_for_its_own_callers_and_not_used_up_by_strangers(
    start_service: Callable[..., Any],
) -> None:
    service = start_service(api__group_requests_per_minute=1)
    stranger = service.new_key(None)
    for _ in range(3):
        assert service.call("GET", f"{GROUPS}/{service.group.id}", key=stranger).status_code == 401
    other = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    assert service.call("GET", f"{GROUPS}/{service.group.id}").status_code == 200
    refused = service.call("GET", f"{GROUPS}/{service.group.id}", key=other)
    assert (refused.status_code, refused.json()["errorCode"]) == (429, "RATE_LIMITED")
    assert service.call("GET", GROUPS).status_code == 200


def test_guessing_is_slowed_and_the_right_answer_is_not_told_meanwhile(
    start_service: Callable[..., Any],
) -> None:
    service = start_service(api__failed_logins_per_minute=1)
    key = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    wrong = (key[0], "wrong")
    assert [service.call("GET", GROUPS, key=k).status_code for k in (wrong, wrong, key)] == [401, 429, 429]
    assert "Retry-After" in service.call("GET", GROUPS, key=key).headers
    assert service.call("GET", GROUPS).status_code == 200


def test_guessing_at_a_secret_is_slowed_in_oauths_shape(start_service: Callable[..., Any]) -> None:
    service = start_service(api__failed_logins_per_minute=1)
    unknown = (f"mdb_sa_id_{'0' * 24}", "mdb_sa_sk_x")
    form = {"grant_type": "client_credentials"}
    url = f"{service.url}/api/oauth/token"
    first, second = (requests.post(url, auth=unknown, data=form, timeout=30) for _ in range(2))
    assert (first.status_code, second.status_code) == (401, 429)
    assert (second.json()["error"], "Retry-After" in second.headers) == ("temporarily_unavailable", True)


def test_a_challenge_is_no_failed_login(start_service: Callable[..., Any]) -> None:
    service = start_service(api__failed_logins_per_minute=1)
    for _ in range(3):
        assert requests.get(f"{service.url}{GROUPS}", timeout=10).status_code == 401
        assert service.call("GET", GROUPS).status_code == 200


def test_a_head_that_is_too_large_is_refused(service: Any) -> None:
    fits = requests.get(f"{service.url}/health/live", headers={"X-Long": "x" * 60_000}, timeout=10)
    assert fits.status_code == 200
    for address, headers in (
        (f"{service.url}/health/live", {"X-Long": "x" * HEAD_MAX}),
        (f"{service.url}/health/live?{'x' * 60_000}", {"X-Long": "x" * 10_000}),
    ):
        answer = requests.get(address, headers=headers, timeout=10)
        assert (answer.status_code, answer.json()["errorCode"]) == (431, "REQUEST_HEAD_TOO_LARGE")

    longer = requests.get(f"{service.url}/health/live?{'x' * HEAD_MAX}", timeout=10)
    assert (longer.status_code, longer.json()["errorCode"]) == (400, "MALFORMED_REQUEST")


@pytest.mark.parametrize("beginning", [b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Long: ", b"GET /"])
def test_a_head_without_an_end_is_cut(service: Any, beginning: bytes) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        try:
            connection.sendall(beginning + b"x" * 10 * HEAD_MAX)
            assert connection.recv(1024).startswith(b"HTTP/1.1 431 ")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it hung up while we still sent


def test_a_head_that_begins_behind_a_large_body_is_taken(service: Any) -> None:
    """Two requests in one stretch, as clients that do not wait for answers send them."""
    host, port = service.url.removeprefix("http://").split(":")
    body = b"x" * 200_000
    first = (
        f"POST /api/oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(first + b"GET /health/live HTTP/1.1\r\nHo")
        connection.sendall(b"st: x\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as answers:
            text = answers.read()
    assert (text.count(b"HTTP/1.1 413 "), text.count(b"HTTP/1.1 200 ")) == (1, 1)


def test_a_forwarded_address_counts_only_from_a_trusted_proxy(start_service: Callable[..., Any]) -> None:
    trusting = start_service(api__trusted_proxies=["127.0.0.1"])
    key = trusting.new_key(Role.GROUP_READ_ONLY, group_id=trusting.group.id, allow=("192.0.2.0/24",))

    def ask(forwarded: str | None) -> int:
        headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
        return int(trusting.call("GET", GROUPS, key=key, headers=headers).status_code)

    assert [ask("192.0.2.7"), ask("198.51.100.1, 192.0.2.7")] == [200, 200]
    six = trusting.new_key(Role.GROUP_READ_ONLY, group_id=trusting.group.id, allow=("2001:db8::/32",))
    forwarded = {"X-Forwarded-For": "2001:db8::7"}
    assert trusting.call("GET", GROUPS, key=six, headers=forwarded).status_code == 200
    assert trusting.find_key(six[0]).access_list[0].last_used_address == "2001:db8::7"
    assert [ask(None), ask("198.51.100.1"), ask("192.0.2.7, 198.51.100.1"), ask("x")] == [403] * 4
    used = trusting.find_key(key[0]).access_list
    assert [entry.last_used_address for entry in used] == ["192.0.2.7"]
