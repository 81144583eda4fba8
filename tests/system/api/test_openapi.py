"""The API's description of itself: complete, open to read, and readable without the rest of the world."""

import re
from typing import Any

import pytest
import requests

from ebbtide.api.openapi.facts import UNKNOWN, facts_of
from ebbtide.api.table import OPERATIONS


def get(service: Any, path: str) -> requests.Response:
    return requests.get(f"{service.url}{path}", timeout=30)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_says_what_it_answers(operation: Any) -> None:
    assert facts_of(operation) is not UNKNOWN, "describe it in ebbtide.api.openapi.facts"
    assert (facts_of(operation).request is not None) is operation.takes_body


def test_names_of_operations_are_unique() -> None:
    names = [operation.name for operation in OPERATIONS]
    assert len(names) == len(set(names))


def test_the_description_is_served_without_login_and_holds_every_operation(service: Any) -> None:
    answer = get(service, "/api/openapi.json")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    document = answer.json()
    assert document["servers"] == [{"url": service.url}]
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert {(o.method, o.path.replace(":path}", "}")) for o in OPERATIONS} <= described
    summaries = [o["summary"] for methods in document["paths"].values() for o in methods.values()]
    assert all(summary and not summary.endswith(".") for summary in summaries)


def test_the_second_version_is_described_with_its_media_type(service: Any) -> None:
    paths = get(service, "/api/openapi.json").json()["paths"]
    schedule = paths["/api/atlas/v2/groups/{groupId}/clusters/{clusterName}/snapshotSchedule"]["patch"]
    media_type = "application/vnd.atlas.2023-01-01+json"
    assert [media_type] == list(schedule["requestBody"]["content"])
    assert [media_type] == list(schedule["responses"]["200"]["content"])


def test_the_page_needs_nothing_from_elsewhere(service: Any) -> None:
    page = get(service, "/api/docs")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"<script|style=|\son\w+=", page.text) == []
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert set(loaded) == {"/api/docs.css", "/api/openapi.json"}
    assert get(service, "/api/docs.css").headers["Content-Type"].startswith("text/css")
    assert all(operation.path.replace(":path}", "}") in page.text for operation in OPERATIONS)


@pytest.mark.parametrize("path", ["/api/openapi.json", "/api/docs", "/api/docs.css"])
def test_it_can_only_be_read(service: Any, path: str) -> None:
    assert requests.head(f"{service.url}{path}", timeout=30).status_code == 200
    refused = requests.post(f"{service.url}{path}", timeout=30)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
