"""Checkpoints from the command line."""

import json
from typing import Any

import pytest
from scripted_api import error, listing

from ebbtide.cli import session

GROUP = "a" * 24
ID = "c" * 24
CLUSTER = f"/api/ebbtide/v1/groups/{GROUP}/clusters/bank"
PATH = f"{CLUSTER}/checkpoints"
PART = {
    "clusterName": "bank-shard0",
    "typeName": "REPLICA_SET",
    "tokenDiscovered": True,
    "tokenTimestamp": {"date": "2026-05-01T10:00:01Z", "increment": 2},
}
WANTED = {
    "id": ID,
    "clusterName": "bank",
    "state": "WANTED",
    "created": "2026-05-01T10:00:00Z",
    "restorable": False,
    "message": "waits for a worker",
    "parts": [],
}
NOTED = WANTED | {
    "state": "NOTED",
    "completed": "2026-05-01T10:00:02Z",
    "message": "waits for the oplog archive of bank-shard0",
    "clusterTime": {"date": "2026-05-01T10:00:01Z", "increment": 1},
    "parts": [PART | {"tokenDiscovered": False}],
}
COMPLETE = NOTED | {
    "state": "COMPLETE",
    "restorable": True,
    "message": "",
    "restoresTo": {"date": "2026-05-01T10:00:01Z", "increment": 1},
    "parts": [PART],
}


def test_list_tells_what_each_restores_to(connected: Any, ebbtide: Any) -> None:
    connected.answer("GET", PATH, listing(COMPLETE, WANTED | {"id": "d" * 24}))
    done = ebbtide("checkpoints", "list", "bank")
    assert done.code == 0
    assert "RESTORES TO" in done.stdout
    assert "2026-05-01T10:00:01Z increment 1" in done.stdout
    assert "WANTED" in done.stdout


def test_an_empty_list_says_what_to_do(connected: Any, ebbtide: Any) -> None:
    connected.answer("GET", PATH, listing())
    assert "ebbtide checkpoints take bank" in ebbtide("checkpoints", "list", "bank").stderr


def test_show_takes_the_newest_unless_told_otherwise(connected: Any, ebbtide: Any) -> None:
    connected.answer("GET", PATH, listing(NOTED))
    connected.answer("GET", f"{PATH}/{ID}", NOTED)
    done = ebbtide("checkpoints", "show", "bank")
    assert done.code == 0
    assert "2026-05-01T10:00:01Z increment 2, not archived yet" in done.stdout
    assert json.loads(ebbtide("checkpoints", "show", "bank", ID, "-o", "json").stdout) == NOTED


def test_show_needs_an_id_or_a_checkpoint(connected: Any, ebbtide: Any) -> None:
    assert ebbtide("checkpoints", "show", "bank", "5").code == 2
    connected.answer("GET", PATH, listing())
    nothing = ebbtide("checkpoints", "show", "bank")
    assert (nothing.code, "checkpoints take" in nothing.stderr) == (4, True)


def test_take_waits_until_it_is_complete(connected: Any, ebbtide: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(session, "POLL_SECONDS", 0.0)
    connected.answer("POST", PATH, WANTED)
    connected.answer("GET", f"{PATH}/{ID}", WANTED, NOTED, COMPLETE)
    done = ebbtide("checkpoints", "take", "bank")
    assert done.code == 0
    assert f"checkpoint {ID} of bank restores to 2026-05-01T10:00:01Z increment 1" in done.stdout


def test_take_says_why_it_cannot_be_restored_yet(connected: Any, ebbtide: Any) -> None:
    connected.answer("POST", PATH, WANTED)
    reason = "no complete snapshot of bank-config leads to it"
    connected.answer("GET", f"{PATH}/{ID}", COMPLETE | {"restorable": False, "message": reason})
    done = ebbtide("checkpoints", "take", "bank")
    assert (done.code, reason in done.stdout, "snapshots create bank" in done.stdout) == (0, True, True)


def test_take_fails_with_the_reason(connected: Any, ebbtide: Any) -> None:
    connected.answer("POST", PATH, WANTED)
    connected.answer("GET", f"{PATH}/{ID}", WANTED | {"state": "FAILED", "message": "shard1 does not answer"})
    done = ebbtide("checkpoints", "take", "bank")
    assert (done.code, "shard1 does not answer" in done.stderr) == (11, True)


def test_take_does_not_wait_if_told_so(connected: Any, ebbtide: Any) -> None:
    connected.answer("POST", PATH, WANTED)
    done = ebbtide("checkpoints", "take", "bank", "--no-wait")
    assert (done.code, f"ebbtide checkpoints show bank {ID}" in done.stdout) == (0, True)


def test_a_replica_set_has_none(connected: Any, ebbtide: Any) -> None:
    why = "bank is a replica set: checkpoints are of sharded clusters"
    connected.answer("POST", PATH, error(409, "REFUSED", why), status=409)
    done = ebbtide("checkpoints", "take", "bank")
    assert (done.code, why in done.stderr) == (3, True)


def test_the_interval_is_a_field_of_the_schedule(connected: Any, ebbtide: Any) -> None:
    schedule = {"snapshotIntervalHours": 6, "snapshotRetentionDays": 2, "clusterCheckpointIntervalMin": 15}
    connected.answer("PATCH", f"{CLUSTER}/snapshotSchedule", schedule)
    done = ebbtide("schedule", "set", "bank", "--checkpoints", "15")
    assert (done.code, "every 15 minutes" in done.stdout) == (0, True)
    assert connected.bodies("PATCH", f"{CLUSTER}/snapshotSchedule") == [{"clusterCheckpointIntervalMin": 15}]


def test_ids_complete_for_the_cluster_that_was_named(
    connected: Any, ebbtide: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    connected.answer("GET", PATH, listing(COMPLETE, WANTED | {"id": "d" * 24}))
    for name, value in (
        ("_EBBTIDE_COMPLETE", "complete_bash"),
        ("COMP_WORDS", "ebbtide checkpoints show bank c"),
        ("COMP_CWORD", "4"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        ebbtide()
    assert capfd.readouterr().out.strip() == ID
