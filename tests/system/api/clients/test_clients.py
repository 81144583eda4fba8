"""Clients that other people wrote: curl, requests, httpx, Authlib, Node. None knows anything of Ebbtide.

The curl commands are those of the hosted service's manual, but for host, ids and keys.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session
from requests.auth import HTTPDigestAuth

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[3] / "scripts"

Answer = tuple[int, dict[str, Any]]
"""Status and document."""


@pytest.fixture(scope="module")
def account(service: Any) -> tuple[str, str]:
    """Client id and secret."""
    grants = [{"role": "GROUP_OWNER", "groupId": service.group.id}]
    body = {"name": "client", "grants": grants, "accessList": [{"ipAddress": "127.0.0.1"}]}
    made = service.call("POST", "/api/ebbtide/v1/serviceAccounts", json=body).json()
    return made["clientId"], made["secrets"][0]["secret"]


@pytest.fixture(scope="module")
def body(service: Any) -> dict[str, Any]:
    """Of a restore job, the smallest."""
    return {"delivery": {"methodName": "HTTP"}, "snapshotId": service.new_snapshot().id}


def curl(command: str) -> Answer:
    """Run a command of the manual; its `--include` shows the headers of every leg."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "curl"
    done = subprocess.run([*words, "--silent", "--show-error"], capture_output=True, check=True, timeout=60)
    *_, head, document = done.stdout.decode().split("\r\n\r\n")
    return int(head.split()[1]), json.loads(document)


def is_created(answer: Answer, service: Any) -> bool:
    status, document = answer
    (job,) = document["results"]
    return (status, job["groupId"], job["statusName"]) == (200, service.group.id, "IN_PROGRESS")


def test_the_manuals_curl_commands_get_and_create(service: Any, body: dict[str, Any]) -> None:
    user, password = service.owner
    listed = curl(rf"""curl --user "{user}:{password}" --digest \
      --header "Accept: application/json" \
      --header "Content-Type: application/json" \
      --include \
      --request GET "{service.base}/restoreJobs?pretty=true"
    """)
    assert (listed[0], "results" in listed[1]) == (200, True)
    created = curl(rf"""curl --user "{user}:{password}" --digest \
      --header "Accept: application/json" \
      --header "Content-Type: application/json" \
      --include \
      --request POST "{service.base}/restoreJobs?pretty=true" \
      --data '
        {{
          "delivery" : {{
            "methodName" : "HTTP"
          }},
          "snapshotId" : "{body["snapshotId"]}"
        }}'
    """)
    assert is_created(created, service)
    old = curl(
        f'curl -u "{user}:{password}" --digest -i -H "Content-Type: application/json" -X POST '
        f'"{service.url}/api/public/v1.0/groups/{service.group.id}/clusters/{service.cluster.id}/restoreJobs" '
        f"--data '{json.dumps(body)}'"
    )
    assert is_created(old, service)


def test_curl_uses_a_service_account(service: Any, account: tuple[str, str]) -> None:
    client_id, secret = account
    status, token = curl(rf"""curl --include --user "{client_id}:{secret}" \
      --header "Content-Type: application/x-www-form-urlencoded" \
      --header "Accept: application/json" \
      --request POST "{service.url}/api/oauth/token" \
      --data "grant_type=client_credentials"
    """)
    assert (status, token["token_type"]) == (200, "Bearer")
    status, groups = curl(rf"""curl --include \
      --header "Authorization: Bearer {token["access_token"]}" \
      --header "Accept: application/vnd.atlas.2023-01-01+json" \
      --request GET "{service.url}/api/atlas/v2/groups"
    """)
    assert (status, groups["results"][0]["id"]) == (200, service.group.id)


def test_requests_keeps_its_nonce_and_sends_bodies(service: Any, body: dict[str, Any]) -> None:
    with requests.Session() as session:
        session.auth = HTTPDigestAuth(*service.owner)
        url = f"{service.base}/restoreJobs"
        legs = [len(session.get(url, timeout=30).history) for _ in range(3)]
        answer = session.post(url, json=body, timeout=30)
        assert is_created((answer.status_code, answer.json()), service)
    # One challenge for all: later calls come with a higher count of the same nonce.
    assert legs == [1, 0, 0]


def test_httpx_keeps_its_nonce_and_sends_bodies(service: Any, body: dict[str, Any]) -> None:
    with httpx.Client(auth=httpx.DigestAuth(*service.owner), trust_env=False, timeout=30) as client:
        url = f"{service.base}/restoreJobs"
        answers = [client.get(url) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        answer = client.post(url, json=body)
        assert is_created((answer.status_code, answer.json()), service)


def test_authlib_fetches_uses_and_revokes_a_token(
    service: Any, account: tuple[str, str], body: dict[str, Any]
) -> None:
    with OAuth2Session(*account) as session:
        token = session.fetch_token(f"{service.url}/api/oauth/token", grant_type="client_credentials")
        assert (token["token_type"], token["expires_in"]) == ("Bearer", 3600)
        url = f"{service.url}/api/atlas/v1.0/groups"
        assert session.get(url).status_code == 200
        created = session.post(f"{service.base}/restoreJobs", json=body)
        assert is_created((created.status_code, created.json()), service)
        assert session.revoke_token(f"{service.url}/api/oauth/revoke").status_code == 200
        assert session.get(url).status_code == 401


def environment() -> dict[str, str]:
    """Without proxies; with the Node that `make test` puts beside Python where the machine has none that will do."""
    direct = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return direct | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def node_packages() -> Path:
    """A directory with the packages of the manifest; `make test` has filled it already."""
    directory = Path(sys.prefix) / "node-clients"
    done = subprocess.run(
        ["sh", str(SCRIPTS / "node-clients.sh"), str(HERE / "package.json"), str(directory)],
        capture_output=True,
        timeout=300,
        text=True,
        env=os.environ | {"PATH": environment()["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    return directory


def node(packages: Path, **asked: Any) -> list[Answer]:
    done = subprocess.run(
        ["node", str(HERE / "digest.mjs"), str(packages)],
        input=json.dumps(asked).encode(),
        capture_output=True,
        timeout=60,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr.decode()
    return [(answer["status"], answer["document"]) for answer in json.loads(done.stdout)]


def test_node_gets_and_creates(service: Any, node_packages: Path, body: dict[str, Any]) -> None:
    user, password = service.owner
    url = f"{service.base}/restoreJobs"
    answers = node(node_packages, url=url, user=user, password=password)
    assert [(status, "results" in document) for status, document in answers] == [(200, True), (200, True)]
    (created,) = node(node_packages, url=url, user=user, password=password, body=body)
    assert is_created(created, service)
