"""What schemathesis makes of our own description and of the official one: calls as described, and as not described.

Every operation of the families is called on a real API with a real catalog, logged in as the owner. Nothing may fail on
our side, and no answer may have a status, a media type or a shape that the description lacks. The cases are the same in
every run. Ids in paths are of things that exist, or every case would end at an unknown project.
"""

from collections.abc import Callable, Container, Mapping
from types import MappingProxyType
from typing import Any

import conformance_reference as reference
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from requests.auth import HTTPDigestAuth
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ebbtide.api.families import Family
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
# The second version of Atlas has the first one's handlers; what is not as described meets them once.
FEW = [operation.name for operation in OPERATIONS if operation.family is not Family.ATLAS_V2]
ALL = [operation.name for operation in OPERATIONS]
OFFICIAL = sorted(
    operation["operationId"]
    for methods in reference.openapi()["paths"].values()
    for operation in methods.values()
    if isinstance(operation, dict) and "operationId" in operation
)


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Any]) -> Any:
    return start_service(api__caller_requests_per_minute=0, api__group_requests_per_minute=0)


@pytest.fixture(scope="module")
def described(service: Any) -> Any:
    return schemathesis.openapi.from_dict(dict(describe(service.url)))


@pytest.fixture(scope="module")
def official() -> Any:
    return schemathesis.openapi.from_dict(reference.openapi())


@pytest.fixture(scope="module")
def official_cluster(service: Any) -> str:
    """A cluster of its own: a schedule that Ops Manager's ranges were used on has values that Atlas does not know."""
    return str(service.new_cluster("Official").name)


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


@pytest.fixture(scope="module")
def try_operation(service: Any, session: Any, things: dict[str, str]) -> Callable[..., None]:
    """Calls one operation of a description some times, and checks each answer."""

    def call(
        description: Any,
        name: str,
        mode: GenerationMode,
        *,
        examples: int,
        checks: Any = CHECKS,
        also: Mapping[str, str] = MappingProxyType({}),
        leave_out: Container[str] = (),
    ) -> None:
        operation = description.find_operation_by_id(name)

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
            named = case.path_parameters or {}
            case.path_parameters.update({k: value for k, value in {**things, **also}.items() if k in named})
            case.query = {k: value for k, value in (case.query or {}).items() if k not in leave_out}
            answer = case.call(base_url=service.url, session=session, timeout=60)
            case.validate_response(answer, checks=list(checks))

        run()

    return call


@pytest.mark.parametrize("name", ALL)
def test_what_is_described_is_answered_as_described(
    described: Any, try_operation: Callable[..., None], name: str
) -> None:
    try_operation(described, name, GenerationMode.POSITIVE, examples=3)


@pytest.mark.parametrize("name", FEW)
def test_what_is_not_described_is_answered_as_described(
    described: Any, try_operation: Callable[..., None], name: str
) -> None:
    try_operation(described, name, GenerationMode.NEGATIVE, examples=2)


@pytest.fixture(scope="module")
def try_official(
    official: Any, official_cluster: str, try_operation: Callable[..., None]
) -> Callable[[str, int], None]:
    """Its shapes hold for what it describes; of statuses and media types it knows fewer than there are."""

    def call(name: str, examples: int) -> None:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try_operation(
                official,
                name,
                mode,
                examples=examples,
                checks=(not_a_server_error, response_schema_conformance),
                also={"clusterName": official_cluster},
                # It takes the parameter and does not describe what comes back then.
                leave_out=("envelope",),
            )

    return call


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_description_fits_too(try_official: Callable[[str, int], None], name: str) -> None:
    try_official(name, 3)


@pytest.mark.long
@pytest.mark.parametrize("name", OFFICIAL)
def test_many_more_of_the_official_one(try_official: Callable[[str, int], None], name: str) -> None:
    try_official(name, 100)


@pytest.mark.long
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("name", ALL)
def test_many_more_of_both(
    described: Any, try_operation: Callable[..., None], name: str, mode: GenerationMode
) -> None:
    try_operation(described, name, mode, examples=40)
