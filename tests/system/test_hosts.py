"""A mirrored config server, whatever its worker dies of: it is never left locked, and its snapshot is complete."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.auth import HTTPDigestAuth

from ebbtide.crash_points import CRASH_POINTS
from ebbtide.testing.running_service import RunningService
from ebbtide.testing.standalone import StandaloneLab

HOST_POINTS = [name for name in CRASH_POINTS if name.startswith("host.")]


@pytest.fixture(scope="module")
def standalone(mongod_binary: Path) -> Iterator[StandaloneLab]:
    with StandaloneLab(mongod_binary) as lab, lab.client() as client:
        client.config.chunks.insert_many([{"_id": f"shop.orders-{n}", "min": n} for n in range(100)])
        yield lab


@pytest.fixture(scope="module")
def service(new_service: Callable[..., RunningService]) -> Iterator[RunningService]:
    started = new_service().start()
    yield started
    started.stop()


def test_a_snapshot_is_taken_though_its_worker_dies_at_each_of_its_points(
    service: RunningService, standalone: StandaloneLab
) -> None:
    """One job, killed at each point in turn, in three lives of the service: its restarts get slower."""
    with service.client() as client:
        host = client.declare_host(
            service.group_id,
            {"address": standalone.address, "username": "copier", "password": standalone.password},
        )
    for points in (HOST_POINTS[:2], HOST_POINTS[2:4], HOST_POINTS[4:]):
        service.arm_crash(*points)
        with service.client() as client:
            taken = client.create_host_snapshot(service.group_id, host["id"])
            service.wait_until(service.has_crashed, f"crash points {points}")

            def complete(taken: Any = taken) -> Any:
                found = client.get_host_snapshot(service.group_id, host["id"], taken["id"])
                assert found["state"] != "FAILED", found
                return found if found["state"] == "COMPLETE" else None

            service.wait_until(complete, "the snapshot")
        assert not standalone.is_locked()
        service.terminate()
        service.start()
    check_download(service, host["id"], taken["id"])


def check_download(service: RunningService, host_id: str, snapshot_id: str) -> None:
    """A download of the snapshot, asked for in the family that hosts belong to."""
    base = f"{service.base_url}/api/public/v1.0/groups/{service.group_id}/hosts/{host_id}"
    with requests.Session() as session:
        session.auth = HTTPDigestAuth(service.connection.public_key, service.connection.private_key)
        listed = session.get(f"{base}/snapshots", timeout=60).json()
        assert snapshot_id == listed["results"][0]["id"]
        assert ("CONFIG_SERVER", host_id) == tuple(
            listed["results"][0]["parts"][0][name] for name in ("typeName", "hostId")
        )
        body = {"delivery": {"methodName": "HTTP"}, "snapshotId": snapshot_id}
        job = session.post(f"{base}/restoreJobs", json=body, timeout=60).json()
        assert (host_id, "IN_PROGRESS") == (job["hostId"], job["statusName"])
        assert base in [link["href"] for link in job["links"]]

        def ready() -> Any:
            found = session.get(f"{base}/restoreJobs/{job['id']}", timeout=60).json()
            return found if found["delivery"]["statusName"] == "READY" else None

        shown = service.wait_until(ready, "the download")
        assert "clusterId" not in shown
        assert requests.get(shown["delivery"]["url"], timeout=60).content[:2] == b"\x1f\x8b"
        missing = session.get(f"{base}/restoreJobs/{'0' * 24}", timeout=60).json()
        assert missing["errorCode"] == "CONFIG_RESTORE_JOB_NOT_FOUND"
