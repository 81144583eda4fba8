"""What those see who watch: health without login, metrics for loopback and owners, on a real API."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import requests

from ebbtide.catalog.workers import WorkerRecord
from ebbtide.domain.access import Role
from ebbtide.domain.bounds import REPOSITORY_SPACE_ID, RepositorySpace
from ebbtide.domain.cluster import Head, HeadState
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.snapshot import SnapshotState


def fetch(service: Any, path: str, **options: Any) -> requests.Response:
    return requests.get(f"{service.url}{path}", timeout=60, **options)


def samples(text: str) -> dict[str, float]:
    """Each sample by its name and labels as they are written, but for those that name group and cluster ids."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[re.sub(r',(group_id|cluster_id)="[^"]*"', "", name)] = float(value)
    return found


def beat(service: Any, *, ago: timedelta = timedelta(0)) -> None:
    """A worker says that it is there."""
    record = WorkerRecord(id="w", boot_id="b", pid=1, start_ticks=1, heartbeat=service.clock.now() - ago)
    service.catalog.workers.put(record)


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Any]) -> Any:
    return start_service()


def test_who_lives_says_so(service: Any) -> None:
    answer = fetch(service, "/health/live")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert requests.head(f"{service.url}/health/live", timeout=60).status_code == 200
    assert requests.post(f"{service.url}/health/live", timeout=60).status_code == 405


def test_ready_means_catalog_worker_and_repository(service: Any) -> None:
    def ready() -> tuple[int, dict[str, Any]]:
        # An answer is kept for a second.
        service.wait_until(lambda: fetch(service, "/health/ready").json() != before)
        answer = fetch(service, "/health/ready")
        return answer.status_code, answer.json()

    first = fetch(service, "/health/ready")
    before = {"ok": False, "catalog": "ok", "worker": "none has reported lately", "repository": "ok"}
    assert (first.status_code, first.json()) == (503, before)

    beat(service)
    well = {"ok": True, "catalog": "ok", "worker": "ok", "repository": "ok"}
    assert ready() == (200, well)

    header = service.repository_path / "repository.json"
    aside = header.rename(header.with_suffix(".aside"))
    before = well
    broken = {"ok": False, "catalog": "ok", "worker": "ok", "repository": "cannot be read"}
    assert ready() == (503, broken)
    aside.rename(header)

    before = broken
    beat(service, ago=timedelta(seconds=31))
    assert ready()[1]["worker"] == "none has reported lately"


def test_metrics_tell_of_heads_snapshots_repository_jobs_and_requests(service: Any) -> None:
    now = service.clock.now()
    service.catalog.heads.insert(
        Head(
            id=service.cluster.id,
            state=HeadState.FOLLOWING,
            state_since=now,
            host="127.0.0.1",
            port=27018,
            dbpath="heads/x",
            lag_seconds=1.5,
            lock_job_id="SNAPSHOT:x",
            updated=now,
        )
    )
    service.clock.ahead = timedelta(seconds=-90)
    completed = now - timedelta(seconds=30)
    held = OplogTimestamp(int(service.clock.now().timestamp()), 1)
    snapshot = service.new_snapshot(completed=completed, stable_timestamp=held, lock_seconds=0.25)
    service.clock.ahead = timedelta(0)
    service.new_snapshot(state=SnapshotState.FAILED)
    service.catalog.repository_space.observe(
        RepositorySpace(
            id=REPOSITORY_SPACE_ID,
            free_bytes=70,
            total_bytes=100,
            least_free_bytes=5,
            is_low=False,
            since=now,
            updated=now,
        )
    )
    service.catalog.repository_space.record_used(30, now=now)
    service.new_job(snapshot)
    beat(service)
    fetch(service, "/no/such")

    answer = fetch(service, "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    found = samples(answer.text)
    name = f'{{cluster="{service.cluster.name}"}}'
    expected = {
        f"ebbtide_head_lag_seconds{name}": 1.5,
        f"ebbtide_head_locked{name}": 1.0,
        f"ebbtide_snapshots{name}": 1.0,
        f"ebbtide_last_snapshot_duration_seconds{name}": (completed - snapshot.created).total_seconds(),
        f"ebbtide_last_snapshot_lock_seconds{name}": 0.25,
        f"ebbtide_last_snapshot_file_bytes{name}": snapshot.file_size_bytes,
        f"ebbtide_last_snapshot_stored_bytes{name}": snapshot.stored_bytes,
        f"ebbtide_last_snapshot_new_stored_bytes{name}": snapshot.new_stored_bytes,
        f'ebbtide_head_state{{cluster="{service.cluster.name}",state="FOLLOWING"}}': 1.0,
        f'ebbtide_head_state{{cluster="{service.cluster.name}",state="DOWN"}}': 0.0,
        "ebbtide_repository_free_bytes": 70.0,
        "ebbtide_repository_total_bytes": 100.0,
        "ebbtide_repository_used_bytes": 30.0,
        "ebbtide_repository_least_free_bytes": 5.0,
        "ebbtide_repository_low_space": 0.0,
        'ebbtide_jobs{kind="RESTORE",state="QUEUED"}': 1.0,
        'ebbtide_jobs{kind="SNAPSHOT",state="FAILED"}': 0.0,
        "ebbtide_workers": 1.0,
    }
    assert expected == {sample: found.get(sample) for sample in expected}
    assert 90.0 <= found[f"ebbtide_last_snapshot_age_seconds{name}"] < 120.0
    assert found['ebbtide_api_requests_total{method="GET",status="404"}'] >= 1
    assert found["ebbtide_api_response_bytes_total"] > 0


def test_a_caller_cannot_make_up_labels(service: Any) -> None:
    requests.request("PROPFIND", f"{service.url}/health/live", timeout=60)
    text = fetch(service, "/metrics").text
    assert "PROPFIND" not in text
    assert 'method="other"' in text


def test_through_a_proxy_of_this_machine_a_key_is_needed(service: Any) -> None:
    assert fetch(service, "/metrics", headers={"X-Forwarded-For": "192.0.2.7"}).status_code == 401


@pytest.fixture(scope="module")
def closed(start_service: Callable[..., Any]) -> Any:
    return start_service(metrics__allow=[])


def test_other_addresses_need_a_key_that_owns_the_service(closed: Any) -> None:
    refused = fetch(closed, "/metrics")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Digest ")
    assert "ebbtide_" not in refused.text
    reader = closed.new_key(Role.GROUP_OWNER, group_id=closed.group.id)
    answer = closed.call("GET", "/metrics", key=reader)
    assert (answer.status_code, answer.json()["errorCode"]) == (401, "USER_UNAUTHORIZED")
    shown = closed.call("GET", "/metrics")
    assert shown.status_code == 200
    assert "ebbtide_build_info" in shown.text


def test_health_needs_no_login_and_names_nothing(closed: Any) -> None:
    answer = fetch(closed, "/health/ready")
    assert answer.json().keys() == {"ok", "catalog", "worker", "repository"}
    assert closed.cluster.name not in answer.text
    assert str(closed.repository_path) not in answer.text
