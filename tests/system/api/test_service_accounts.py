"""Service accounts: tokens and their ends, secrets shown once, access lists with their own field names."""

import base64
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import requests
from structlog.testing import capture_logs

from ebbtide.domain.access import Role
from ebbtide.domain.ids import new_id

ACCOUNTS = "/api/ebbtide/v1/serviceAccounts"
GROUPS = "/api/atlas/v1.0/groups"
DEAD = 'Bearer realm="MMS Public API", error="invalid_token"'

Account = tuple[str, str]
"""(client id, secret)"""


def new_account(service: Any, *, role: Role = Role.GROUP_OWNER, **fields: Any) -> Account:
    grants = [{"role": role.value, "groupId": service.group.id}]
    body = {"name": "deploy", "grants": grants, "accessList": [{"ipAddress": "127.0.0.1"}], **fields}
    answer = service.call("POST", ACCOUNTS, json=body)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return document["clientId"], document["secrets"][0]["secret"]


def ask(
    service: Any,
    account: Account,
    *,
    path: str = "token",
    form: dict[str, str] | str | None = None,
    **more: Any,
) -> requests.Response:
    """The request of contract 4.2, to the letter."""
    pair = f"{quote_plus(account[0])}:{quote_plus(account[1])}"
    headers = {
        "Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    body = {"grant_type": "client_credentials"} if form is None else form
    return requests.post(f"{service.url}/api/oauth/{path}", headers=headers | more, data=body, timeout=60)


def token_of(service: Any, account: Account) -> str:
    return str(ask(service, account).json()["access_token"])


def use(
    service: Any, token: str, *, method: str = "GET", path: str = GROUPS, **options: Any
) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
    return requests.request(method, f"{service.url}{path}", headers=headers, timeout=60, **options)


@pytest.fixture(scope="module")
def account(service: Any) -> Account:
    return new_account(service)


@pytest.fixture
def later(service: Any) -> Iterator[Any]:
    """Puts the service's clock forward; it is put back."""
    before = service.clock.ahead

    def put_forward(**time: float) -> None:
        service.clock.ahead += timedelta(**time)

    yield put_forward
    service.clock.ahead = before


def test_a_token_lets_its_account_in_on_every_family(service: Any, account: Account) -> None:
    answer = ask(service, account)
    document = answer.json()
    assert (answer.status_code, document["token_type"], document["expires_in"]) == (200, "Bearer", 3600)
    assert {"access_token", "token_type", "expires_in"} == document.keys()
    assert "no-store" in answer.headers["Cache-Control"]
    for path in (GROUPS, "/api/public/v1.0/groups", "/api/atlas/v2/groups", "/api/ebbtide/v1/status"):
        assert use(service, document["access_token"], path=path).status_code == 200, path
    body = {"delivery": {"methodName": "HTTP"}, "snapshotId": service.new_snapshot().id}
    path = f"{GROUPS}/{service.group.id}/clusters/{service.cluster.name}/restoreJobs"
    asked = use(service, document["access_token"], method="POST", path=path, json=body)
    assert (asked.status_code, len(asked.json()["results"])) == (200, 1)


def test_credentials_have_the_documented_shapes_and_are_shown_once(service: Any, account: Account) -> None:
    client_id, secret = account
    assert re.fullmatch(r"mdb_sa_id_[a-fA-F\d]{24}", client_id)
    assert re.fullmatch(r"mdb_sa_sk_[A-Za-z0-9_-]{43}", secret)
    shown = service.call("GET", f"{ACCOUNTS}/{client_id}")
    listed = service.call("GET", ACCOUNTS)
    assert secret not in shown.text + listed.text
    (masked,) = shown.json()["secrets"]
    assert {"id", "createdAt", "expiresAt", "maskedSecretValue"} <= masked.keys()
    assert f"mdb_sa_sk_********{secret[-4:]}" == masked["maskedSecretValue"]


def test_the_last_use_of_a_secret_is_noted(service: Any) -> None:
    account = new_account(service)
    assert "lastUsedAt" not in service.call("GET", f"{ACCOUNTS}/{account[0]}").json()["secrets"][0]
    token_of(service, account)
    assert "lastUsedAt" in service.call("GET", f"{ACCOUNTS}/{account[0]}").json()["secrets"][0]


def test_dead_tokens_get_the_bearer_challenge_and_no_other(
    service: Any, account: Account, later: Any
) -> None:
    token = token_of(service, account)
    other = token_of(service, account)
    assert ask(service, account, path="revoke", form={"token": token}).status_code == 200
    head, claims, signature = other.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    dead = [
        token,
        "",
        "x",
        "a.b.c",
        f"{head}.{claims}.",
        f"{none}.{claims}.",
        f"{none}.{claims}.{signature}",
        "x" * 5000,
    ]
    for text in dead:
        answer = use(service, text)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, DEAD), text[:20]
        assert {"error", "reason", "detail"} == answer.json().keys()
    assert use(service, other).status_code == 200
    later(minutes=50)
    assert use(service, other).status_code == 200
    later(minutes=11)
    assert (use(service, other).status_code, use(service, other).headers["WWW-Authenticate"]) == (401, DEAD)


