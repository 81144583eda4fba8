"""Who gets in: digest with several clients, replayed nonces, access lists, roles."""

import hashlib
import http.client
import json
import re
import subprocess
from datetime import timedelta
from typing import Any

import httpx
import requests
from requests.auth import HTTPDigestAuth

from ebbtide.domain.access import Role
from ebbtide.domain.group import Group
from ebbtide.domain.ids import GroupId, new_id

GROUPS = "/api/atlas/v1.0/groups"
CHALLENGE = re.compile(
    r'Digest realm="MMS Public API", domain="", nonce="([A-Za-z0-9+/=]{32})", algorithm=MD5, qop="auth", '
    r"stale=(true|false)"
)


def answer_to(challenge: str, *, user: str, password: str, uri: str, nc: int = 1, method: str = "GET") -> str:
    """The header of a client that quotes the algorithm, as MongoDB's own does."""
    match = CHALLENGE.fullmatch(challenge)
    if match is None:
        raise ValueError(challenge)
    nonce = match.group(1)

    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    ha1 = md5(f"{user}:MMS Public API:{password}")
    ha2 = md5(f"{method}:{uri}")
    response = md5(f"{ha1}:{nonce}:{nc:08x}:abc:auth:{ha2}")
    return (
        f'Digest username="{user}", realm="MMS Public API", nonce="{nonce}", uri="{uri}", cnonce="abc", '
        f'nc={nc:08x}, qop="auth", response="{response}", algorithm="MD5"'
    )


def challenge_of(service: Any) -> str:
    answer = requests.get(f"{service.url}{GROUPS}", timeout=60)
    assert answer.status_code == 401
    return str(answer.headers["WWW-Authenticate"])


def test_the_challenge_is_to_the_letter(service: Any) -> None:
    match = CHALLENGE.fullmatch(challenge_of(service))
    assert match is not None
    assert match.group(2) == "false"


def test_curl_requests_and_httpx_log_in(service: Any) -> None:
    user, password = service.owner
    url = f"{service.url}{GROUPS}?pretty=true"
    shown = subprocess.run(
        ["curl", "-sS", "--fail", "--digest", "--user", f"{user}:{password}", url],
        capture_output=True,
        check=True,
    )
    assert service.group.id.encode() in shown.stdout
    with requests.Session() as session:
        session.auth = HTTPDigestAuth(user, password)
        assert [session.get(url, timeout=60).status_code for _ in range(3)] == [200, 200, 200]
    with httpx.Client(auth=httpx.DigestAuth(user, password)) as client:
        assert [client.get(url).status_code for _ in range(3)] == [200, 200, 200]


def test_a_nonce_may_be_used_again_with_a_rising_count_only(service: Any) -> None:
    user, password = service.owner
    challenge = challenge_of(service)

    def use(nc: int) -> requests.Response:
        header = answer_to(challenge, user=user, password=password, uri=GROUPS, nc=nc)
        return requests.get(f"{service.url}{GROUPS}", headers={"Authorization": header}, timeout=60)

    assert use(1).status_code == 200
    replayed = use(1)
    assert (replayed.status_code, "WWW-Authenticate" in replayed.headers) == (401, True)
    assert use(5).status_code == 200
    assert use(4).status_code == 401


def test_an_expired_nonce_gets_a_stale_challenge(service: Any) -> None:
    user, password = service.owner
    challenge = challenge_of(service)
    header = answer_to(challenge, user=user, password=password, uri=GROUPS)
    service.clock.ahead += timedelta(seconds=301)
    try:
        answer = requests.get(f"{service.url}{GROUPS}", headers={"Authorization": header}, timeout=60)
        assert answer.status_code == 401
        match = CHALLENGE.fullmatch(answer.headers["WWW-Authenticate"])
        assert match is not None
        assert match.group(2) == "true"
        wrong = answer_to(challenge, user=user, password="wrong", uri=GROUPS)
        answer = requests.get(f"{service.url}{GROUPS}", headers={"Authorization": wrong}, timeout=60)
        assert "stale=false" in answer.headers["WWW-Authenticate"]
    finally:
        service.clock.ahead -= timedelta(seconds=301)


def test_an_answer_counts_for_its_own_address_and_method_only(service: Any) -> None:
    user, password = service.owner
    header = answer_to(challenge_of(service), user=user, password=password, uri=GROUPS)
    stolen = {"Authorization": header}
    assert requests.get(f"{service.url}{GROUPS}?pageNum=2", headers=stolen, timeout=60).status_code == 401
    assert requests.post(f"{service.url}{GROUPS}/x", headers=stolen, timeout=60).status_code in (401, 405)


def test_wrong_and_unknown_keys_are_told_the_same(service: Any) -> None:
    user, _ = service.owner
    wrong = service.call("GET", GROUPS, key=(user, "wrong"))
    unknown = service.call("GET", GROUPS, key=("nobodyno", "wrong"))
    assert (wrong.status_code, wrong.content) == (unknown.status_code, unknown.content)
    for header in (
        "Digest",
        "Digest x",
        "Basic eDp5",
        'Digest username="a',
        "Digest " + "a=b," * 2000,
    ):
        answer = requests.get(f"{service.url}{GROUPS}", headers={"Authorization": header}, timeout=60)
        assert answer.status_code == 401
        assert CHALLENGE.fullmatch(answer.headers["WWW-Authenticate"])


