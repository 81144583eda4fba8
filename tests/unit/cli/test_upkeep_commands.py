"""What keeps snapshots for how long, from the command line: schedules, keeping, deleting, prune."""

import json
from typing import Any

import pytest
from scripted_api import error, listing

GROUP = "a" * 24
SNAPSHOT = "c" * 24
OLD = "d" * 24
CLUSTER = f"/api/ebbtide/v1/groups/{GROUP}/clusters/shop"
PATH = f"{CLUSTER}/snapshots/{SNAPSHOT}"
SNAP = {"id": SNAPSHOT, "clusterName": "shop", "state": "COMPLETE", "doNotDelete": False}
SCHEDULE = {
    "snapshotIntervalHours": 12,
    "snapshotRetentionDays": 5,
    "referenceHourOfDay": 3,
    "referenceMinuteOfHour": 5,
    "referenceTimeZoneOffset": "+0200",
}
PRUNE = "/api/ebbtide/v1/repository/prune"
RUN = {
    "id": "e" * 24,
    "dryRun": False,
    "state": "DONE",
    "removedBytes": 3_000_000,
    "waitingBytes": 1_000_000,
    "replicaSets": [
        {
            "clusterId": "b" * 24,
            "replicaSetName": "rs0",
            "snapshots": 4,
            "removed": {"bytes": 3_000_000},
            "waiting": {"bytes": 1_000_000},
            "live": {"bytes": 9_000_000},
        }
    ],
}


def test_keep(connected: Any, ebbtide: Any) -> None:
    connected.answer("GET", f"{CLUSTER}/snapshots", listing(SNAP))
    connected.answer("PATCH", PATH, SNAP | {"doNotDelete": True})
    done = ebbtide("snapshots", "keep", "shop", "latest")
    assert done.code == 0
    assert f"snapshot {SNAPSHOT} of shop is kept until further notice" in done.stdout
    assert connected.bodies("PATCH", PATH) == [{"doNotDelete": True}]


@pytest.mark.parametrize(
    ("options", "body"),
    [(["--at", "2026-12-31"], {"expires": "2026-12-31"}), ([], {"doNotDelete": False})],
)
def test_expire(connected: Any, ebbtide: Any, options: list[str], body: Any) -> None:
    connected.answer("PATCH", PATH, SNAP | {"expires": "2026-12-31T00:00:00Z"})
    done = ebbtide("snapshots", "expire", "shop", SNAPSHOT, *options)
    assert done.code == 0
    assert "is kept until 2026-12-31T00:00:00Z" in done.stdout
    assert connected.bodies("PATCH", PATH) == [body]


def test_delete_says_how_to_bring_it_back(connected: Any, ebbtide: Any) -> None:
    atlas = f"/api/atlas/v1.0/groups/{GROUP}/clusters/shop/snapshots/{SNAPSHOT}"
    connected.answers["DELETE", atlas] = [(204, b"")]
    connected.answer("GET", PATH, SNAP | {"state": "DELETED", "pruneAfter": "2026-01-02T00:00:00Z"})
    done = ebbtide("snapshots", "delete", "shop", SNAPSHOT)
    assert done.code == 0, done.stderr
    assert f"ebbtide snapshots undelete shop {SNAPSHOT}" in done.stdout
    assert "2026-01-02T00:00:00Z" in done.stdout


def test_what_is_deleted_is_named(connected: Any, ebbtide: Any) -> None:
    assert ebbtide("snapshots", "delete", "shop", "latest").code == 2
    assert [method for method, *_ in connected.requests if method != "GET"] == []


def test_undelete(connected: Any, ebbtide: Any) -> None:
    connected.answer("POST", f"{PATH}/undelete", SNAP | {"expires": "2026-12-31T00:00:00Z"})
    done = ebbtide("snapshots", "undelete", "shop", SNAPSHOT)
    assert (done.code, "is back, kept until 2026-12-31T00:00:00Z" in done.stdout) == (0, True)
    connected.answer(
        "POST",
        f"{PATH}/undelete",
        error(409, "SNAPSHOT_NOT_UNDELETABLE", "its data is being removed already"),
        status=409,
    )
    refused = ebbtide("snapshots", "undelete", "shop", SNAPSHOT)
    assert (refused.code, "being removed" in refused.stderr) == (3, True)


def test_list_of_the_deleted(connected: Any, ebbtide: Any) -> None:
    gone = SNAP | {"id": OLD, "state": "DELETED", "removed": "2026-01-01T00:00:00Z"}
    there = SNAP | {"state": "DELETED", "pruneAfter": "2026-01-02T00:00:00Z"}
    connected.answer("GET", f"{CLUSTER}/snapshots", listing(there, gone))
    done = ebbtide("snapshots", "list", "shop", "--deleted")
    assert "2026-01-02T00:00:00Z" in done.stdout
    assert "gone" in done.stdout
    assert [q["deleted"] for m, p, q, _ in connected.requests if p == f"{CLUSTER}/snapshots"] == [["true"]]


def test_schedule(connected: Any, ebbtide: Any) -> None:
    path = f"{CLUSTER}/snapshotSchedule"
    connected.answer("GET", path, SCHEDULE)
    connected.answer("PATCH", path, SCHEDULE)
    shown = ebbtide("schedule", "show", "shop")
    assert (shown.code, "every 12 hours" in shown.stdout, "03:05" in shown.stdout) == (0, True, True)
    done = ebbtide(
        *("schedule", "set", "shop", "--every", "12", "--keep-days", "5", "--at", "3:05", "--offset", "+0200")
    )
    assert done.code == 0
    assert connected.bodies("PATCH", path) == [SCHEDULE]
    assert json.loads(ebbtide("schedule", "show", "shop", "-o", "json").stdout) == SCHEDULE


@pytest.mark.parametrize("options", [[], ["--at", "24:00"], ["--at", "noon"]])
def test_a_schedule_that_says_nothing_or_nonsense(connected: Any, ebbtide: Any, options: list[str]) -> None:
    assert ebbtide("schedule", "set", "shop", *options).code == 2
    assert connected.requests == []


def test_prune_waits_and_sums_up(connected: Any, ebbtide: Any) -> None:
    connected.answer("POST", PRUNE, RUN | {"state": "QUEUED", "replicaSets": []})
    connected.answer("GET", f"{PRUNE}/{RUN['id']}", RUN | {"state": "RUNNING"}, RUN)
    done = ebbtide("repository", "prune")
    assert done.code == 0, done.stderr
    assert "prune removed 3.00 MB; 1.00 MB wait to be removed" in done.stdout
    assert "9.00 MB" in done.stdout
    assert connected.bodies("POST", PRUNE) == [{"dryRun": False}]


def test_a_dry_run_says_so(connected: Any, ebbtide: Any) -> None:
    connected.answer("POST", PRUNE, RUN | {"dryRun": True})
    connected.answer("GET", f"{PRUNE}/{RUN['id']}", RUN | {"dryRun": True})
    assert "prune would remove 3.00 MB" in ebbtide("repository", "prune", "--dry-run").stdout
    assert connected.bodies("POST", PRUNE) == [{"dryRun": True}]


def test_a_prune_that_failed_is_an_error(connected: Any, ebbtide: Any) -> None:
    connected.answer("POST", PRUNE, RUN)
    connected.answer("GET", f"{PRUNE}/{RUN['id']}", RUN | {"state": "FAILED", "error": "no space"})
    failed = ebbtide("repository", "prune")
    assert (failed.code, "no space" in failed.stderr) == (11, True)