def test_revoking_answers_200_without_a_body_and_never_ends_anothers_token(
    service: Any, account: Account
) -> None:
    other = new_account(service)
    token = token_of(service, other)
    for text in (token, "x", "x" * 3000):
        form = {"token": text, "token_type_hint": "access_token"}
        answer = ask(service, account, path="revoke", form=form)
        assert (answer.status_code, answer.content) == (200, b"")
    assert use(service, token).status_code == 200
    assert ask(service, account, path="revoke", form={"token_type_hint": "x"}).status_code == 400


@pytest.mark.parametrize(
    ("form", "status", "code"),
    [
        ({}, 400, "invalid_request"),
        ({"grant_type": ""}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ("grant_type=client_credentials&grant_type=client_credentials", 400, "invalid_request"),
        ("grant_type=%ff", 400, "invalid_request"),
        ("a=b&" * 100, 400, "invalid_request"),
        ("a" * 10_000, 413, "invalid_request"),
    ],
)
def test_bad_forms_are_refused_in_oauths_shape(
    service: Any, account: Account, form: dict[str, str] | str, status: int, code: str
) -> None:
    answer = ask(service, account, form=form)
    assert (status, code) == (answer.status_code, answer.json()["error"])
    assert {"error", "error_description"} == answer.json().keys()


def test_bad_credentials_are_refused_in_oauths_shape(service: Any, account: Account) -> None:
    client_id, secret = account
    wrong = (client_id, secret[:-1] + ("a" if secret[-1] != "a" else "b"))
    unknown = (f"mdb_sa_id_{new_id()}", secret)
    for pair in (wrong, unknown):
        answer = ask(service, pair)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert ask(service, wrong).content == ask(service, unknown).content
    for pair in (("zmmrboas", secret), (client_id, "password"), ("", "")):
        answer = ask(service, pair)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    for header in ("Basic !", "Basic", "Basic " + base64.b64encode(b"\xff\xfe").decode()):
        assert ask(service, account, Authorization=header).status_code == 400
    for header in ("", "Digest x", "Bearer y"):
        answer = ask(service, account, Authorization=header)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    answer = ask(service, account, **{"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_pretty_and_envelope_are_accepted(service: Any, account: Account) -> None:
    answer = ask(service, account, path="token?pretty=true&envelope=true")
    assert (answer.json()["status"], answer.json()["content"]["expires_in"]) == (200, 3600)
    assert b"\n" in answer.content
    refused = ask(service, account, path="token?envelope=true", form={"grant_type": "x"})
    assert refused.json()["content"]["error"] == "unsupported_grant_type"


def test_an_expired_secret_gets_no_token(service: Any, later: Any) -> None:
    account = new_account(service, secretExpiresAfterHours=8)
    later(hours=8)
    answer = ask(service, account)
    assert (
        answer.status_code,
        answer.json()["error"],
        answer.json()["error_description"],
    ) == (400, "invalid_grant", "Invalid grant.")


def test_a_hundred_tokens_live_at_most(service: Any, later: Any) -> None:
    account = new_account(service)
    with requests.Session() as session:
        session.auth = account
        form = {"grant_type": "client_credentials"}
        url = f"{service.url}/api/oauth/token"
        tokens = [session.post(url, data=form, timeout=60).json()["access_token"] for _ in range(100)]
    refused = ask(service, account)
    assert (refused.status_code, refused.json()["error"]) == (403, "access_denied")
    assert ask(service, account, path="revoke", form={"token": tokens[0]}).status_code == 200
    assert ask(service, account).status_code == 200
    assert ask(service, account).status_code == 403
    later(hours=1)
    assert ask(service, account).status_code == 200


def test_secrets_are_rotated_one_beside_the_other(service: Any) -> None:
    client_id, first = new_account(service)
    path = f"{ACCOUNTS}/{client_id}/secrets"
    added = service.call("POST", path, json={"secretExpiresAfterHours": 24}).json()
    (second,) = [s["secret"] for s in added["secrets"] if "secret" in s]
    assert service.call("POST", path).status_code == 409
    assert [ask(service, (client_id, s)).status_code for s in (first, second)] == [200, 200]
    left = service.call("DELETE", f"{path}/{added['secrets'][0]['id']}").json()
    assert len(left["secrets"]) == 1
    assert [ask(service, (client_id, s)).status_code for s in (first, second)] == [401, 200]
    assert service.call("DELETE", f"{path}/{new_id()}").status_code == 404
    for hours in (7, 8761, "24"):
        assert service.call("POST", path, json={"secretExpiresAfterHours": hours}).status_code == 400


def test_an_account_that_is_removed_is_out_at_once(service: Any) -> None:
    account = new_account(service)
    token = token_of(service, account)
    assert service.call("DELETE", f"{ACCOUNTS}/{account[0]}").status_code == 204
    assert use(service, token).status_code == 401
    assert ask(service, account).status_code == 401


def test_the_access_list_governs_the_use_of_a_token_and_not_its_creation(service: Any) -> None:
    account = new_account(service, accessList=[{"cidrBlock": "10.1.2.0/24"}])
    token = token_of(service, account)
    answer = use(service, token)
    assert (answer.status_code, answer.json()["errorCode"]) == (403, "IP_ADDRESS_NOT_ON_ACCESS_LIST")
    assert f"ebbtide service-accounts allow {account[0]} 127.0.0.1/32" in answer.json()["detail"]
    assert ask(service, account, path="revoke", form={"token": token}).status_code == 200


def test_entries_have_the_field_names_of_service_accounts(service: Any, account: Account) -> None:
    use(service, token_of(service, account))
    path = f"{ACCOUNTS}/{account[0]}/accessList"
    (entry,) = service.call("GET", path).json()["results"]
    assert {
        "cidrBlock",
        "ipAddress",
        "createdAt",
        "lastUsedAt",
        "lastUsedAddress",
        "requestCount",
        "links",
    } == entry.keys()
    assert (entry["cidrBlock"], entry["ipAddress"]) == ("127.0.0.1/32", "127.0.0.1")
    assert entry["requestCount"] >= 1
    one = service.call("GET", f"{path}/{quote('127.0.0.1/32', safe='')}").json()
    assert entry["createdAt"] == one["createdAt"]
    assert service.call("GET", f"{path}/10.0.0.1").json()["errorCode"] == "ACCESS_LIST_NOT_FOUND"
    token = token_of(service, account)
    removal = use(service, token, method="DELETE", path=f"{path}/127.0.0.1")
    assert removal.json()["errorCode"] == "CANNOT_REMOVE_CALLER_FROM_ACCESS_LIST"


def test_roles_bind_an_account_as_they_bind_a_key(service: Any) -> None:
    reader = token_of(service, new_account(service, role=Role.GROUP_READ_ONLY))
    path = f"{GROUPS}/{service.group.id}/clusters/{service.cluster.name}/restoreJobs"
    assert use(service, reader, path=path).status_code == 200
    refused = use(service, reader, method="POST", path=path, json={})
    assert (refused.status_code, refused.json()["errorCode"]) == (401, "USER_UNAUTHORIZED")
    assert "WWW-Authenticate" not in refused.headers


def test_a_lost_signing_key_costs_the_tokens_only(service: Any, account: Account) -> None:
    """As after the loss of the service key: what cannot be opened is left, and a new key is made."""
    old = token_of(service, account)
    sealed = service.catalog.signing_keys.newest()
    service.catalog._client["ebbtide"].signing_keys.update_many({}, {"$set": {"key.key_id": "another"}})
    assert sealed is not None
    assert use(service, token_of(service, account)).status_code == 200
    assert service.catalog.signing_keys.newest().id != sealed.id
    assert use(service, old).status_code == 200  # this process still knows the old key


def test_neither_secrets_nor_tokens_are_logged(service: Any) -> None:
    with capture_logs() as logged:
        account = new_account(service)
        token = token_of(service, account)
        use(service, token)
        use(service, token[:-1])
        ask(service, (account[0], account[1][:-1]))
        ask(service, account, path="revoke", form={"token": token})
        # A line is written after its answer was sent.
        service.wait_until(lambda: any(line.get("path") == "/api/oauth/revoke" for line in logged))
    for secret in (account[1], token):
        # Nor most of one: a wrong one may be nearly right.
        assert secret[:-1] not in str(logged)