def test_an_unknown_caller_never_makes_us_judge_a_body(service: Any) -> None:
    answer = requests.post(f"{service.base}/restoreJobs", data=b"x" * 3_000_000, timeout=60)
    assert answer.status_code == 401
    with requests.Session() as session:
        session.auth = HTTPDigestAuth(*service.owner)
        again = session.post(f"{service.base}/restoreJobs", data=b"x" * 3_000_000, timeout=60)
        assert again.status_code == 413


def test_a_refused_address_is_named_with_the_command_that_allows_it(service: Any) -> None:
    key = service.new_key(Role.GROUP_OWNER, group_id=service.group.id, allow=("10.1.2.0/24",))
    answer = service.call("GET", GROUPS, key=key, headers={"X-Forwarded-For": "10.1.2.3"})
    document = answer.json()
    assert (answer.status_code, document["errorCode"]) == (403, "IP_ADDRESS_NOT_ON_ACCESS_LIST")
    assert "IP address 127.0.0.1 is not allowed to access this resource." in document["detail"]
    assert f"ebbtide keys allow {key[0]} 127.0.0.1/32" in document["detail"]
    assert "WWW-Authenticate" not in answer.headers


def test_an_empty_access_list_allows_reading_but_no_restore(service: Any) -> None:
    key = service.new_key(Role.GROUP_OWNER, group_id=service.group.id, allow=())
    assert service.call("GET", f"{service.base}/restoreJobs", key=key).status_code == 200
    answer = service.call("POST", f"{service.base}/restoreJobs", key=key, json={})
    assert (answer.status_code, answer.json()["errorCode"]) == (403, "IP_ADDRESS_NOT_ON_ACCESS_LIST")


def test_use_is_noted_on_the_entry_that_let_the_caller_in(service: Any) -> None:
    key = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    service.call("GET", GROUPS, key=key)
    used = service.find_key(key[0]).access_list
    assert [(e.last_used_address, e.count) for e in used] == [("127.0.0.1", 1), (None, 0)]


def test_every_use_is_counted_though_not_every_one_is_written(service: Any) -> None:
    key = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    for _ in range(3):
        service.call("GET", GROUPS, key=key)
    service.clock.ahead += timedelta(seconds=11)
    try:
        service.call("GET", GROUPS, key=key)
    finally:
        service.clock.ahead -= timedelta(seconds=11)
    assert service.find_key(key[0]).access_list[0].count == 4


def test_a_client_that_never_reuses_a_nonce_and_sends_its_body_twice(service: Any) -> None:
    """As MongoDB's own Go client does: two round trips on one connection, the body in both, quoted algorithm."""
    user, password = service.owner
    body = json.dumps({"delivery": {"methodName": "HTTP"}, "snapshotId": service.new_snapshot().id})
    path = f"{service.base.removeprefix(service.url)}/restoreJobs?pretty=true"
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=30)
    try:
        for _ in range(2):
            connection.request("POST", path, body=body, headers={"Content-Type": "application/json"})
            first = connection.getresponse()
            first.read()
            used = connection.sock
            challenge = str(first.headers["WWW-Authenticate"])
            answer = answer_to(challenge, user=user, password=password, uri=path, method="POST")
            headers = {"Content-Type": "application/json", "Authorization": answer}
            connection.request("POST", path, body=body, headers=headers)
            second = connection.getresponse()
            assert (first.status, second.status, connection.sock is used) == (401, 200, True)
            assert len(json.loads(second.read())["results"]) == 1
    finally:
        connection.close()


def test_roles_decide_what_may_be_done_and_seen(service: Any) -> None:
    job = service.ready_job(service.new_snapshot(), archive_bytes=1000)
    address = f"{service.base}/restoreJobs/{job.id}"
    secret = {"url", "urlV2", "authHeader", "authBearer", "authValue"}
    shown = service.call("GET", address).json()["delivery"]
    assert secret <= shown.keys()
    for role in (Role.GROUP_READ_ONLY, Role.GROUP_BACKUP_ADMIN):
        key = service.new_key(role, group_id=service.group.id)
        answer = service.call("GET", address, key=key)
        assert not secret & answer.json()["delivery"].keys()
        assert service.download_key(job) not in answer.text
        assert "expires" in answer.json()["delivery"]
        refused = service.call("POST", f"{service.base}/restoreJobs", key=key, json={})
        assert (refused.status_code, refused.json()["errorCode"]) == (401, "USER_UNAUTHORIZED")
        assert "WWW-Authenticate" not in refused.headers
    own = service.new_key(Role.GROUP_OWNER, group_id=service.group.id)
    assert secret <= service.call("GET", address, key=own).json()["delivery"].keys()


def test_groups_are_the_callers_own(service: Any) -> None:
    other = Group(id=GroupId(new_id()), name="Other", created=service.clock.now())
    service.catalog.groups.insert(other)
    key = service.new_key(Role.GROUP_READ_ONLY, group_id=other.id)
    listed = service.call("GET", GROUPS, key=key).json()
    assert [other.id] == [group["id"] for group in listed["results"]]
    foreign = service.call("GET", f"{GROUPS}/{service.group.id}", key=key)
    unknown = service.call("GET", f"{GROUPS}/{new_id()}", key=key)
    for answer in (foreign, unknown):
        assert (answer.status_code, answer.json()["errorCode"]) == (401, "NOT_IN_GROUP")
    nobody = service.new_key(None)
    assert service.call("GET", GROUPS, key=nobody).json()["totalCount"] == 0


def test_links_come_from_the_configuration_never_from_the_host_header(service: Any) -> None:
    answer = service.call("GET", GROUPS, headers={"Host": "evil.example"})
    assert "evil.example" not in answer.text
    assert answer.json()["links"][0]["href"].startswith(service.url)
    assert "server" not in answer.headers
