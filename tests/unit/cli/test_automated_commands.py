"""`ebbtide restores start --into`, `plan` and `undo`, and `clusters set --restore-target`: nothing without a yes."""

import json
from pathlib import Path
from typing import Any

import pytest

GROUP = "a" * 24
OWN = f"/api/ebbtide/v1/groups/{GROUP}"
JOB, SNAPSHOT = "5f00000000000000000000d1", "5f00000000000000000000e1"
ASKED = f"{OWN}/clusters/shop/automatedRestores"
UNDO = f"{OWN}/restoreJobs/{JOB}/undo"
PLAN = {
    "dryRun": True,
    "ok": True,
    "problems": [],
    "snapshotId": SNAPSHOT,
    "snapshotTimestamp": {"date": "2026-11-22T09:00:00Z", "increment": 1},
    "pointInTime": True,
    "limit": {"date": "2026-11-22T10:00:00Z", "increment": 7},
    "entriesToReplay": 1234,
    "targetClusterName": "shop",
    "everything": False,
    "namespaces": ["shop.orders"],
    "withUndo": True,
    "removed": [{"namespace": "shop.orders", "documents": 5, "sizeBytes": 1_500_000}],
    "removedBytes": 1_500_000,
}
DONE = {
    "id": JOB,
    "clusterId": "5f00000000000000000000c1",
    "statusName": "FINISHED",
    "deliveryStatusName": "READY",
    "automated": {
        "targetSays": "the restored data is on the target (shop)",
        "canBeUndone": True,
        "comparison": {"collections": 1, "documents": 5, "digestSkipped": False, "differences": []},
    },
}
BEGUN = DONE | {"statusName": "IN_PROGRESS"}
START = (
    "restores",
    "start",
    "shop",
    "--into",
    "shop",
    "--oplog",
    "1795341600:7",
    "--namespace",
    "shop.orders",
)


@pytest.fixture
def shop(connected: Any) -> Any:
    """An API with a cluster that is a target, and a restore that can be undone."""
    connected.compute("POST", ASKED, lambda body: (200, PLAN if body.get("dryRun") else BEGUN))
    connected.compute("POST", UNDO, lambda body: (200, PLAN if body.get("dryRun") else BEGUN))
    connected.answer("GET", f"{OWN}/restoreJobs/{JOB}", BEGUN, DONE)
    return connected


def begun(shop: Any, path: str) -> list[Any]:
    return [body for body in shop.bodies("POST", path) if not body.get("dryRun")]


def test_a_plan_names_what_goes_and_begins_nothing(shop: Any, ebbtide: Any) -> None:
    done = ebbtide("restores", "plan", "shop", "--into", "shop", "--at", "now", "--namespace", "shop.orders")
    assert done.code == 0
    assert "shop.orders: 5 documents, 1.50 MB" in done.stdout
    assert "about 1234 entries" in done.stdout
    assert begun(shop, ASKED) == []
    printed = ebbtide("restores", "plan", "shop", "--into", "shop", "--at", "now", "-o", "json")
    assert json.loads(printed.stdout) == PLAN


def test_a_plan_that_cannot_be_carried_out_says_why(shop: Any, ebbtide: Any) -> None:
    shop.answer(
        "POST", ASKED, PLAN | {"ok": False, "problems": ["the restore account lacks the roles restore"]}
    )
    done = ebbtide("restores", "plan", "shop", "--into", "shop", "--at", "now")
    assert done.code == 3
    assert "lacks the roles restore" in done.stderr


def test_without_a_terminal_nothing_is_replaced_unless_told(shop: Any, ebbtide: Any) -> None:
    done = ebbtide(*START)
    assert done.code == 2
    assert "--yes" in done.stderr
    assert begun(shop, ASKED) == []


def test_a_restore_is_begun_as_it_was_planned_and_waited_for(shop: Any, ebbtide: Any) -> None:
    done = ebbtide(*START, "--yes", "--no-compare", "--wait")
    assert done.code == 0, done.stderr
    assert "shop.orders: 5 documents" in done.stderr
    assert f"ebbtide restores undo {JOB}" in done.stdout
    expected = {
        "targetClusterName": "shop",
        "compare": False,
        "withUsersAndRoles": False,
        "undo": True,
        "oplogTs": 1795341600,
        "oplogInc": 7,
        "namespaces": ["shop.orders"],
    }
    assert begun(shop, ASKED) == [expected]


def test_a_restore_that_broke_says_in_what_state_the_target_is(shop: Any, ebbtide: Any) -> None:
    broken = DONE | {
        "statusName": "BROKEN",
        "reason": "2 differences",
        "automated": {"targetSays": "it differs"},
    }
    shop.answer("GET", f"{OWN}/restoreJobs/{JOB}", broken)
    done = ebbtide(*START, "--yes", "--wait")
    assert done.code == 11
    assert "2 differences" in done.stderr
    assert "it differs" in done.stderr


def test_undoing_shows_its_plan_and_asks_as_well(shop: Any, ebbtide: Any) -> None:
    assert ebbtide("restores", "undo", JOB).code == 2
    assert begun(shop, UNDO) == []
    done = ebbtide("restores", "undo", JOB, "--yes", "-o", "json")
    assert done.code == 0
    assert json.loads(done.stdout) == BEGUN
    assert begun(shop, UNDO) == [{}]


@pytest.mark.parametrize(
    "arguments",
    [
        ["restores", "start", "shop", "--namespace", "a.b"],
        ["restores", "start", "shop", "--rename-to", "a.b"],
        ["clusters", "set", "shop", "--restore-username", "u"],
        ["clusters", "set", "shop", "--restore-target", "on", "--default-mongod"],
        ["clusters", "set", "shop", "--restore-target", "off", "--restore-username", "u"],
        ["clusters", "set", "shop", "--restore-target", "on", "--restore-username", "u"],
    ],
)
def test_what_makes_no_sense_reaches_nobody(connected: Any, ebbtide: Any, arguments: list[str]) -> None:
    assert ebbtide(*arguments).code == 2
    assert connected.requests == []


def test_consent_sends_the_password_and_never_shows_it(connected: Any, ebbtide: Any, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("correct horse\n")
    path = f"{OWN}/clusters/shop/restoreTarget"
    connected.answer("POST", path, {"name": "shop", "restoreTarget": True, "restoreUsername": "restorer"})
    done = ebbtide(
        *("clusters", "set", "shop", "--restore-target", "on", "--restore-username", "restorer"),
        *("--restore-password-file", str(file)),
    )
    assert done.code == 0, done.stderr
    assert done.stdout == "restores may replace the data of shop\n"
    assert "correct horse" not in done.stdout + done.stderr
    (sent,) = connected.bodies("POST", path)
    assert sent == {
        "enabled": True,
        "username": "restorer",
        "password": "correct horse",
        "authSource": "admin",
    }
