"""Whatever is sent: an answer in time, never a 500, and an error document where it is refused."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebbtide.api.oauth import OauthError, parse_basic, parse_form
from ebbtide.api.operations import Operation
from ebbtide.api.table import OPERATIONS
from ebbtide.domain.ids import new_id

SECONDS = 60
# The same examples every time: a search for new ones is a run with more of them, and no business of CI.
QUICK = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)

# What they would do is not undone by the next example.
ENDING = {"removeCluster", "detachCluster"}
CALLED = [operation for operation in OPERATIONS if operation.name not in ENDING]
WRITES = [operation for operation in CALLED if operation.takes_body]

NAMES = [
    "delivery",
    "methodName",
    "expirationHours",
    "expires",
    "maxDownloads",
    "targetGroupId",
    "targetClusterId",
    "targetClusterName",
    "snapshotId",
    "checkpointId",
    "checkPointId",
    "oplogTs",
    "oplogInc",
    "pointInTimeUTCMillis",
    "doNotDelete",
    "statusName",
    "dryRun",
    "snapshotIntervalHours",
    "snapshotRetentionDays",
    "pointInTimeWindowHours",
    "referenceHourOfDay",
    "clusterId",
    "groupId",
    "referenceTimeZoneOffset",
    "name",
    "description",
    "grants",
    "role",
    "accessList",
    "ipAddress",
    "cidrBlock",
    "roles",
    "uri",
    "username",
    "password",
    "secretExpiresAfterHours",
    "mongod",
    "tlsCertificate",
    "tlsCa",
]
PARAMETERS = [
    "pageNum",
    "itemsPerPage",
    "includeCount",
    "pretty",
    "envelope",
    "batchId",
    "completed",
    "clusterName",
    "deleted",
    "retentionDays",
]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["HTTP", "AUTOMATED_RESTORE", "GROUP_OWNER", "10.0.0.0/8", "2018-12-01", "+0200", "a" * 24, "0", ""]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
BODIES = st.one_of(
    st.binary(max_size=200),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6).map(lambda value: json.dumps(value).encode()),
    st.integers(1, 20_000).map(lambda depth: b"[" * depth),
    st.sampled_from(
        [b'{"a":1,"a":2}', b'{"name":"\\ud800"}', b"1e999", b"NaN", b"\xef\xbb\xbf{}", b"9" * 10_000]
    ),
)
PAIRS = st.lists(
    st.tuples(st.sampled_from(PARAMETERS) | st.text(max_size=5), st.text(max_size=12)), max_size=5
)
QUERIES = st.one_of(
    PAIRS.map(lambda pairs: "&".join(f"{quote(k)}={quote(v)}" for k, v in pairs)),
    st.text("&=%+;#?/abpageNum0123456789-", max_size=60).map(lambda text: text.replace("#", "")),
)
HEADERS = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=300),
    st.tuples(
        st.sampled_from(["Digest ", "Bearer ", "Basic ", "digest\t", "Bearer", "Negotiate "]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300),
    ).map("".join),
    st.lists(
        st.tuples(
            st.sampled_from(["username", "realm", "nonce", "uri", "response", "nc", "cnonce", "qop", "algorithm", "opaque"]),
            st.text('abc0123456789="\\, /MMS Public API:', max_size=30),
        ),
        max_size=10,
    ).map(lambda pairs: "Digest " + ", ".join(f'{name}="{value}"' for name, value in pairs)),
    st.lists(st.binary(max_size=60).map(lambda b: base64.urlsafe_b64encode(b).decode()), min_size=3, max_size=3).map(
        lambda parts: "Bearer " + ".".join(parts)
    ),
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku"]), VALUES, max_size=4).map(
        lambda head: f"Bearer {base64.urlsafe_b64encode(json.dumps(head).encode()).rstrip(b'=').decode()}.e30.AAAA"
    ),
)  # fmt: skip


class Wire:
    """One connection to a service, logged in as its owner with a token."""

    def __init__(self, service: Any, session: requests.Session, token: str) -> None:
        self.service = service
        self.session = session
        self.token = token

    def send(self, method: str, target: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        url = f"{self.service.url}{target}"
        request = requests.Request(method, url, headers=headers, **options)
        return self.session.send(self.session.prepare_request(request), timeout=SECONDS)

    def path(self, operation: Operation) -> str:
        service = self.service
        known = {
            "groupId": service.group.id,
            "clusterName": service.cluster.name,
            "clusterId": service.cluster.id,
            "publicKey": service.owner[0],
            "entry:path": "10.9.9.9",
        }
        path = operation.path
        for segment, value in known.items():
            path = path.replace(f"{{{segment}}}", value)
        while "{" in path:
            path = f"{path.partition('{')[0]}{new_id()}{path.partition('}')[2]}"
        return path


@pytest.fixture(scope="module")
def wire(start_service: Callable[..., Any]) -> Iterator[Wire]:
    service = start_service(api__failed_logins_per_minute=0, api__caller_requests_per_minute=0)
    body = {"name": "any", "grants": [{"role": "GLOBAL_OWNER"}], "accessList": [{"ipAddress": "127.0.0.1"}]}
    made = service.call("POST", "/api/ebbtide/v1/serviceAccounts", json=body).json()
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(
            f"{service.url}/api/oauth/token",
            auth=(made["clientId"], made["secrets"][0]["secret"]),
            data={"grant_type": "client_credentials"},
            timeout=SECONDS,
        )
        yield Wire(service, session, answer.json()["access_token"])


def is_an_answer(answer: requests.Response) -> bool:
    """Not our fault, and told in JSON."""
    return answer.status_code < 500 and (not answer.content or isinstance(answer.json(), dict | list))


@QUICK
@given(operation=st.sampled_from(WRITES), body=BODIES)
def test_any_body_gets_an_answer(wire: Wire, operation: Operation, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = wire.send(operation.method, wire.path(operation), data=body, headers=headers)
    assert is_an_answer(answer), (operation.name, body, answer.text)


@QUICK
@given(operation=st.sampled_from(CALLED), query=QUERIES)
def test_any_query_gets_an_answer(wire: Wire, operation: Operation, query: str) -> None:
    body = b"[]" if operation.takes_body else None
    answer = wire.send(operation.method, f"{wire.path(operation)}?{query}", data=body)
    assert is_an_answer(answer), (operation.name, query, answer.text)


@QUICK
@given(
    header=HEADERS, path=st.sampled_from(["/api/atlas/v1.0/groups", "/api/oauth/token", "/api/oauth/revoke"])
)
def test_any_authorization_gets_an_answer(wire: Wire, header: str, path: str) -> None:
    method = "GET" if path.endswith("groups") else "POST"
    text = header.strip().encode("latin-1", "replace")
    form = {"grant_type": "client_credentials", "token": "x"}
    answer = wire.send(method, path, headers={"Authorization": text}, data=None if method == "GET" else form)
    assert answer.status_code in (400, 401), (header, answer.text)
    assert is_an_answer(answer)


@QUICK
@given(path=st.text(max_size=60))
def test_any_path_gets_an_answer(wire: Wire, path: str) -> None:
    for base in ("/", "/api/ebbtide/v1/", f"/api/atlas/v1.0/groups/{wire.service.group.id}/clusters/"):
        answer = wire.send("GET", base + quote(path, safe="/%"))
        assert is_an_answer(answer) or answer.headers["Content-Type"].startswith("text/"), (base, path)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | HEADERS)
def test_basic_credentials_are_read_or_refused(header: str) -> None:
    for text in (header, f"Basic {header}", f"Basic {base64.b64encode(header.encode()).decode()}"):
        try:
            parse_basic(text)
        except OauthError:
            pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_a_form_is_read_or_refused(content: bytes) -> None:
    try:
        parse_form(content)
    except OauthError:
        pass
