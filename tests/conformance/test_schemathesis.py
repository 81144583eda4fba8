"""What schemathesis makes of our own description: bodies and parameters as described, and as not described.

Every operation of the families is called on a real API with a real catalog, logged in as the owner. Nothing may fail on
our side, no answer may have a status, a media type or a shape that the description lacks, and what the description does
not allow must be refused. The cases are the same in every run. Ids in paths are mostly of things that exist, or every
case would end at an unknown project.
"""

from collections.abc import Callable
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from requests.auth import HTTPDigestAuth
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ebbtide.api.openapi.description import describe
from ebbtide.api.table import OPERATIONS
from ebbtide.domain.access import Role
from ebbtide.domain.ids import new_id

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
REFUSING = [*CHECKS, negative_data_rejection]
NAMES = [operation.name for operation in OPERATIONS]


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Any]) -> Any:
    return start_service(api__caller_requests_per_minute=0, api__group_requests_per_minute=0)


@pytest.fixture(scope="module")
def described(service: Any) -> Any:
    return schemathesis.openapi.from_dict(dict(describe(service.url)))


@pytest.fixture(scope="module")
def session(service: Any) -> Any:
    with requests.Session() as opened:
        opened.auth = HTTPDigestAuth(*service.owner)
        yield opened


@pytest.fixture(scope="module")
def things(service: Any) -> dict[str, str]:
    """What the names in paths stand for."""
    snapshot = service.new_snapshot()
    cluster = service.new_cluster("Described")
    return {
        "groupId": service.group.id,
        "clusterId": cluster.id,
        "clusterName": cluster.name,
        "snapshotId": snapshot.id,
        "jobId": service.ready_job(snapshot, archive_bytes=1000).id,
        "checkpointId": new_id(),
        "publicKey": service.new_key(Role.GROUP_OWNER, group_id=service.group.id)[0],
    }


def call_all(
    described: Any,
    name: str,
    *,
    mode: GenerationMode,
    checks: list[Any],
    examples: int,
    session: Any,
    things: dict[str, str],
    url: str,
) -> None:
    operation = described.find_operation_by_id(name)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        # A failure is told as it was found: making it smaller would take minutes.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        known = {k: v for k, v in things.items() if k in (case.path_parameters or {})}
        case.path_parameters.update(known)
        answer = case.call(base_url=url, session=session, timeout=60)
        case.validate_response(answer, checks=checks)

    run()


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_answers_what_is_described(
    service: Any, described: Any, session: Any, things: dict[str, str], name: str
) -> None:
    call_all(
        described, name, mode=GenerationMode.POSITIVE, checks=CHECKS, examples=4,
        session=session, things=things, url=service.url,
    )  # fmt: skip
