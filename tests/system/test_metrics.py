"""Watching a real `ebbtide serve`: ready once its worker works, and metrics of what that sees."""

from collections.abc import Callable

import httpx
import pytest

from ebbtide.api import health
from ebbtide.testing.running_service import RunningService


@pytest.fixture(scope="module")
def service(new_service: Callable[..., RunningService]) -> RunningService:
    # So much is never free: snapshots would wait, and the metrics say so.
    return new_service(environment={"EBBTIDE_REPOSITORY_MIN_FREE_BYTES": str(2**60)}).start()


def test_a_service_is_ready_once_its_worker_works_and_tells_of_its_repository(
    service: RunningService,
) -> None:
    with httpx.Client(base_url=service.base_url, trust_env=False, timeout=60) as client:
        assert client.get("/health/live").text == "ok\n"
        service.wait_until(lambda: client.get(health.READY_PATH).status_code == 200, "readiness")

        def shown() -> bool:
            lines = client.get("/metrics").text.splitlines()
            used = [line for line in lines if line.startswith("ebbtide_repository_used_bytes ")]
            return {"ebbtide_workers 1.0", "ebbtide_repository_low_space 1.0"} <= set(lines) and bool(used)

        service.wait_until(shown, "metrics of the repository")
